from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_data_stage
from m2raap.core.view import View
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.lengths import NAMES, UNKNOWN, by_length, clip_seconds, length_name, length_rows
from m2raap.report.report import evaluations_of
from tests.report.conftest import results_of
from tests.stages.embedded import write_run
from tests.stages.pictures import DrawnConfig, DrawnFrames


def test_a_run_by_the_length_of_its_clips(tmp_path: Path) -> None:
    """Bounds of a clip tell its length, and what decoding showed where it has none; neither: unknown."""
    names = [f"v{i:03d}" for i in range(12)]
    clips = [{"clip_id": name, "video": f"{name}.mp4", "split": "test"} for name in names]
    for i, clip in enumerate(clips[2:]):
        clip |= {"start_s": 10.0, "end_s": 10.0 + 2.0 * (i + 1)}
    texts = [
        {"text_id": name, "clip_id": name, "lang": "en", "text": "a", "origin": "raw", "active": True} for name in names
    ]
    write_corpus(tmp_path / "C", clips, texts, video_root=tmp_path, source={}, benchmark="custom", num_parts=1)
    view, frames = View(tmp_path / "C"), tmp_path / "run" / "keyframes"
    cfg = DrawnConfig(colours=dict.fromkeys(names, "red"), num=1, duration_s={names[0]: 100.0})
    assert run_data_stage(Measured(cfg), view, frames, LocalEngine(1))
    seconds = clip_seconds(view.over(frames))
    assert seconds == {names[0]: 100.0} | {name: 2.0 * (i + 1) for i, name in enumerate(names[2:])}

    out = write_run(
        tmp_path / "run", {"a": {"num": 12, "langs": ("en",)}, "b": {"num": 12, "langs": ("en",), "noise": 2.0}}
    )
    tree = json.loads((out / "run.json").read_text())
    tree |= {"data": "../C", "benches": {"clips": "../C"}, "digests": dict.fromkeys(("", "clips"), view.corpus.digest)}
    for step in tree["steps"]:
        step["parents"] = ["keyframes"] if step["stage"] == "embed" else [f"{step['arm']}/bench-clips/embed"]
    (out / "run.json").write_text(json.dumps(tree))
    run = RunFolder.open(out)
    rows = length_rows(run, evaluations_of(run.steps), run.steps, 0)
    counts = {(row.arm, row.slice): row.queries for row in rows if row.direction == "t2v"}
    wanted = {"under 5 s": 2, "5-15 s": 5, "over 15 s": 4, "unknown": 1}
    assert counts == {(arm, name): num for arm in "ab" for name, num in wanted.items()}


class Measured(DrawnFrames):
    """Tells the length of some files."""

    def signal_columns(self):
        return super().signal_columns() | {"duration_s": "float"}

    def score(self, part, view):
        made = super().score(part, view)
        for row in made["signals"]:
            row["duration_s"] = self.cfg.duration_s.get(row["clip_id"])
        return made


def test_bounds_belong_to_the_middle() -> None:
    names = [length_name(s) for s in (0.1, 4.999, 5.0, 15.0, 15.001, 900.0, None)]
    assert names == [NAMES[0], NAMES[0], NAMES[1], NAMES[1], NAMES[2], NAMES[2], UNKNOWN]


def test_every_query_stands_in_one_slice_with_its_own_hits() -> None:
    tables = [results_of(1.0, seed, num_videos=40).ranks for seed in (1, 2)]
    videos = sorted({row["video_id"] for row in tables[0]})
    seconds = {video: 1.0 + i for i, video in enumerate(videos) if i > 1}  # not of the two that are missing
    rows = by_length(tables, seconds, seed=0)
    assert {row["slice"] for row in rows} == {*NAMES, UNKNOWN}
    assert [row["slice"] for row in rows if (row["lang"], row["direction"]) == ("zh", "t2v")] == [*NAMES, UNKNOWN]
    for row in rows:
        own = [
            [
                r["rank_pessimistic"] == 1
                for r in table
                if (r["lang"], r["direction"]) == (row["lang"], row["direction"])
                and length_name(seconds.get(r["video_id"])) == row["slice"]
            ]
            for table in tables
        ]
        assert row["queries"] == len(own[0]) and row["gallery"] == 40 and row["seeds"] == 2
        assert row["metrics"]["R@1"] == pytest.approx(100 * np.mean(own), abs=1e-5)
    lost = [row for row in rows if row["slice"] == UNKNOWN]
    assert all(row["missing"] == 2 and row["metrics"]["R@1"] == 0 for row in lost)
    assert sum(row["queries"] for row in rows if (row["lang"], row["direction"]) == ("en", "v2t")) == 40


def test_one_length_makes_no_slices() -> None:
    ranks = results_of(1.0, 1, num_videos=20).ranks
    assert by_length([ranks], {row["video_id"]: 3.0 for row in ranks}, seed=0) == []
    assert by_length([ranks], {}, seed=0) == []
