"""Intervals and differences: the cluster bootstrap over videos, and a sign-flip test.

Hits of the queries of one video are correlated, so whole videos are resampled, not queries. A resample is a row of counts
(how often each video was drawn); all statistics are then products with those counts, 2,000 resamples of 1,000 videos take
some tens of milliseconds. The gallery is held fixed.

Where all videos have the same value, for example where every query hits or every query misses, resampling shows no spread at
all. That does not make the value certain, so the interval is then that of a share: at 0 of n videos that differ, Wilson's
interval (Wilson 1927) leaves z^2 / (n + z^2) for videos that do, and those may have any value that the metric can take. Of n
misses this gives exactly Wilson's interval of 0 of n. For the same reason a difference that is 0 for every video gets an
interval around 0. The median rank is the exception: its percentile interval consists of ranks, and where its ends are equal,
nearly every resample had that median.

Shape suffixes: Q queries, C clusters, B resamples, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2_000
MAX_DECIMALS = 6  # with which the ends of an interval are shown; results.json has no more
LEVEL = 0.95
Z = 1.959964  # normal quantile of 95 % two-sided
# How the intervals are made, for the tables that show them.
METHOD = (
    "95 % cluster bootstrap over videos, the gallery held fixed; Wilson where all videos have the same value (0 of n, n of n); "
    "MdR: percentiles of ranks, which may be equal"
)
POWER_FACTOR = Z + 0.841621  # normal quantiles of 5 % two-sided and of 80 % power
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


def wilson(count: int, total: int, z: float = Z) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927): sound for small numbers and for 0 and 1."""
    assert 0 <= count <= total and total > 0
    share, scale = count / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def bounds_text(ends: Sequence[float], decimals: int = 1, sign: str = "", between: str = "-") -> str:
    """The ends of an interval as a table shows them, such as '0.0-10.7'; `sign` is that of format specifications.

    Ends that differ never look equal: where they would, they get more decimals than `decimals`.
    """
    lo, hi = ends
    while lo != hi and round(lo, decimals) == round(hi, decimals) and decimals < MAX_DECIMALS:
        decimals += 1
    # Adding zero makes a rounded -0.0 a plain 0.0.
    return between.join(f"{round(end, decimals) + 0.0:{sign}.{decimals}f}" for end in (lo, hi))


def change_text(lo: float, hi: float) -> str:
    """The ends of the interval of a difference, such as '-1.0 to +3.2'."""
    return bounds_text((lo, hi), sign="+", between=" to ")


def interval(
    hits_per_query: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    seed: int,
    resamples: int = RESAMPLES,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Mean over queries with its 95 % interval; `hits_per_query` may be averaged over training seeds.

    `limits`: the least and the greatest value that a query can have, (0, 100) for hits in points.
    """
    return intervals(np.asarray(hits_per_query, np.float64)[None], clusters, seed, [limits], resamples)[0]


def intervals(
    values_MQ: NDArray[np.float64],
    clusters: Sequence[Hashable] | NDArray[Any],
    seed: int,
    limits_M: Sequence[tuple[float, float]],
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """One :class:`Interval` for each row of per-query values, all from the same resamples; `limits_M`: see `interval`."""
    index_Q, num_clusters = _cluster_index(clusters, values_MQ.shape[1])
    sums_CM = np.stack([np.bincount(index_Q, row, num_clusters) for row in values_MQ], axis=1)
    sizes_C = np.bincount(index_Q, minlength=num_clusters).astype(np.float64)
    means_BM = np.concatenate(
        [draw @ sums_CM / (draw @ sizes_C)[:, None] for draw in _draws(num_clusters, num_clusters, seed, resamples)]
    )
    lo_M, hi_M = np.quantile(means_BM, _TAILS, axis=0)
    rows = zip(values_MQ.mean(1).tolist(), lo_M.tolist(), hi_M.tolist(), limits_M, strict=True)
    return [_with_width(value, lo, hi, limits, num_clusters) for value, lo, hi, limits in rows]


def _with_width(value: float, lo: float, hi: float, limits: tuple[float, float], num_clusters: int) -> Interval:
    """The interval from `lo` to `hi`, or Wilson's where all videos have the same value; see the top of this file."""
    least, greatest = limits
    if hi - lo > 1e-9 * (greatest - least):
        return Interval(value, lo, hi)
    _, other = wilson(0, num_clusters)
    return Interval(value, value - other * (value - least), value + other * (greatest - value))


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
    mean = interval(delta_Q, clusters, seed, resamples, (-unit, unit))
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
