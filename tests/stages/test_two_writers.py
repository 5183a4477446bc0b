"""Two commands on one folder, in every stage: one finishes it, the other is refused, and `check` finds no fault.

The second command comes at seeded changes of the disk by the first; nothing waits for a clock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, read_json, write_json
from m2raap.core.folder import manifest_digest
from m2raap.core.lock import locked
from m2raap.core.runner import run_data_stage
from m2raap.core.view import open_view
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.pipeline.inspect import check
from m2raap.pipeline.recipe import Recipe, load_recipe
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.embed import EmbedStage
from m2raap.stages.evaluate import EvaluateStage
from tests.conftest import as_another_command, digests, m2raap
from tests.core.test_stage import make_corpus
from tests.core.test_stage import run as run_length
from tests.runs import RECIPE, copied, words

MOMENTS = 20
SYNCED = ("replace", "fsync")  # what every write of a whole file does


@contextlib.contextmanager
def at_changes(monkeypatch: pytest.MonkeyPatch, visit: Callable[[int], None]) -> Iterator[None]:
    """Calls `visit(n)` before the n-th change of the disk in the block; changes by `visit` itself do not count."""
    count, visiting = [0], [False]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            if not visiting[0]:
                visiting[0], count[0] = True, count[0] + 1
                try:
                    visit(count[0] - 1)
                finally:
                    visiting[0] = False
            return real(*args, **options)

        return change

    with monkeypatch.context() as patched:
        for name in SYNCED:
            patched.setattr(os, name, counted(getattr(os, name)))
        yield


def seeded_moments(monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[[], object], most: int = 4) -> set[int]:
    """The numbers of a few of the changes of the disk by `work`: the same lock protects all of them."""
    seen: list[int] = []
    with at_changes(monkeypatch, seen.append):
        work()
    return set(random.Random(name).sample(seen, min(most, len(seen))))


def messages_at(
    monkeypatch: pytest.MonkeyPatch, moments: set[int], first: Callable[[], object], second: Callable[[], object]
) -> list[str]:
    """Runs `first` and, at the moments, `second` as another command; returns the errors of `second`, '' for none."""
    messages: list[str] = []

    def another(change: int) -> None:
        if change in moments:
            try:
                as_another_command(second)
                messages.append("")
            except M2raapError as error:
                messages.append(str(error))

    with at_changes(monkeypatch, another):
        first()
    return messages


def on_command_line(*words: object) -> None:
    """Runs a command; raises M2raapError with its output where it fails."""
    done = m2raap(*words, check=None)
    if done.returncode:
        raise M2raapError(done.stderr)


# Of every stage: what it reads (W: the world, R: the arm of a finished run), and a setting that makes it another folder.
STAGES = {
    "filter": ("{W}/train", "filter.text.rules.text_too_short.en=5"),
    "keyframes": ("{R}/filter", "keyframes.k=3"),
    "align": ("{R}/keyframes", "align.mismatch.limit.min=0.5"),
    "caption": ("{R}/align", "caption.frames=2"),
    "rewrite": ("{R}/caption", "rewrite.fill_missing=true"),
    "adapt": ("{R}/rewrite", "adapt.steps=3"),
    "embed": ("{R}/../zero_shot/bench-motion/keyframes", "embed.frame_ablations=[shuffled]"),
    "evaluate": ("{R}/bench-motion/embed", "evaluate.dual_softmax=50"),
}


@pytest.mark.parametrize("stage", list(STAGES))
def test_the_second_command_on_a_stage_is_told(
    stage: str, small_world: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, other = STAGES[stage]
    read = source.format(W=small_world, R=undisturbed / "m2raap")
    how = ("--recipe", RECIPE, *(() if stage in ("adapt", "evaluate") else ("--workers", 1)))
    whole, out = undisturbed / "m2raap" / stage, tmp_path / "out" / stage
    if stage == "embed":
        how = (*how, "--set", "embed.frame_ablations=[]")
        whole = undisturbed / "zero_shot" / "bench-motion" / stage
    elif stage == "evaluate":
        whole = undisturbed / "m2raap" / "bench-motion" / stage
    written = sum(path.is_file() for path in whole.rglob("*"))
    moments = set(random.Random(stage).sample(range(3 * written), min(MOMENTS, 3 * written)))
    second = with_force(stage, Path(read), out, load_recipe(str(RECIPE), [other]))
    messages = messages_at(monkeypatch, moments, lambda: m2raap(stage, read, "--out", out, *how), second)
    assert len(messages) >= min(MOMENTS, 2 * written) / 2
    assert all(f"{out}: another m2raap (process {os.getpid()} " in text for text in messages), messages
    assert files_of(out) == files_of(whole)
    assert {row["state"] for row in check(out)} == {"ok"}


def with_force(stage: str, read: Path, out: Path, recipe: Recipe) -> Callable[[], object]:
    """What the command line calls for a stage with --force."""
    if stage == "evaluate":
        return lambda: EvaluateStage(recipe.evaluate).run_on(read, "custom", out, True)
    view = open_view(read)
    if stage == "embed":
        return lambda: EmbedStage(recipe.embed).run_on(view, recipe.backbone, out, True)
    if stage == "adapt":
        return lambda: AdaptStage(recipe.adapt, recipe.shared).run_on(view, out, True)
    return lambda: run_data_stage(recipe.stage(stage), view, out, LocalEngine(1), force=True)


def files_of(folder: Path) -> dict[str, str]:
    """The bytes of a stage's files; of its manifest what does not say where its parents lie."""
    return digests(folder) | {"manifest.json": read_json(folder / "manifest.json")["digest"]}


def test_the_second_import_export_index_run_and_report_are_told(
    small_world: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, world = copied(undisturbed, small_world, tmp_path)
    videos = sorted((world / "videos" / "test").iterdir())[:2]
    listing = tmp_path / "list.csv"
    listing.write_text("video,caption\n" + "".join(f"{path.name},a round thing moves\n" for path in videos))
    commands: dict[str, tuple[object, ...]] = {
        "corpus": ("data", "import", "table", listing, "--video-dir", videos[0].parent, "--out"),
        "csv": ("data", "export", "csv", run, "--out"),
        "index": ("search", "index", run / "m2raap" / "rewrite", "--model", "builtin:tiny", "--out"),
        "model": ("model", "export", run / "m2raap" / "adapt", "--to", "hub", "--out"),
    }
    for name, command in commands.items():
        moments = seeded_moments(monkeypatch, name, lambda c=command, n=name: m2raap(*c, tmp_path / f"{n}-whole"))
        out = tmp_path / name
        messages = messages_at(
            monkeypatch,
            moments,
            lambda c=command, o=out: m2raap(*c, o),
            lambda c=command, o=out: on_command_line(*c, o),
        )
        others = [text for text in messages if "another m2raap (process" not in text]
        assert messages and not others, (name, others)
        assert digests(out) == digests(tmp_path / f"{name}-whole"), name
    again = words(world, run, "--until", "evaluate")
    for first in (again, ["report", "write", str(run)]):
        moments = seeded_moments(monkeypatch, first[0], lambda f=first: m2raap(*f))
        messages = messages_at(monkeypatch, moments, lambda f=first: m2raap(*f), lambda f=first: on_command_line(*f))
        assert messages and all("another m2raap (process" in text for text in messages), (first[0], messages)
    assert {row["state"] for row in check(run)} == {"ok"}


OTHERS: dict[str, tuple[str, ...]] = {
    "split": ("data", "split", "{videos}", "--min-s", "0", "--workers", "1", "--out"),
    "bank": ("evaluate", "{R}/bench-motion/embed", "--bank", "{W}/train", "--model", "{R}/adapt", "--out"),
    "mixture": ("model", "interpolate", "{R}/adapt", "--alpha", "0.5", "--out"),
    "open_clip": ("model", "export", "{R}/adapt", "--to", "open_clip", "--out"),
    "webdataset": ("data", "export", "webdataset", "{R}/rewrite", "--out"),
    "videofolder": ("data", "export", "videofolder", "{R}/rewrite", "--out"),
    "data-juicer": ("data", "export", "data-juicer", "{R}/rewrite", "--out"),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_the_second_of_the_other_commands_is_told(
    name: str, small_world: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "videos").mkdir()
    for path in sorted((small_world / "videos" / "test").iterdir())[:2]:
        shutil.copy(path, tmp_path / "videos")
    places = {"W": small_world, "R": undisturbed / "m2raap", "videos": tmp_path / "videos"}
    command = [word.format(**places) for word in OTHERS[name]]
    whole, out = tmp_path / "whole" / name, tmp_path / "out" / name
    moments = seeded_moments(monkeypatch, name, lambda: m2raap(*command, whole), 2)
    messages = messages_at(monkeypatch, moments, lambda: m2raap(*command, out), lambda: on_command_line(*command, out))
    assert len(messages) == len(moments) and all("another m2raap (process" in text for text in messages), messages
    assert digests(out.parent) == digests(whole.parent)


# Runs the command line in a process of its own that stops itself before its n-th change of the disk.
STOPPED = """
import os, signal, sys
left = [int(sys.argv.pop(1))]
real = os.replace
def replace(*args, **options):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    return real(*args, **options)
os.replace = replace
from m2raap.cli import main
sys.argv[0] = "m2raap"
main.main()
"""


@pytest.mark.parametrize("change", [8, 13])
def test_a_paused_command_keeps_its_folder_and_a_killed_one_does_not(small_world: Path, tmp_path: Path, change: int):
    """As on a laptop that slept, after Ctrl-Z or on a slow node: other settings must wait, or they redo the whole folder."""
    out = tmp_path / "out" / "filter"
    first = ["filter", str(small_world / "train"), "--out", str(out), "--workers", "1"]
    other = (*first, "--set", "filter.text.rules.text_too_short.en=6", "--force")
    m2raap(*other[:3], tmp_path / "other" / "filter", *other[4:])
    m2raap(*first[:3], tmp_path / "whole" / "filter", *first[4:])
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(change), *first], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.waitpid(process.pid, os.WUNTRACED)
    assert f"another m2raap (process {process.pid} " in m2raap(*other, check=1).stderr
    if change % 2:
        process.kill()
        process.wait()
        m2raap(*other)
        assert digests(out) == digests(tmp_path / "other" / "filter")
    else:
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(60) == 0
        assert digests(out) == digests(tmp_path / "whole" / "filter")
    assert {row["state"] for row in check(out)} == {"ok"}


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without locks, or for a worker of another machine that has outlived its command."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_without_locks_the_first_finds_that_its_folder_was_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_locks: None
):
    view = make_corpus(tmp_path / "c", range(24), num_parts=4)
    run_length(view, tmp_path / "first", minimum=10)
    run_length(view, tmp_path / "second", minimum=16, mark="?")
    moments = seeded_moments(monkeypatch, "no locks", lambda: run_length(view, tmp_path / "counted"), MOMENTS)
    states: list[str] = []
    for moment in sorted(moments - {0, 1, 2}):  # before its plan is written it has not begun
        out = tmp_path / f"at-{moment}"

        def second(change: int, moment: int = moment, out: Path = out) -> None:
            if change == moment:
                as_another_command(lambda: run_length(view, out, minimum=16, mark="?", force=True))

        with at_changes(monkeypatch, second), contextlib.suppress(M2raapError):
            run_length(view, out, minimum=10)
        (row,) = check(out)
        states.append(row["state"])
        if row["state"] == "ok":
            assert signed(out) in (signed(tmp_path / "second"), signed(tmp_path / "first")), moment
    assert "ok" in states and len(states) >= 12


def signed(folder: Path) -> dict[str, str]:
    """Without the records of single parts, by which a stage resumes: of one, the first command may have taken its own away."""
    return {name: digest for name, digest in digests(folder).items() if not name.startswith("done/")}


def test_a_folder_of_an_older_version_is_made_again_where_it_has_to_be(tmp_path: Path):
    """Whose records name no settings: a finished folder stays, the parts of an unfinished one are made again."""
    view = make_corpus(tmp_path / "c", range(12), num_parts=2)
    run_length(view, tmp_path / "s", minimum=10)
    whole = digests(tmp_path / "s")
    for path in sorted((tmp_path / "s" / "done").iterdir()):
        record = read_json(path)
        record["score"] = record.pop("settings")
        write_json(path, record)
    assert run_length(view, tmp_path / "s", minimum=10)
    assert any("the key 'settings'" in fault for fault in next(iter(check(tmp_path / "s")))["faults"])
    shutil.copytree(tmp_path / "s", tmp_path / "forced")
    run_length(view, tmp_path / "forced", minimum=16, force=True)
    (tmp_path / "s" / "manifest.json").unlink()
    run_length(view, tmp_path / "s", minimum=10)
    assert digests(tmp_path / "s") == whole
    assert {row["state"] for row in check(tmp_path / "forced")} == {"ok"}


def test_check_finds_parts_of_other_settings_under_one_manifest(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(24), num_parts=4)
    run_length(view, tmp_path / "s", minimum=10)
    run_length(view, tmp_path / "t", minimum=16)
    shutil.copytree(tmp_path / "s", tmp_path / "u")
    manifest, record = (read_json(tmp_path / "u" / name) for name in ("manifest.json", "done/apply-00002.json"))
    for name in ("dropped", "verdicts"):  # as two commands at once would have signed it
        part = tmp_path / "u" / name / "part-00002.parquet"
        shutil.copy(tmp_path / "t" / name / part.name, part)
        manifest["files"][f"{name}/00002"] = record["files"][f"{name}/00002"] = file_sha256(part)
    write_json(tmp_path / "u" / "manifest.json", manifest | {"digest": manifest_digest(manifest)})
    write_json(tmp_path / "u" / "done" / "apply-00002.json", record)
    shutil.copy(tmp_path / "t" / "done" / "apply-00001.json", tmp_path / "u" / "done")
    faults = next(row for row in check(tmp_path / "u"))["faults"]
    for name in ("done/apply-00001.json", "dropped/part-00002.parquet", "verdicts/part-00002.parquet"):
        assert f"{tmp_path / 'u' / name}: was made with other settings than the manifest names" in faults, faults
    shutil.copy(tmp_path / "t" / "plan.json", tmp_path / "s")
    assert any("plan.json: the key 'settings'" in fault for fault in next(iter(check(tmp_path / "s")))["faults"])
    (tmp_path / "s" / "manifest.json").write_text((tmp_path / "t" / "manifest.json").read_text().replace("16", "15"))
    assert any("was changed after it was signed" in fault for fault in next(iter(check(tmp_path / "s")))["faults"])


def test_a_whole_stage_that_was_redone_meanwhile_is_not_signed(tmp_path: Path, no_locks: None):
    def work(folder: Path) -> StageOutput:
        (folder / "result.txt").write_text("first")
        as_another_command(lambda: run_single_stage("w", 1, {"a": 2}, folder, lambda _: other(folder), force=True))
        return StageOutput(["result.txt"])

    def other(folder: Path) -> StageOutput:
        (folder / "result.txt").write_text("second")
        return StageOutput(["result.txt"])

    with pytest.raises(M2raapError, match="w: another command"):
        run_single_stage("w", 1, {"a": 1}, tmp_path / "w", work)
    assert {row["state"] for row in check(tmp_path)} == {"ok"}
    assert (tmp_path / "w" / "result.txt").read_text() == "second"


def test_a_redo_that_is_cut_off_anywhere_is_whole_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The content is moved to previous/ file by file: after an interruption both the old and the new command go on."""
    view = make_corpus(tmp_path / "c", range(12), num_parts=2)
    run_length(view, tmp_path / "old", minimum=10)
    run_length(view, tmp_path / "new", minimum=16)

    class Cut(Exception):
        pass

    for cut in range(9):
        for command in ("old", "new"):
            out = tmp_path / f"{cut}-{command}"
            shutil.copytree(tmp_path / "old", out)
            target = tmp_path / f"{cut}-{command}-link"
            target.symlink_to(out)  # a folder on another disk, by a link of the user's own

            def stop(change: int, cut: int = cut) -> None:
                if change == cut:
                    raise Cut

            with at_changes(monkeypatch, stop), contextlib.suppress(Cut):
                run_length(view, target, minimum=16, force=True)
            run_length(view, target, minimum=16 if command == "new" else 10, force=True)
            assert digests(out) == digests(tmp_path / command), (cut, command)
            assert target.is_symlink()


def test_shares_that_run_at_once_make_one_stage_and_a_whole_run_is_told(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "shares" / "filter"
    command = ["filter", str(small_world / "train"), "--out", str(out), "--workers", "1"]
    shares = [
        subprocess.Popen(
            [sys.executable, "-m", "m2raap.cli.main", *command, "--parts", f"{number}/2"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2)
    ]
    talk = [share.communicate(timeout=100)[1] for share in shares]
    assert [share.returncode for share in shares] == [0, 0], talk
    m2raap(*command[:3], tmp_path / "whole" / "filter", *command[4:])
    assert digests(out) == digests(tmp_path / "whole" / "filter")
    monkeypatch.setattr("m2raap.core.folder.PATIENCE_S", 0.1)
    with locked(out, shared=True):  # as by a share that is still at work
        again = (*command, "--set", "filter.text.rules.text_too_short.en=6", "--force")
        for parts in ((), ("--parts", "1/2")):
            messages = as_another_command(lambda p=parts: m2raap(*again, *p, check=1).stderr)
            assert "another m2raap" in str(messages)
        as_another_command(lambda: m2raap(*command, "--parts", "1/2"))
    assert digests(out) == digests(tmp_path / "whole" / "filter")
