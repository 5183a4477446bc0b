"""A run and its corpus belong together: what happens to the corpus afterwards is noticed by every reader."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from m2raap.core import tables
from m2raap.core.corpus import open_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.view import View
from m2raap.pipeline.run_folder import RunFolder
from tests.conftest import digests, m2raap
from tests.runs import copied

RECIPE = """name: only_filter
stages: [filter]
filter: {scores: {nsfw: {max: 0.5}}}
"""


@pytest.fixture(scope="module")
def videos(small_world: Path) -> list[str]:
    """Names of videos of the small world that can be decoded."""
    rows = View(small_world / "test").corpus.all_rows("clips", ["video"])
    return [row["video"] for row in rows][:6]


@pytest.fixture
def home(small_world: Path, videos: list[str], tmp_path: Path) -> Path:
    """A list of four clips and one of all six, with the corpus of the first, scores, and a run that dropped one of four."""
    for name, count in (("short", 4), ("long", 6)):
        listing(tmp_path / f"{name}.jsonl", videos[:count])
    (tmp_path / "f.yaml").write_text(RECIPE)
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = {"video": videos, "nsfw": [0.9, 0.1, 0.1, 0.1, 0.9, 0.9]}
    pq.write_table(pa.table({name: values[:4] for name, values in scores.items()}), tmp_path / "scores.parquet")
    import_list(tmp_path, small_world, "short")
    run(tmp_path)
    return tmp_path


def listing(path: Path, videos: list[str]) -> None:
    sentences = ("a red circle moves slowly to the left side", "a blue square turns around above the green floor")
    rows = [{"video": name, "caption": f"{sentences[i % 2]} in scene {name[-8:-4]}"} for i, name in enumerate(videos)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def import_list(home: Path, world: Path, name: str, *more: object, check: int = 0):
    videos = View(world / "test").corpus.video_root
    return m2raap(
        "data",
        "import",
        "table",
        home / f"{name}.jsonl",
        "--video-dir",
        videos,
        "--out",
        home / "C",
        *more,
        check=check,
    )


def run(home: Path, *more: object, data: str = "C", out: str = "R", check: int = 0):
    words = ("run", home / "f.yaml", "--data", home / data, "--out", home / out, "--scores", home / "scores.parquet")
    return m2raap(*words, "--until", "filter", "--workers", 1, *more, check=check)


def readers(home: Path, out: str = "R") -> list[tuple[object, ...]]:
    folder = home / out
    return [
        ("data", "export", "csv", folder, "--out", home / "E"),
        ("data", "export", "csv", folder / "filter", "--out", home / "E"),
        ("data", "audit", folder, "--card"),
        ("data", "audit", folder, "--out", home / "sheet.csv"),
        ("explain", "x", "--in", folder),
        ("explain", "x", "--in", folder / "filter"),
        ("report", "write", folder),
        ("search", "index", folder / "filter", "--out", home / "I"),
        ("adapt", folder / "filter", "--out", home / "A"),
        ("keyframes", folder / "filter", "--out", home / "K"),
        ("status", folder),
    ]


def test_an_import_over_a_corpus_is_asked_for_and_then_noticed_by_every_reader(home: Path, small_world: Path) -> None:
    before = digests(home / "C")
    refused = import_list(home, small_world, "long", check=1).stderr
    assert "4 clips" in refused and "6 clips" in refused and "--force" in refused and str(home / "R") in refused
    assert digests(home / "C") == before, "and nothing has changed"
    assert import_list(home, small_world, "short").returncode == 0, "the same list again is no other content"
    assert "3 kept" in run(home).stdout

    replaced = import_list(home, small_world, "long", "--force").stderr
    assert "4 clips" in replaced and "6 clips" in replaced and str(home / "R") in replaced
    for words in readers(home):
        told = m2raap(*words, check=1).stderr
        assert str(home / "R") in told and str(home / "C") in told and "--force" in told, words
    assert not (home / "E").exists()
    assert m2raap("status", home / "R", check=1).stdout.startswith("stale ")

    assert "--force" in run(home, check=1).stderr
    run(home, "--force")
    assert "5 clips" in m2raap("data", "export", "csv", home / "R", "--out", home / "E").stdout
    assert m2raap("status", home / "R").stdout.startswith("done ")


def test_a_corpus_is_not_written_beside_a_holdout_that_may_not_be_replaced(home: Path, small_world: Path) -> None:
    before = digests(home / "C")
    assert "--force" in import_list(home, small_world, "short", "--holdout", 1, check=1).stderr
    assert digests(home / "C") == before and not (home / "C-holdout" / "manifest.json").exists()
    import_list(home, small_world, "short", "--holdout", 1, "--force")
    shutil.rmtree(home / "C")
    assert "C-holdout" in import_list(home, small_world, "long", "--holdout", 2, check=1).stderr
    assert not (home / "C" / "manifest.json").exists()


def test_a_corpus_that_was_moved_is_recognised_by_its_content(home: Path) -> None:
    os.rename(home / "C", home / "moved")
    for words in readers(home):
        told = m2raap(*words, check=1).stderr
        assert str(home / "R") in told and str(home / "C") in told and "--data" in told, words
    run(home, data="moved")
    assert "3 clips" in m2raap("data", "export", "csv", home / "R", "--out", home / "E").stdout
    assert "3 clips" in m2raap("data", "export", "csv", home / "R" / "filter", "--out", home / "E2").stdout
    os.rename(home / "R", home / "deep")
    shutil.copytree(home / "moved", home / "other" / "C")
    run(home, data="other/C", out="deep")
    assert "done" in m2raap("status", home / "deep").stdout


def test_an_import_that_fails_leaves_the_corpus_as_it_was(
    home: Path, small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, written = digests(home / "C"), []
    real = tables.open_atomic

    def full_disk(path: Path) -> AbstractContextManager[IO[bytes]]:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path)

    monkeypatch.setattr(tables, "open_atomic", full_disk)
    assert "full" in import_list(home, small_world, "long", "--force", check=1).stderr
    monkeypatch.undo()
    assert len(written) == 2 and digests(home / "C") == before
    assert open_corpus(home / "C").counts["clips"] == 4
    assert "done" in m2raap("status", home / "R").stdout


def test_a_run_is_not_replaced_by_that_of_another_recipe(home: Path) -> None:
    before = (home / "R" / "run.json").read_bytes()
    (home / "f.yaml").write_text(RECIPE.replace("only_filter", "another"))
    for more in ((), ("--dry-run",)):
        told = run(home, *more, check=1).stderr
        assert "'only_filter'" in told and "'another'" in told and str(home / "R") in told
    assert (home / "R" / "run.json").read_bytes() == before
    run(home, "--force")


def test_a_run_and_a_world_are_not_written_into_a_corpus_a_stage_or_a_run(home: Path) -> None:
    before = digests(home)
    for place in ("C", "R/filter"):
        run(home, "--force", out=place, check=1)
    for place in ("C", "R/filter", "R"):
        assert "another --out" in m2raap("data", "import", "world", "--out", home / place, check=1).stderr
    assert digests(home) == before


def test_until_ends_with_the_counts_of_its_stages(home: Path) -> None:
    lines = run(home).stdout.splitlines()
    assert lines[0].startswith(str(home / "R" / "filter"))
    assert "4 clips in" in lines[1] and "3 kept" in lines[1] and "1 user_score" in lines[1]
    (row,) = json.loads(run(home, "--json").stdout)
    assert row["stage"] == "filter" and row["counts"]["clips_out"] == 3


def test_explain_says_what_is_like_an_unknown_id(home: Path, videos: list[str]) -> None:
    clip_id = View(home / "C").corpus.all_rows("clips", ["clip_id"])[0]["clip_id"]
    assert f"'{clip_id}'" in m2raap("explain", f"{clip_id}.mp4", "--in", home / "R", check=1).stderr
    assert "no such folder" in m2raap("explain", clip_id, "--in", home / "NOTHERE", check=1).stderr
    m2raap("data", "forget", home / "C", "--clip", clip_id)
    assert "data forget" in m2raap("explain", clip_id, "--in", home / "C", check=1).stderr
    assert m2raap("status", home / "R", check=1).stdout.startswith("stale ")
    run(home, "--force")
    assert m2raap("status", home / "R").stdout.startswith("done ")


def test_a_device_that_is_not_there_is_refused_before_any_work(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2raap.core.engine.machine_gpus", lambda: 2)
    told = run(home, "--devices", "1-2", out="R2", check=2).stderr
    assert "--devices 1-2" in told and "0 to 1" in told and not (home / "R2").exists()


def test_a_video_folder_that_is_gone_is_named(home: Path) -> None:
    manifest = json.loads((home / "C" / "manifest.json").read_text())
    (home / "C" / "manifest.json").write_text(json.dumps(manifest | {"video_root": "/nowhere/videos"}))
    with pytest.raises(M2raapError, match=r"/nowhere/videos, which is not there.*--video-dir"):
        _ = open_corpus(home / "C").video_root


def test_the_map_of_a_run_is_that_of_the_stage_that_lost_everything(home: Path):
    run(home, "--set", "filter.scores.nsfw.max=-1", "--force", check=3)
    recipe = json.loads((home / "R" / "run.json").read_text())["recipe"]
    assert recipe["filter"]["scores"]["nsfw"]["max"] == -1


def test_a_report_names_folders_of_other_settings(small_world: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Such as those of another arm, of which every file is whole."""
    from m2raap.report.report import gather

    out, _ = copied(undisturbed, small_world, tmp_path)
    run = RunFolder.open(out)
    assert not any(note.startswith("Outdated") for note in gather(run, run.recipe, None).notes)
    for stage in ("embed", "evaluate"):
        of_both = [out / arm / "bench-motion" / stage for arm in ("zero_shot", "m2raap")]
        shutil.rmtree(of_both[0])
        shutil.copytree(of_both[1], of_both[0])
    told = [note for note in gather(run, run.recipe, None).notes if note.startswith("Outdated")]
    assert len(told) == 1 and "zero_shot/bench-motion/embed (embed.frame_ablations" in told[0]
    assert "m2raap/" not in told[0]
