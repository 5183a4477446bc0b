from __future__ import annotations

import time
from dataclasses import astuple

import numpy as np
import pytest

from m2raap.retrieval.significance import (
    bounds_text,
    interval,
    intervals,
    median_interval,
    paired_difference,
    wilson,
)


def clustered(rng: np.random.Generator, clusters: int, size: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Hits of queries that share their video's difficulty: a Beta with a strong spread between videos."""
    chance = rng.beta(mean * 1.5, (1 - mean) * 1.5, clusters)
    return (rng.random((clusters, size)) < chance[:, None]).astype(float).ravel(), np.repeat(np.arange(clusters), size)


def test_coverage_on_clustered_queries() -> None:
    rng = np.random.default_rng([11])
    inside = naive = 0
    trials = 250
    for trial in range(trials):
        hits, video = clustered(rng, 80, 10, 0.4)
        found = interval(hits, video, seed=trial, resamples=400)
        inside += found.lo <= 0.4 <= found.hi
        alone = interval(hits, np.arange(len(hits)), seed=trial, resamples=400)
        naive += alone.lo <= 0.4 <= alone.hi
    assert 0.90 <= inside / trials <= 0.985
    # Queries resampled one by one forget that they share videos: far too sure.
    assert naive / trials < 0.8


def test_p_is_uniform_without_a_difference_and_small_with_one() -> None:
    rng = np.random.default_rng([12])
    p_values = []
    for trial in range(200):
        a, video = clustered(rng, 60, 2, 0.5)
        b, _ = clustered(rng, 60, 2, 0.5)
        p_values.append(paired_difference(a, b, video, seed=trial, resamples=300).p)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.10
    assert 0.4 <= np.mean(p_values) <= 0.6
    a, video = clustered(rng, 300, 2, 0.7)
    b, _ = clustered(rng, 300, 2, 0.4)
    found = paired_difference(a, b, video, seed=0)
    assert found.p < 0.001 and found.lo > 0
    assert found.lo < found.diff < found.hi


def test_paired_difference_of_equals_and_of_opposites() -> None:
    hits = np.array([1.0, 0, 1, 0.5])
    same = paired_difference(hits, hits, ["a", "b", "c", "d"])
    assert (same.diff, same.p) == (0, 1)
    assert same.hi == -same.lo == pytest.approx(wilson(0, 4)[1])
    one, two = (paired_difference(a, b, np.arange(4), seed=3) for a, b in ((hits, 1 - hits), (1 - hits, hits)))
    assert one.diff == -two.diff
    assert one.p == two.p


def test_all_misses_and_all_hits_have_wilsons_interval() -> None:
    for hits, (lo, hi) in ((np.zeros(32), wilson(0, 32)), (np.ones(32), wilson(32, 32))):
        assert astuple(interval(hits, np.arange(32), seed=0)) == pytest.approx((hits[0], lo, hi))
        points = interval(100 * hits, np.arange(32), seed=0, limits=(0, 100))
        assert (points.lo, points.hi) == pytest.approx((100 * lo, 100 * hi))
        # Twenty queries of one video are no more than one.
        several = interval(np.repeat(hits, 20), np.repeat(np.arange(32), 20), seed=0)
        assert astuple(several) == pytest.approx((hits[0], lo, hi))
    alone = interval([1.0, 0.0], ["one", "one"], seed=0)
    assert alone.lo < 0.2 and alone.hi > 0.8, "one video shows no spread, and tells next to nothing"
    first_rank = intervals(np.ones((1, 50)), np.arange(50), 0, [(1, 500)])[0]
    assert (first_rank.value, first_rank.lo) == (1, 1) and first_rank.hi == pytest.approx(1 + 499 * wilson(0, 50)[1])


def test_differences_without_spread_keep_an_interval() -> None:
    clips = np.arange(32)
    none = paired_difference(np.zeros(32), np.zeros(32), clips, unit=100)
    assert none.hi == -none.lo == pytest.approx(100 * wilson(0, 32)[1])
    every = paired_difference(np.full(32, 100.0), np.zeros(32), clips, unit=100)
    assert (every.diff, every.hi) == (100, 100) and every.lo == pytest.approx(100 - 200 * wilson(0, 32)[1])


@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [(0.0, 10.7, "0.0-10.7"), (99.98, 100.0, "99.98-100.00"), (1.0, 1.0, "1.0-1.0"), (-0.01, 0.5, "0.0-0.5")],
)
def test_ends_that_differ_never_look_equal(lo: float, hi: float, expected: str) -> None:
    assert bounds_text((lo, hi)) == expected


def test_resampling_twin() -> None:
    """The products with counts equal resampling the queries themselves."""
    rng = np.random.default_rng([5])
    video = rng.integers(0, 12, 40)
    values = rng.random((2, 40))
    fast = intervals(values, video, seed=9, limits_M=[(0, 1)] * 2, resamples=300)
    draws = np.random.default_rng([9, 0]).integers(0, len(np.unique(video)), (300, len(np.unique(video))))
    names = np.unique(video)
    means, medians = [], []
    for draw in draws:
        picked = np.concatenate([np.flatnonzero(video == names[c]) for c in draw])
        means.append(values[:, picked].mean(1))
        medians.append(np.median(values[:, picked], axis=1).mean())
    for row, found in enumerate(fast):
        assert [found.lo, found.hi] == pytest.approx(np.quantile(np.array(means)[:, row], [0.025, 0.975]))
    median = median_interval(values, video, seed=9, resamples=300)
    assert [median.lo, median.hi] == pytest.approx(np.quantile(medians, [0.025, 0.975]))
    assert median.value == pytest.approx(np.median(values, axis=1).mean())


def test_seeded_and_blind_to_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([6])
    hits, video = clustered(rng, 30, 3, 0.5)
    before = (
        interval(hits, video, 1),
        median_interval(hits[None], video, 1),
        paired_difference(hits, 1 - hits, video, 1),
    )
    monkeypatch.setattr("m2raap.retrieval.significance._BLOCK_ELEMENTS", 700)
    assert before == (
        interval(hits, video, 1),
        median_interval(hits[None], video, 1),
        paired_difference(hits, 1 - hits, video, 1),
    )
    assert interval(hits, video, 2) != before[0]


def test_two_thousand_resamples_of_a_thousand_videos_are_quick() -> None:
    hits = np.random.default_rng([8]).random(1000)
    start = time.process_time()
    interval(hits, np.arange(1000), seed=0)
    assert time.process_time() - start < 2
