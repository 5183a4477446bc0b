"""The ranks of the queries of one direction, under ties. Numpy only.

For a query whose target scores s*, among the other items g score more than s* and e score the same. Under a random
tie-break the target's rank is uniform on 1+g .. 1+g+e. Everything named *expected* averages over that tie-break (R@k is
then the probability of a hit); everything named *pessimistic* puts the target last, at 1+g+e. A collapsed model (all
scores equal) therefore has an expected R@1 of 1/N, and NaN is an error: the usual code, which looks for the target in a sorted
row, prints 100 % for both.

From video to text by rule b the target is the best-ranked text of the video. Where m of its texts score s*, any of them may
come first: of the first j of the e + m tied places all are foreign with probability C(e, j) / C(e + m, j), a hypergeometric
share. The probability of a rank of at most k is therefore 1 - C(e, j) / C(e + m, j) with j = k - g, and the mean rank is
1 + g + e / (m + 1). For m = 1 both are those of the uniform rank.

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALL_AT = (1, 5, 10, 50)
RSUM_AT = (1, 5, 10)
MEAN_RECALL = "MeanR"  # the mean of R@1, R@5 and R@10, the metric of M2-RAAP's figure 1
RECALLS = (*(f"R@{k}" for k in RECALL_AT), MEAN_RECALL)


@dataclass(frozen=True)
class RankCounts:
    """The ranks of one direction: for query i, how many other items score more than its target (`greater`) or the same (`equal`).

    `query` and `target` are row or column numbers of the score matrix. `missing` marks queries whose video has no
    embedding: they are misses at every k. `gallery` is the number of items ranked. `siblings`: how many other texts of a query's
    video score the same as its target; they count as the target, and are not in `equal`. None: a query has one target.
    """

    query: NDArray[np.int64]
    target: NDArray[np.int64]
    greater: NDArray[np.int64]
    equal: NDArray[np.int64]
    missing: NDArray[np.bool_]
    gallery: int
    siblings: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.query)

    @property
    def targets(self) -> NDArray[np.int64]:
        """How many items, any of which is a hit, score as much as the target, which is one of them."""
        return np.ones(len(self), np.int64) if self.siblings is None else 1 + self.siblings

    @property
    def rank_expected(self) -> NDArray[np.float64]:
        return 1 + self.greater + self.equal / (self.targets + 1)

    @property
    def rank_pessimistic(self) -> NDArray[np.int64]:
        return 1 + self.greater + self.equal

    def hits(self, k: int) -> NDArray[np.float64]:
        """The probability, for each query, of a rank of at most k under a random tie-break; 0 where the video is missing."""
        share = np.clip((k - self.greater) / (self.equal + 1), 0, 1)
        if self.siblings is not None and self.siblings.any():
            share = np.where(self.siblings == 0, share, 1 - _all_foreign(k - self.greater, self.equal, self.targets))
        return np.where(self.missing, 0.0, share)

    def hits_pessimistic(self, k: int) -> NDArray[np.float64]:
        return ((self.rank_pessimistic <= k) & ~self.missing).astype(np.float64)

    def reciprocal(self) -> NDArray[np.float64]:
        """Expected 1/rank: the mean of 1/r over the ranks that the ties allow; 0 where the video is missing."""
        last = int(self.rank_pessimistic.max(initial=1))
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, last + 1))])
        mean = (harmonic[self.rank_pessimistic] - harmonic[self.greater]) / (self.equal + 1)
        if self.siblings is not None and self.siblings.any():
            several = np.flatnonzero(self.siblings)
            counts, place = np.unique(
                np.stack([self.greater, self.equal, self.targets])[:, several], axis=1, return_inverse=True
            )
            mean[several] = np.asarray([_mean_reciprocal(*column) for column in counts.T.tolist()])[place.ravel()]
        return np.where(self.missing, 0.0, mean)

    def points(self, metric: str) -> NDArray[np.float64]:
        """The value of a metric of RECALLS for each query, in percent: the metric is its mean over the queries."""
        if metric == MEAN_RECALL:
            return 100 * np.mean([self.hits(k) for k in RSUM_AT], axis=0)
        return 100 * self.hits(int(metric.removeprefix("R@")))

    def select(self, keep: NDArray[np.bool_]) -> RankCounts:
        """The ranks of the queries in `keep`, among the same gallery."""
        siblings = None if self.siblings is None else self.siblings[keep]
        return RankCounts(
            self.query[keep],
            self.target[keep],
            self.greater[keep],
            self.equal[keep],
            self.missing[keep],
            self.gallery,
            siblings,
        )


def _all_foreign(places: NDArray[np.int64], foreign: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[Any]:
    """C(e, j) / C(e + m, j): the probability that none of the m targets is in the first j places among e + m tied items.

    As the product over i = 1..m of (e - j + i) / (e + i), each factor 0 at the least: 1 for j <= 0, and 0 for j > e.
    """
    share = np.ones(np.broadcast(places, foreign, targets).shape)
    for i in range(1, int(np.max(targets, initial=0)) + 1):
        factor = np.clip((foreign - np.maximum(places, 0) + i) / (foreign + i), 0, 1)
        share = np.where(i <= targets, share * factor, share)
    return share


def _mean_reciprocal(greater: int, foreign: int, targets: int) -> float:
    """The expected 1/rank of the first of `targets` items that tie with `foreign` others, after `greater` items."""
    place = np.arange(foreign + 2)
    chance = -np.diff(
        _all_foreign(place, np.full_like(place, foreign), np.full_like(place, targets))
    )  # of place 1, 2 .. foreign + 1
    return float((chance / (greater + place[1:])).sum())
