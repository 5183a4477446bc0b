"""What --dry-run says of frames rests on the corpus's own files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from m2raap.core.view import View
from m2raap.pipeline.frames_cost import READ, frames_cost
from m2raap.stages.keyframes import KeyframesConfig
from m2raap.stages.videos import video_worker
from m2raap.video.clip import KeyframeConfig
from m2raap.video.limits import Refused


def test_sizes_are_those_that_the_stage_writes(small_world: Path) -> None:
    view, cfg = View(small_world / "train"), KeyframesConfig()
    cost = frames_cost(view, cfg)
    assert cost.note.startswith(f"{READ} of ")
    worker = video_worker(cfg.decode)
    clips = [clip for index in range(view.num_parts) for clip in view.part(index, ()).clips][:12]
    files = [view.corpus.video_root / clip["video"] for clip in clips]
    sizes = []
    for path in files:
        with suppress(Refused):  # the world holds broken files, too
            sizes.append(sum(map(len, worker.extract(path, 0.0, None, KeyframeConfig()).jpegs)))
    assert cost.bytes_a_clip == pytest.approx(sum(sizes) / len(sizes), rel=0.5)
    assert 0 < cost.seconds_a_clip < 10
    assert frames_cost(view, KeyframesConfig(k=2)).bytes_a_clip < 0.5 * cost.bytes_a_clip


def test_sparse_readings_are_named(small_world: Path) -> None:
    view = View(small_world / "train")
    cost = frames_cost(view, KeyframesConfig(reading="sparse", strategy="iframe", fill=False))
    assert "sparsely" in cost.note and "times fewer frames" in cost.note


def test_files_that_cannot_be_read_cost_nothing(small_world: Path, tmp_path: Path) -> None:
    view = View(small_world / "train")
    elsewhere = View(small_world / "train")
    vars(elsewhere)["corpus"] = replace(view.corpus, stated_video_root=tmp_path)
    assert "24 refused" in frames_cost(elsewhere, KeyframesConfig()).note
