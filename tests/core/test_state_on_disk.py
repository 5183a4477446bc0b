"""Files of m2raap that are lost, damaged or of another shape: whoever reads them says so, and none is taken for an empty one."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest

from m2raap.core import libraries
from m2raap.core.errors import M2raapError
from m2raap.core.files import MAX_DEPTH, file_sha256, read_json, write_json
from m2raap.core.frames import FrameReader
from m2raap.core.libraries import installed
from m2raap.core.replace import refuse_other_source
from m2raap.core.signed import FORMAT, manifest_digest, named_files, read_manifest, verify_files
from m2raap.core.state import remember_run, runs_of
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View, open_view
from m2raap.export.forget import forget
from m2raap.pipeline.inspect import check
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.examples import examples
from m2raap.retrieval.results_file import other_results
from m2raap.stages.rules import StageRules
from m2raap.stages.training_log import training_summary
from tests.conftest import digests, m2raap, sign_again
from tests.core.test_stage import SCORED, make_corpus
from tests.core.test_stage import run as run_length
from tests.search.world import rows, view_of

ROOT = Path(__file__).parent.parent.parent
CHEAP = ("status", "explain", "data", "report")  # commands that load no model


@pytest.fixture
def length(tmp_path: Path) -> Path:
    """A stage folder over a corpus of 3 parts."""
    run_length(make_corpus(tmp_path / "c", range(20)), tmp_path / "s")
    return tmp_path / "s"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def read_everything(view: View) -> None:
    for part in view.parts(("texts", "frames", "signals")):
        view.dropped(part.index)


@pytest.mark.parametrize(
    "table", ["c/clips", "c/texts", "s/texts", "s/superseded", "s/signals", "s/verdicts", "s/dropped"]
)
def test_a_part_that_is_damaged_or_lost_is_not_read_as_another(length: Path, table: str):
    path = length.parent / table / "part-00001.parquet"
    view = open_view(length)
    read_everything(view)
    for change in (flip, Path.unlink):
        change(path)
        with pytest.raises(M2raapError, match=rf"{path}: is missing or differs"):
            read_everything(view)
    assert check(length.parent)[table.startswith("s")]["state"] == "damaged"


def test_a_part_that_the_manifest_does_not_name_is_not_read(length: Path):
    shutil.copytree(length / "texts", length.parent / "c" / "dropped")
    shutil.copy(length / "dropped" / "part-00000.parquet", length / "missing.parquet")
    shutil.copytree(length / "dropped", length / "frames")
    read_everything(open_view(length))


def test_frames_are_checked_once_and_by_every_reader(tmp_path: Path):
    view = view_of(tmp_path, rows(4))
    (path, *_) = sorted((view.folders[0] / "frames").iterdir())
    part = int(path.stem.removeprefix("part-"))
    clip_id = next(iter(view.part(part, ("jpegs",)).frames))
    flip(path)
    for read in (
        lambda: view.part(part, ("jpegs",)),
        lambda: view.part(part, ("frames",)),
        lambda: FrameReader(view.folders, 1 << 20).jpegs(part, clip_id),
    ):
        with pytest.raises(M2raapError, match=rf"{path}: is missing or differs"):
            read()


def test_a_stage_that_lost_a_file_says_so_and_force_mends_it(length: Path):
    view = View(length.parent / "c")
    whole = digests(length)
    shutil.rmtree(length / "dropped")
    with pytest.raises(M2raapError, match=rf"{length}/dropped/part-00000.parquet: is missing.*3 such files.*--force"):
        run_length(view, length)
    assert run_length(view, length, force=True) and not SCORED and digests(length) == whole
    flip(length / "signals" / "part-00002.parquet")
    run_length(view, length, force=True)
    assert SCORED and len(SCORED) < 20 and digests(length) == whole, "only the damaged part is scored again"
    (length / "manifest.json").write_text("[]")
    (length / "done" / "score-00000.json").write_text("{")
    run_length(view, length, force=True)
    assert digests(length) == whole
    (length / "manifest.json").unlink()  # unfinished: what was lost is made again without a word
    (length / "texts" / "part-00000.parquet").unlink()
    (length / "done" / "apply-00001.json").write_text("null")
    assert run_length(view, length) and digests(length) == whole


def test_a_finished_stage_that_lost_its_plan_is_still_its_own(length: Path):
    view = View(length.parent / "c")
    whole = digests(length)
    (length / "plan.json").unlink()
    assert run_length(view, length) and digests(length) == whole
    (length / "plan.json").unlink()
    with pytest.raises(M2raapError, match="min 16"):
        run_length(view, length, minimum=16)
    (length / "plan.json").unlink()
    assert run_length(view, length, minimum=16, force=True) and not SCORED
    (length / "plan.json").unlink()
    manifest = read_json(length / "manifest.json")
    write_json(length / "manifest.json", manifest | {"counts": {}})
    with pytest.raises(M2raapError, match="manifest.json: was changed after it was signed"):
        run_length(view, length)
    assert run_length(view, length, force=True) and digests(length) == whole
    with pytest.raises(M2raapError, match="which no stage has written"):
        run_length(view, length.parent / "c")


def test_verify_finds_what_was_changed_by_hand_and_goes_on(length: Path, tmp_path: Path):
    manifest = read_json(length / "manifest.json")
    write_json(length / "manifest.json", manifest | {"settings": manifest["settings"] | {"apply": {"min": 3}}})
    with pytest.raises(M2raapError, match="manifest.json: was changed after it was signed"):
        open_view(length)
    corpus = read_json(tmp_path / "c" / "manifest.json")
    write_json(tmp_path / "c" / "manifest.json", corpus | {"counts": corpus["counts"] | {"clips": 21, "forgotten": 1}})
    run_length(View(tmp_path / "c"), tmp_path / "z")
    for name, content in (("a", "null"), ("b", '{"kind": "stage"}'), ("d", '{"kind": "corpus", "schema_version": 2}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
    states = {Path(row["folder"]).name: row for row in check(tmp_path)}
    assert {name: row["state"] for name, row in states.items()} == {
        **dict.fromkeys(("a", "b", "c", "d", "s"), "damaged"), "z": "ok",
    }  # fmt: skip
    assert any("21 clips" in fault and "20 rows" in fault for fault in states["c"]["faults"])
    assert any("tombstones.json: is missing" in fault for fault in states["c"]["faults"])


def test_verify_opens_no_pipe_that_a_record_names(length: Path):
    os.mkfifo(length / "pipe")
    record = read_json(length / "done" / "apply-00000.json")
    write_json(length / "done" / "apply-00000.json", record | {"files": record["files"] | {"pipe": "0" * 64}})
    os.mkfifo(length / "done" / "score-00009.json")
    (row,) = check(length)
    assert row["state"] == "damaged" and "score-00009.json" in row["faults"][0]
    (length / "done" / "score-00009.json").unlink()
    assert any("'pipe'" in fault for fault in check(length)[0]["faults"])
    sign_again(length, files=read_json(length / "manifest.json")["files"] | {"texts/\u00b2": "0" * 64})
    assert any("\u00b2" in fault for fault in check(length)[0]["faults"])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "nested"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": NaN}', "NaN"),
        (b"1" * 5000, "digits"),
        (b'{"a": ', "Expecting"),
        (b"", "Expecting"),
    ],
)
def test_json_that_m2raap_never_writes_is_refused(tmp_path: Path, content: bytes, why: str):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(M2raapError, match=rf"x.json: cannot be read as JSON .*{why}"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b'{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "x.json") == {"a": "\U0001f600"}


def test_a_damaged_cache_is_made_again(tmp_path: Path, capsys):
    (tmp_path / "v.json").write_text('{"a.mp4": [1, 2]}')
    (tmp_path / "a.mp4").write_bytes(b"x")
    videos = VideoDigests(tmp_path / "v.json")
    assert "v.json" in capsys.readouterr().err
    expected = videos.of("a.mp4", tmp_path / "a.mp4", 100)
    videos.save()
    assert VideoDigests(tmp_path / "v.json").of("a.mp4", tmp_path / "a.mp4", 100) == expected


def test_decisions_are_signed(curated: Path, tmp_path: Path):
    shutil.copytree(curated / "filter", tmp_path / "filter")
    StageRules(tmp_path / "filter")
    (tmp_path / "filter" / "decisions.json").write_text("{}")
    with pytest.raises(M2raapError, match="decisions.json: is missing or differs"):
        StageRules(tmp_path / "filter")


def test_libraries_stand_beside_the_digest(length: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    manifest = read_json(length / "manifest.json")
    assert manifest["libraries"] == installed() and {"m2raap", "av", "torch", "pyarrow"} <= installed().keys()
    (length / "manifest.json").unlink()
    other = tuple((installed() | {"av": "999.0"}).items())
    monkeypatch.setattr(libraries, "_installed", lambda: other)
    run_length(View(tmp_path / "c"), length)
    assert f"av {manifest['libraries']['av']} (installed: 999.0)" in capsys.readouterr().err
    again = read_json(length / "manifest.json")
    assert again["libraries"]["av"] == f"{manifest['libraries']['av']}, 999.0" and again["digest"] == manifest["digest"]
    assert run_length(View(tmp_path / "c"), length), "finished by another version is finished"


def test_a_run_with_damaged_json_ends_in_sentences(small_world: Path, undisturbed: Path, tmp_path: Path, monkeypatch):
    """A few of the trials of bench/fuzz_state.py."""
    spec = importlib.util.spec_from_file_location("fuzz_state", ROOT / "bench" / "fuzz_state.py")
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setenv("M2RAAP_DEBUG", "1")
    monkeypatch.setattr(bench.tempfile, "tempdir", str(tmp_path))
    sources = (small_world, undisturbed, small_world / "test")
    failed = list(bench.trials(sources, ROOT / "tests" / "small.yaml", 16, 3, lambda words: words[0] in CHEAP))
    assert not failed, "\n".join(f"{what} | {command}\n{output}" for what, command, output in failed)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]\n",
        '{"step": 1}\n',
        '{"loss": 1.0}\n',
        '{"step": 1, "val_r1": {}}\n',
        '{"step": 1, "val": {}}\n',
        '{"step": 1, "val": {"mrr": 0.5, "r1": 0.5, "loss": null}}\n',
        '{"step": 1, "loss": 1.0, "kept_step": "0"}\n',
    ],
)
def test_a_training_log_of_another_shape_is_named(tmp_path: Path, content: str):
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(M2raapError, match="train.jsonl: "):
        training_summary(tmp_path)


def test_clips_are_not_removed_from_a_damaged_corpus(tmp_path: Path):
    make_corpus(tmp_path / "c", range(20))
    (tmp_path / "c" / "texts" / "part-00001.parquet").unlink()
    before = digests(tmp_path / "c")
    with pytest.raises(M2raapError, match="texts/part-00001.parquet: is missing"):
        forget([tmp_path / "c"], ["c001"])
    assert digests(tmp_path / "c") == before


def test_an_evaluation_whose_embeddings_are_damaged_is_not_made(undisturbed: Path, tmp_path: Path):
    source = undisturbed / "m2raap" / "bench-motion"
    for name in ("video.npy", "text.npy", "ids.json"):
        home = tmp_path / name / "bench-motion"
        shutil.copytree(source / "embed", home / "embed")
        flip(home / "embed" / name)
        done = m2raap("evaluate", home / "embed", "--protocol", "custom", "--out", tmp_path / "out", check=1)
        assert f"{name}: is missing or differs" in done.stderr
    shutil.copytree(source / "evaluate", tmp_path / "evaluate")
    tree = read_json(tmp_path / "evaluate" / "results.json")
    tree["rows"][0]["metrics"]["R@1"] = 99.0
    (tmp_path / "evaluate" / "results.json").write_text(json.dumps(tree))
    done = m2raap("report", "compare", tmp_path / "evaluate", source / "evaluate", check=1)
    assert "results.json: is missing or differs" in done.stderr


def test_damaged_records_of_runs_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    corpus, runs = tmp_path / "c", [tmp_path / name for name in ("whole", "list", "number", "gone")]
    for run, tree in zip(runs[:3], ({"digests": {"": "d"}}, {"digests": ["d"]}, 3), strict=True):
        run.mkdir()
        write_json(run / "run.json", tree)
    for run in runs:
        remember_run(corpus, run)
    assert runs_of(corpus, "d") == runs[:1]
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    remember_run(corpus, tmp_path / "other")  # a user without a home
    assert runs_of(corpus, "d") == []


@pytest.mark.parametrize("counts", [{"clips": "3", "texts": 1}, [1], None])
def test_an_import_over_a_damaged_manifest_is_refused_in_a_sentence(tmp_path: Path, counts: object):
    write_json(tmp_path / "manifest.json", {"kind": "corpus", "digest": "d", "counts": counts})
    with pytest.raises(M2raapError, match="unknown size"):
        refuse_other_source(tmp_path, {})


def test_a_file_that_cannot_be_read_keeps_no_other_fault_from_being_listed(length: Path, monkeypatch):
    paths = sorted(str(path) for path in length.glob("signals/*.parquet"))
    flip(Path(paths[1]))
    opened = file_sha256

    def denied(path: Path) -> str:
        if str(path) == paths[0]:
            raise PermissionError(errno.EACCES, "Permission denied", paths[0])
        return opened(path)

    monkeypatch.setattr("m2raap.core.signed.file_sha256", denied)
    assert verify_files(length, read_manifest(length)["files"]) == paths[:2]


def test_a_file_that_the_manifest_names_is_missed_and_one_that_it_does_not_name_is_not_read(tmp_path: Path):
    (tmp_path / "results-extra.json").write_text("{}")
    assert named_files(tmp_path, "results-*.json") == ["results-extra.json"], "of a folder without manifest"
    manifest = {
        "format": FORMAT, "kind": "stage", "stage": "evaluate", "version": 1, "settings": {}, "inputs": {}, "counts": {},
        "models": {}, "files": {"results.json": "0", "results-qb_norm.json": "0"},
    }  # fmt: skip
    write_json(tmp_path / "manifest.json", manifest | {"digest": manifest_digest(manifest)})
    assert named_files(tmp_path, "results-*.json") == ["results-qb_norm.json"]
    with pytest.raises(M2raapError, match=r"results-qb_norm\.json: is missing"):
        other_results(tmp_path)


def test_examples_of_an_evaluation_whose_embeddings_are_unfinished_are_not_shown(undisturbed: Path):
    run = RunFolder.open(undisturbed)
    steps = [step for step in run.steps if step.stage != "embed"]
    with pytest.raises(M2raapError, match="bench-motion/embed: is not finished"):
        examples(run, steps, "m2raap")
