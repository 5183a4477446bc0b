"""Intervals and differences: the cluster bootstrap over videos, and a sign-flip test.

Hits of the queries of one video are correlated, so whole videos are resampled, not queries. A resample is a row of counts
(how often each video was drawn); all statistics are then products with those counts, 2,000 resamples of 1,000 videos take
some tens of milliseconds. The gallery is held fixed. Where every query hits or every query misses, the percentile
interval has no width: that means that no spread was observed, not that the value is certain.

Shape suffixes: Q queries, C clusters, B resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2_000
LEVEL = 0.95
POWER_FACTOR = 1.959964 + 0.841621  # normal quantiles of 5 % two-sided and of 80 % power
FEWEST_CHANGES = 6  # 2 * 0.5**6 is the first under 5 %
_BLOCK_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Interval:
    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Difference:
    """`diff` is mean(a) - mean(b); `p` is two-sided, of the hypothesis that a and b can be exchanged video by video.

    `smallest` is the smallest difference that this set can detect: at a level of 5 %, with a power of 80 %.
    """

    diff: float
    lo: float
    hi: float
    p: float
    smallest: float


def interval(
    hits_per_query: ArrayLike, clusters: Sequence[Hashable] | NDArray[Any], seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Mean over queries with its 95 % percentile interval; `hits_per_query` may be averaged over training seeds."""
    return intervals(np.asarray(hits_per_query, np.float64)[None], clusters, seed, resamples)[0]


def intervals(
    values_MQ: NDArray[np.float64], clusters: Sequence[Hashable] | NDArray[Any], seed: int, resamples: int = RESAMPLES
) -> list[Interval]:
    """One :class:`Interval` for each row of per-query values, all from the same resamples."""
    index_Q, num_clusters = _cluster_index(clusters, values_MQ.shape[1])
    sums_CM = np.stack([np.bincount(index_Q, row, num_clusters) for row in values_MQ], axis=1)
    sizes_C = np.bincount(index_Q, minlength=num_clusters).astype(np.float64)
    means_BM = np.concatenate(
        [draw @ sums_CM / (draw @ sizes_C)[:, None] for draw in _draws(num_clusters, num_clusters, seed, resamples)]
    )
    lo_M, hi_M = np.quantile(means_BM, _TAILS, axis=0)
    return [Interval(float(v), float(lo), float(hi)) for v, lo, hi in zip(values_MQ.mean(1), lo_M, hi_M, strict=True)]


def median_interval(
    values_SQ: NDArray[np.float64], clusters: Sequence[Hashable] | NDArray[Any], seed: int, resamples: int = RESAMPLES
) -> Interval:
    """The median over queries, averaged over the rows (training seeds), with its 95 % percentile interval."""
    index_Q, num_clusters = _cluster_index(clusters, values_SQ.shape[1])
    order_SQ = np.argsort(values_SQ, axis=1, kind="stable")
    medians: list[NDArray[np.float64]] = []
    for counts in _draws(num_clusters, len(index_Q), seed, resamples):
        total_B = np.zeros(len(counts))
        for values, order in zip(values_SQ, order_SQ, strict=True):
            ranked = values[order]
            twice_BQ = 2 * np.cumsum(counts[:, index_Q[order]], axis=1)
            size_B1 = twice_BQ[:, -1:] / 2
            # The middle value, or the mean of the two middle ones, as in numpy.median.
            total_B += (ranked[(twice_BQ >= size_B1).argmax(1)] + ranked[(twice_BQ > size_B1).argmax(1)]) / 2
        medians.append(total_B / len(values_SQ))
    lo, hi = np.quantile(np.concatenate(medians), _TAILS)
    return Interval(float(np.median(values_SQ, axis=1).mean()), float(lo), float(hi))


def paired_difference(
    hits_a: ArrayLike,
    hits_b: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    seed: int = 0,
    resamples: int = RESAMPLES,
    unit: float = 1.0,
) -> Difference:
    """mean(a) - mean(b) over the same queries: bootstrap interval over videos, and p by swapping a and b video by video.

    `unit` is the value of a full hit (100 where hits are in points).

    The smallest p that can come out is 1 / (resamples + 1). Input may be averaged over training seeds; then the p is
    about these trained models and new videos, not about new training runs.
    """
    delta_Q = np.asarray(hits_a, np.float64) - np.asarray(hits_b, np.float64)
    mean = interval(delta_Q, clusters, seed, resamples)
    index_Q, num_clusters = _cluster_index(clusters, len(delta_Q))
    sums_C = np.bincount(index_Q, delta_Q, num_clusters)
    observed = abs(sums_C.sum())
    rng = np.random.default_rng([seed, 1])
    num_as_large = 0
    for size in _block_sizes(num_clusters, resamples):
        # Not small integers: numpy draws those several at a time, and block sizes would change them.
        signs_BC = np.where(rng.random((size, num_clusters)) < 0.5, -1.0, 1.0)
        # 1e-9 keeps rounding errors of the sums from breaking exact ties with the observed value.
        num_as_large += int((np.abs(signs_BC @ sums_C) >= observed - 1e-9).sum())
    spread_C = sums_C - mean.value * np.bincount(index_Q, minlength=num_clusters)
    correction = num_clusters / max(1, num_clusters - 1)
    error = float(np.sqrt((spread_C**2).sum() * correction)) / len(delta_Q)
    # With few changed videos the standard error is no guide: if under six change, all in one direction, p stays over 5 %.
    floor = FEWEST_CHANGES * unit / len(delta_Q)
    smallest = max(POWER_FACTOR * error, floor)
    return Difference(mean.value, mean.lo, mean.hi, (num_as_large + 1) / (resamples + 1), smallest)


_TAILS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


def _cluster_index(clusters: Sequence[Hashable] | NDArray[Any], num_queries: int) -> tuple[NDArray[np.int64], int]:
    assert len(clusters) == num_queries > 0, (len(clusters), num_queries)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index, int(index.max()) + 1


def _block_sizes(width: int, resamples: int) -> Iterator[int]:
    rows = max(1, _BLOCK_ELEMENTS // width)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _draws(num_clusters: int, width: int, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """(b, C) counts of bootstrap draws; `width` bounds a block's memory, the numbers drawn do not depend on it."""
    rng = np.random.default_rng([seed, 0])
    for size in _block_sizes(max(width, num_clusters), resamples):
        drawn = rng.integers(0, num_clusters, (size, num_clusters)) + np.arange(size)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=size * num_clusters)
        yield counts.reshape(size, num_clusters).astype(np.float64)
