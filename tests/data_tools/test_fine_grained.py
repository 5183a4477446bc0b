"""The corpora for losses over frames and phrases: how much of a clip and its caption belongs together."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.world.fine_grained import SHOTS, captions, frames_of, plan, write_fine_grained
from m2raap.core.errors import UsageError
from m2raap.retrieval.benchmarks import BENCHMARKS


@pytest.mark.parametrize(("belong", "both"), [(0.5, 3), (1.0, SHOTS)])
def test_the_share_that_belongs_together(belong: float, both: int) -> None:
    plans = plan({"train": 40, "test": 20}, belong, 3)
    assert [clip.split for clip in plans] == ["train"] * 40 + ["test"] * 20
    assert len({clip.in_both for clip in plans}) == 60
    for clip in plans:
        shots, texts = set(clip.in_shots), set(clip.in_texts)
        assert len(clip.in_shots) == len(clip.in_texts) == SHOTS and len(shots & texts) == both
        assert {o.pair for o in shots & texts} == set(clip.in_both)
        assert len({obj.pair for obj in shots | texts}) == 2 * SHOTS - both


def test_no_more_clips_than_sets_of_objects() -> None:
    assert len(plan({"train": 100}, 0.1, 0)) == 100
    with pytest.raises(UsageError, match="101 clips.* 100 such sets"):
        plan({"train": 100, "test": 1}, 0.1, 0)


def test_shares_that_are_none_are_refused() -> None:
    for belong in (0.0, -0.2, 1.5):
        with pytest.raises(UsageError, match="--belong"):
            plan({"train": 4}, belong, 0)
    plans = plan({"train": 4}, 0.5, 0)
    for mismatched in (-0.1, 1.1, 0.25):  # a single clip has no other caption to take
        with pytest.raises(UsageError, match="--mismatched"):
            captions(plans, mismatched, 0)


def test_mismatched_captions_are_those_of_other_clips() -> None:
    plans = plan({"train": 50}, 0.4, 0)
    right, wrong = captions(plans, 0.0, 0), captions(plans, 0.4, 0)
    assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 20
    assert sorted(row["en"] for row in right) == sorted(row["en"] for row in wrong)
    assert right[0]["en"].count(", ") == right[0]["zh"].count("，") == SHOTS - 1


def test_two_corpora_with_the_same_bytes_again(tmp_path: Path) -> None:
    train, test = write_fine_grained(tmp_path / "a", 0.4, 0.5, 3, 2, 4, 1)
    assert (train.counts["clips"], test.counts["clips"]) == (5, 4)
    assert train.benchmark is None and test.benchmark in BENCHMARKS
    write_fine_grained(tmp_path / "b", 0.4, 0.5, 3, 2, 4, 1)
    for name in ("f000000.mp4", "f000008.mp4"):
        assert (tmp_path / "a/videos" / name).read_bytes() == (tmp_path / "b/videos" / name).read_bytes()
    clip = plan({"test": 1}, 0.4, 1)[0]
    assert frames_of(clip, 1).shape == (48, 96, 96, 3)
