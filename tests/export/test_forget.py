"""Forgotten clips leave a corpus for good; what was made from it is named, made again, and then proved to be free of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2raap.cli.data_export import exporters
from m2raap.core import tombstones
from m2raap.core.corpus import FORGETTING, keep_out, open_corpus, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_json
from m2raap.core.folder import read_timings
from m2raap.core.replace import replacing
from m2raap.core.scores import open_scores
from m2raap.core.tables import read_part
from m2raap.core.tombstones import sha256
from m2raap.core.view import View, open_view
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.schema import Completion, Request
from m2raap.export.corpus import curated_view, export
from m2raap.export.forget import forget, read_ids
from m2raap.export.leftovers import forgotten_hashes, leftovers
from m2raap.pipeline.inspect import check
from tests.conftest import digests, m2raap
from tests.core.test_stage import run as run_length
from tests.core.test_tables import clip, text
from tests.runs import copied, words

GONE = [3, 7, 8, 11]
EXPORTED = [kind for kind in exporters() if kind != "youtube8m-predictions"]  # no stage of the run has written tags


def all_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    parts = sorted((folder / table).glob("part-*.parquet"))
    return [row for part in parts for row in read_part(folder, table, int(part.stem.removeprefix("part-")))]


def unpacked(path: Path) -> bytes:
    """The content of a file, of a parquet file its cells, of an npz its members."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return b"\0".join(
            value if isinstance(value, bytes) else str(value).encode()
            for column in table.columns
            for cell in column.to_pylist()
            for value in (cell if isinstance(cell, list) else [cell])
        )
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as members:
            return b"\0".join(members.read(name) for name in members.namelist())
    return path.read_bytes()


def holding(root: Path, traces: list[bytes]) -> set[str]:
    """Files below `root` that hold one of the traces, found by brute force; not videos, nor tombstones: hex digits may spell an
    id."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".mp4"]
    paths = [path for path in paths if path.name != tombstones.FILE]
    return {str(path.relative_to(root)) for path in paths if any(trace in unpacked(path) for trace in traces)}


# ---- a whole run


@pytest.fixture(scope="module")
def forgotten(small_world: Path, undisturbed: Path, tmp_path_factory) -> dict[str, Any]:
    """A copy of the whole run with exports, a cache and notes in it: what forget did, what was left, and the run done again."""
    run, world = copied(undisturbed, small_world, tmp_path_factory.mktemp("forgotten"))
    arm = run / "m2raap"
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "report.html").write_text("strips and captions")
    view = curated_view(run)
    kept = [row["clip_id"] for part in view.parts() for row in part.clips if row["split"] == "train"]
    dropped = [row["clip_id"] for index in range(view.num_parts) for row in view.dropped(index)]
    tested = open_corpus(world / "test").all_rows("clips")[0]["clip_id"]
    copy_of, copy_id = next(
        (row["copy_of"], row["clip_id"]) for row in all_rows(arm / "align", "verdicts") if row["copy_of"]
    )
    ids = list(dict.fromkeys([kept[0], copy_of, dropped[0], tested]))
    texts = [t for name in ("train", "test") for t in open_corpus(world / name).all_rows("texts")]
    texts += all_rows(arm / "rewrite", "texts")
    others = {row["text"] for row in texts if row["clip_id"] not in ids}
    captions = sorted({row["text"] for row in texts if row["clip_id"] in ids} - others)
    frames = [row for folder in run.rglob("keyframes") for row in all_rows(folder, "frames")]
    other_jpegs = {jpeg for row in frames if row["clip_id"] not in ids for jpeg in row["jpegs"]}
    jpegs = sorted({jpeg for row in frames if row["clip_id"] in ids for jpeg in row["jpegs"]} - other_jpegs)
    assert len(captions) >= 4 and len(jpegs) >= 8
    for kind in EXPORTED:
        media = "frames" if kind in ("webdataset", "data-juicer") else None
        export(view, exporters(view)[kind], kind, run / "exports" / kind, media)
    answers = Cache(run / "cache" / "llm.sqlite")
    for clip_id in (ids[0], kept[5]):
        body = {"model": "m", "messages": [{"role": "user", "content": clip_id}], "max_tokens": 1}
        answers.put(Request(body, "prompt", ("en",), clip_id), Completion(f"answer about {clip_id}"))
    answers.close()
    (run / "notes.md").write_text(f"look at {ids[0]} again")
    (run / "cache" / "prefix" / "k").mkdir(parents=True)
    (run / "cache" / "prefix" / "k" / "tokens.part").write_bytes(b"tokens of all frames")
    traces = [i.encode() for i in ids] + [c.encode() for c in captions] + jpegs
    everywhere = holding(run, traces)
    summary = forget([world / "train", world / "test"], [*ids, "nobody"], [run], "withdrawn")
    return {
        "run": run, "arm": arm, "world": world, "ids": ids, "summary": summary, "traces": traces, "kept": kept[1],
        "copy_id": copy_id, "everywhere": everywhere,
    }  # fmt: skip


def check_forgotten(folder: Path, world: Path) -> dict[str, int]:
    """name of the corpus -> exit code of `check --forgotten`."""
    return {
        name: m2raap("status", folder, "--forgotten", world / name, check=None).returncode for name in ("train", "test")
    }


def test_the_corpora_hold_nothing_of_them_and_tombstones_name_nobody(forgotten: dict[str, Any]):
    world = forgotten["world"]
    for name in ("train", "test"):
        assert holding(world / name, forgotten["traces"]) == set()
        assert not list(leftovers(world / name, forgotten_hashes(world / name)))
    assert {row["state"] for row in check(world)} == {"ok"}
    train = open_corpus(world / "train")
    assert train.counts["forgotten"] == len(forgotten["ids"]) - 1
    assert open_corpus(world / "test").benchmark == "world-motion-minus-1"
    rows = tombstones.read(world / "train").by_id.values()
    assert {row.reason for row in rows} == {"withdrawn"} and all(row.traces and row.content for row in rows)


def test_caches_are_pruned_and_what_holds_them_is_named(forgotten: dict[str, Any]):
    run, arm, summary = forgotten["run"], forgotten["arm"], forgotten["summary"]
    assert summary["clips"] == len(forgotten["ids"]) and summary["not_found"] == ["nobody"]
    assert not (run / "report" / "report.html").exists() and not (run / "cache" / "prefix").exists()
    rows = sqlite3.connect(run / "cache" / "llm.sqlite").execute("SELECT content FROM answers").fetchall()
    assert len(rows) == 1 and forgotten["ids"][0] not in rows[0][0]
    left = summary["left_in"]
    stages = ("filter", "keyframes", "align", "rewrite", "bench-motion/embed")
    assert {str(arm / stage) for stage in stages} <= set(left["stages"])
    assert left["models"] == [str(arm / "adapt")]
    assert set(left["exports"]) == {str(run / "exports" / kind) for kind in EXPORTED}
    assert left["files"] == [str(run / "notes.md")]
    assert len(summary["video_files_left"]) == len(forgotten["ids"])
    assert all(Path(path).is_file() for path in summary["video_files_left"])


def test_check_finds_every_file_that_holds_them_and_a_run_with_force_makes_all_of_it_again(forgotten: dict[str, Any]):
    run, arm, world = forgotten["run"], forgotten["arm"], forgotten["world"]
    assert check_forgotten(run, world) == {"train": 1, "test": 1}
    places = [row for name in ("train", "test") for row in leftovers(run, forgotten_hashes(world / name))]
    assert holding(run, forgotten["traces"]) <= {str(row.path.relative_to(run)) for row in places}
    shown = m2raap("status", run, "--forgotten", world / "train", check=1).stdout
    assert f"{run / 'notes.md'}: line 1" in shown and "column clip_id" in shown
    shutil.rmtree(run / "exports")
    (run / "notes.md").unlink()

    again = words(world, run, "--workers", 1, "--until", "evaluate")
    refusal = m2raap(*again, check=1).stderr
    assert "inputs" in refusal or "corpus" in refusal
    assert "--force" in refusal
    scored_before = len(read_timings(arm / "keyframes"))
    m2raap(*again, "--force")
    rows = [row for row in read_timings(arm / "keyframes")[scored_before:] if row["phase"] == "score"]
    assert rows and sum(row["scored"] for row in rows) == 0, "clips that stayed were decoded again"
    assert not list(run.rglob("previous"))
    # The copy of a forgotten clip stays, and may be described in the same words; nothing else is left.
    of_copy = {row["text"] for row in all_rows(arm / "caption", "texts") if row["clip_id"] == forgotten["copy_id"]}
    left = [row for name in ("train", "test") for row in leftovers(run, forgotten_hashes(world / name))]
    assert of_copy and {row.value for row in left} <= of_copy
    assert check_forgotten(run, world) == {"train": int(bool(left)), "test": 0}
    assert holding(run, forgotten["traces"]) == set()
    assert {row["state"] for row in check(run)} == {"ok"}
    assert forgotten["kept"] in {row["clip_id"] for row in all_rows(arm / "keyframes", "frames")}
    assert forget([world / "train", world / "test"], [], [run])["left_in"] == (
        {"stages": [str(arm / "caption")]} if left else {}
    )


def test_an_import_does_not_bring_them_back(forgotten: dict[str, Any], small_world: Path, tmp_path: Path):
    """Neither into the same folder nor, with its tombstones, into another one; nor the same bytes under another name."""
    old = open_corpus(small_world / "train")
    clips, texts = old.all_rows("clips"), old.all_rows("texts")
    same = forgotten["world"] / "train"
    as_forgotten = open_corpus(same)
    more = {"video_root": old.video_root, "source": old.source, "num_parts": old.num_parts}
    renamed = [row | {"clip_id": "new" + row["clip_id"]} for row in clips]
    renamed_texts = [row | {"clip_id": "new" + row["clip_id"]} for row in texts]
    keep_out(tmp_path / "other", [same])
    other = write_corpus(tmp_path / "other", renamed, renamed_texts, **more)
    assert other.counts["forgotten"] == as_forgotten.counts["forgotten"]
    assert len(tombstones.read(tmp_path / "other")) == as_forgotten.counts["forgotten"]
    assert write_corpus(tmp_path / "again", clips, texts, **more).digest == old.digest
    shutil.copy(same / tombstones.FILE, tmp_path / "again" / tombstones.FILE)
    with replacing(True):
        assert write_corpus(tmp_path / "again", clips, texts, **more).digest == as_forgotten.digest
    stored = (same / tombstones.FILE).read_text()
    assert not any(clip_id in stored for clip_id in forgotten["ids"])


# ---- kill -9 at every single change of the disk, on a chain that takes milliseconds


def caption(number: int) -> str:
    return f"caption number {number} " + "word " * (number % 5)


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """A corpus, two stages over it, an unfinished third with an earlier state, and a loose list."""
    home = tmp_path_factory.mktemp("kill") / "k"
    clips = [clip(i) for i in range(16)]
    (home / "videos").mkdir(parents=True)
    for i in range(16):
        (home / "videos" / f"{i}.mp4").write_bytes(b"video %d" % i)
    texts = [text(i, text=caption(i)) for i in range(16)]
    write_corpus(home / "c", clips, texts, video_root=home / "videos", source={}, num_parts=2)
    run_length(View(home / "c"), home / "a", minimum=20)
    run_length(open_view(home / "a"), home / "b", minimum=5, mark="?")
    run_length(open_view(home / "b"), home / "d", minimum=5, mark=".")
    (home / "d" / "manifest.json").unlink()
    (home / "d" / "previous" / "texts").mkdir(parents=True)
    for name in ("plan.json", "texts/part-00000.parquet"):
        shutil.copy(home / ("a" if name == "plan.json" else "c") / name, home / "d" / "previous" / name)
    (home / "list.jsonl").write_text("".join(json.dumps({"clip_id": f"c{i:03d}"}) + "\n" for i in range(16)))
    return home


@pytest.fixture
def home(chain: Path, tmp_path: Path) -> Path:
    shutil.copytree(chain, tmp_path / "k")
    return tmp_path / "k"


def killed_at(change: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that is killed before its n-th change of the disk. False: it made fewer."""
    child = os.fork()
    if child == 0:
        changes_left = [change]

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def change_of_disk(*args: Any, **options: Any) -> Any:
                changes_left[0] -= 1
                if changes_left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            return change_of_disk

        for name in ("replace", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_anywhere_and_done_again_it_is_as_if_undisturbed(home: Path, tmp_path: Path):
    ids = [f"c{i:03d}" for i in GONE]
    shutil.copytree(home, tmp_path / "undisturbed")
    forget([tmp_path / "undisturbed" / "c"], ids, [tmp_path / "undisturbed"])
    traces = [i.encode() for i in ids] + [caption(i).encode() for i in GONE]
    assert holding(tmp_path / "undisturbed" / "c", traces) == set()
    expected = digests(tmp_path / "undisturbed")
    refused, kills = 0, 0
    for change in range(200):
        killed = tmp_path / "killed"
        shutil.copytree(home, killed)
        if not killed_at(change, lambda killed=killed: forget([killed / "c"], ids, [killed])):
            break
        kills += 1
        before = digests(killed)
        try:
            corpus = open_corpus(killed / "c")
            assert len(corpus.all_rows("clips")) in (16, 12), "half of it is shown"
        except M2raapError as error:
            refused += 1
            assert f"m2raap data forget {killed / 'c'}" in str(error)
        with contextlib.suppress(M2raapError):
            check(killed)
        assert digests(killed) == before, "a command that reads has changed something"
        m2raap("data", "forget", killed / "c", *[w for i in ids for w in ("--clip", i)], "--run", killed)
        assert digests(killed) == expected, change
        shutil.rmtree(killed)
    assert kills >= 6 and refused >= 3


def test_an_interrupted_forget_closes_the_corpus_to_every_command(home: Path, tmp_path: Path):
    manifest = read_json(home / "c" / "manifest.json")
    write_json(home / "c" / "manifest.json", manifest | {FORGETTING: 1})
    for command in (
        ("explain", "c004", "--in", home / "b"),
        ("status", home / "c", "--verify"),
        ("data", "export", "csv", home / "c", "--out", tmp_path / "E"),
        ("keyframes", home / "c", "--out", tmp_path / "K"),
    ):
        done = m2raap(*command, check=1)
        assert f"m2raap data forget {home / 'c'}" in done.stdout + done.stderr
    told = m2raap("data", "forget", home / "c", "--clip", "c003", "--clip", "nobody").stdout
    assert "corpora: nobody\n" in told and "c003" not in told
    m2raap("data", "forget", home / "c", "--clip", "nobody", check=1)
    assert open_corpus(home / "c").counts == manifest["counts"] | {"clips": 15, "texts": 15, "forgotten": 2}


def test_the_corpus_is_that_of_an_import_without_them(home: Path, tmp_path: Path):
    summary = forget([home / "c"], [f"c{i:03d}" for i in GONE])
    assert summary["corpora"] == {str(home / "c"): len(GONE)} and summary["left_in"] == {}
    stay = [i for i in range(16) if i not in GONE]
    texts = [text(i, text=caption(i)) for i in stay]
    write_corpus(tmp_path / "c", [clip(i) for i in stay], texts, video_root=home / "videos", source={}, num_parts=2)
    assert open_corpus(tmp_path / "c").digest == open_corpus(home / "c").digest
    assert open_corpus(home / "c").counts == open_corpus(tmp_path / "c").counts | {"forgotten": len(GONE)}


def test_forgetting_twice_changes_nothing_and_a_run_that_was_left_out_catches_up(home: Path):
    forget([home / "c"], ["c003"])
    digest = open_corpus(home / "c").digest
    summary = forget([home / "c"], [], [home])
    assert summary["clips"] == 0 and open_corpus(home / "c").digest == digest
    assert set(summary["left_in"]["stages"]) == {str(home / name) for name in "abd"}
    assert summary["left_in"]["files"] == [str(home / "list.jsonl")]
    assert summary["pruned"] == [str(home / "d" / "previous")]
    (home / "link").symlink_to("c")
    assert forget([home / "c", home / "link", home / "c"], ["c004"])["corpora"] == {str(home / "c"): 1}
    assert open_corpus(home / "c").counts["forgotten"] == 2
    digest = open_corpus(home / "c").digest
    stones = home / "c" / "tombstones.json"
    whole = stones.read_bytes()
    stones.write_bytes(whole[:-9])
    assert any("tombstones.json" in fault for row in check(home / "c") for fault in row["faults"])
    stones.write_bytes(whole)
    again = forget([home / "c"], ["c003"])
    assert again["clips"] == 0 and again["not_found"] == [] and open_corpus(home / "c").digest == digest


def test_an_unfinished_training_that_holds_weights_is_named(home: Path):
    inputs = {"corpus": open_corpus(home / "c").digest, "b": read_json(home / "b" / "manifest.json")["digest"]}
    for name, other in (("trained", inputs), ("begun", inputs), ("of_other_clips", dict.fromkeys(inputs, "0" * 64))):
        plan = {"stage": "adapt", "version": 1, "settings": {}, "inputs": other, "num_parts": 2}
        write_json(home / name / "plan.json", plan)
        if name != "begun":
            (home / name / "scratch").mkdir()
            (home / name / "scratch" / "checkpoint.pt").write_bytes(b"weights")
    assert forget([home / "c"], ["c003"], [home])["left_in"]["models"] == [str(home / "trained")]


def test_scores_that_the_user_brought_are_named_and_may_keep_their_rows(home: Path):
    rows = [{"clip_id": f"c{i:03d}", "nsfw": i / 16} for i in range(16)]
    scores = home.parent / "nsfw.parquet"
    pq.write_table(pa.Table.from_pylist(rows), scores)
    summary = forget([home / "c"], ["c003"], [scores])
    assert summary["left_in"]["files"] == [str(scores)] and pq.read_table(scores).num_rows == 16
    open_scores.cache_clear()
    view = View(home / "c").with_scores((scores,))
    assert "c003" not in {row["clip_id"] for part in view.parts() for row in part.clips}
    pq.write_table(pa.Table.from_pylist([*rows, {"clip_id": "strange", "nsfw": 0.5}]), scores)
    open_scores.cache_clear()
    with pytest.raises(M2raapError, match="strange"):
        View(home / "c").with_scores((scores,))


def test_a_limit_still_means_the_same_clips(home: Path):
    before = View(home / "c").limited(8)
    clips = {row["clip_id"] for part in before.parts() for row in part.clips}
    forget([home / "c"], [min(clips)])
    after = View(home / "c").limited(8)
    assert after.cutoff == before.cutoff
    assert {row["clip_id"] for part in after.parts() for row in part.clips} == clips - {min(clips)}


def test_videos_that_an_import_copied_go_too(tmp_path: Path):
    (tmp_path / "c" / "videos").mkdir(parents=True)
    for name in ("0", "1"):
        (tmp_path / "c" / "videos" / f"{name}.mp4").write_bytes(name.encode())
    clips = [clip(0), clip(1), clip(2, video="1.mp4", start_s=1.0)]
    write_corpus(tmp_path / "c", clips, [text(i) for i in range(3)], video_root=tmp_path / "c" / "videos", source={})
    summary = forget([tmp_path / "c"], ["c000", "c001"])
    assert [path.name for path in (tmp_path / "c" / "videos").iterdir()] == ["1.mp4"]  # another clip is cut out of it
    assert summary["video_files_left"] == []


def test_a_text_that_another_clip_has_is_no_trace(tmp_path: Path):
    texts = [text(i, text="a red circle moves" if i < 2 else f"caption {i}") for i in range(3)]
    write_corpus(tmp_path / "c", [clip(i) for i in range(3)], texts, video_root=tmp_path, source={})
    forget([tmp_path / "c"], ["c000"])
    assert sha256("a red circle moves") not in forgotten_hashes(tmp_path / "c")
    forget([tmp_path / "c"], ["c001"])
    hashes = forgotten_hashes(tmp_path / "c")
    assert sha256("a red circle moves") in hashes
    for name, content in {"a.json": json.dumps({"x": [json.dumps({"y": "a red circle moves"})]}), "c001.0.jpg": "x",
                          "b.csv": "id,n\nc000,1\n", "c.html": "<td>a red circle moves</td>",
                          "d.jsonl": '{"note": "a copy of c001"}\n', "e.txt": "nothing"}.items():  # fmt: skip
        (tmp_path / name).write_text(content)
    places = {row.path.name for row in leftovers(tmp_path, hashes)}
    assert places == {"a.json", "b.csv", "c.html", "d.jsonl", "c001.0.jpg"}
    (tmp_path / "e.parquet").write_bytes(b"PAR1 no")
    assert [row.path.name for row in leftovers(tmp_path, hashes) if not row.is_readable] == ["e.parquet"]


def test_bad_lists_and_folders_are_named(tmp_path: Path, home: Path):
    for corpora, runs, what in (
        ([tmp_path / "nowhere"], [], "nowhere: "),
        ([home / "c"], [tmp_path / "nowhere"], "nowhere: "),
        ([home / "a"], [], "length.*corpus folder"),
    ):
        with pytest.raises(M2raapError, match=what):
            forget(corpora, ["x"], runs)
    (tmp_path / "run" / "report").mkdir(parents=True)
    for name in ("run.json", "report/report.html"):
        (tmp_path / "run" / name).write_text("{}")
    assert forget([home / "c"], ["nobody"], [tmp_path / "run"])["not_found"] == ["nobody"]
    assert (tmp_path / "run" / "report" / "report.html").exists(), "nothing was forgotten, so no report shows it"
    before = digests(home)
    with pytest.raises(M2raapError, match="16"):
        forget([home / "c"], [f"c{i:03d}" for i in range(16)])
    assert digests(home) == before
    assert "c" in m2raap("status", home, "--forgotten", home / "c", check=1).stderr
    forget([home / "c"], ["c003"])
    lines = m2raap("status", home / "a", "--forgotten", home / "c", check=1).stdout.splitlines()
    assert any("'c003'" in line for line in lines)
    assert len({line.partition(": ")[0] for line in lines}) == len(lines), "one line a file"
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(M2raapError, match=r"ids.txt: "):
        read_ids(tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_text("\ufeffa\r\n\r\n b \na\n", encoding="utf-8")
    assert read_ids(tmp_path / "ids.txt") == ["a", "b"]
    (tmp_path / "ids.txt").write_text("a\u2028b\nc\n", encoding="utf-8")
    assert read_ids(tmp_path / "ids.txt") == ["a\u2028b", "c"]
    for content in ("{}", "[]", '{"kind": "tombstones", "stones": [{"x": 1}]}'):
        (tmp_path / "stones.json").write_text(content)
        with pytest.raises(M2raapError, match=r"stones.json"):
            keep_out(tmp_path / "new", [tmp_path / "stones.json"])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    forget([home / "c"], ["c003"])
    with pytest.raises(M2raapError, match="thesis"):
        keep_out(tmp_path / "thesis", [home / "c"])
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_an_id_with_blanks_and_brackets_is_found_in_a_text(tmp_path: Path):
    for number, line in enumerate(("clip (1)", "look at clip (1), again", "see (c.1)", "'clip (1)'", "clip (2)")):
        (tmp_path / f"{number}.txt").write_text(f"first\n{line}\n")
    hashes = frozenset(sha256(clip_id) for clip_id in ("clip (1)", "(c.1)"))
    assert {row.path.name for row in leftovers(tmp_path, hashes)} == {"0.txt", "1.txt", "2.txt", "3.txt"}


def test_the_twin_of_a_forgotten_clip_names_it_no_longer(tmp_path: Path):
    clips = [clip(i, twin_id=f"c{i ^ 1:03d}") for i in range(4)]
    texts = [text(i) for i in range(4)]
    write_corpus(tmp_path / "c", clips, texts, video_root=tmp_path, source={}, num_parts=3)
    forget([tmp_path / "c"], ["c000"], [], "withdrawn")
    assert {row["clip_id"]: row["twin_id"] for row in open_corpus(tmp_path / "c").all_rows("clips")} == {
        "c001": None, "c002": "c003", "c003": "c002",
    }  # fmt: skip
    keep_out(tmp_path / "d", [tmp_path / "c"])
    again = write_corpus(tmp_path / "d", clips, texts, video_root=tmp_path, source={}, num_parts=3)
    assert again.all_rows("clips") == open_corpus(tmp_path / "c").all_rows("clips")
