"""How well the clusters of two modalities agree on a clip: pointwise mutual information, without the clip itself.

N clips, M of them with both modalities.
"""

from __future__ import annotations

import numpy as np

SMOOTHING = 0.1  # clips that are added to a count, so that a pair of clusters that no other clip has is finite


def cluster_pmi(first_N: np.ndarray, second_N: np.ndarray) -> np.ndarray:
    """(N,) log of how much likelier the two clusters of a clip occur together than by chance, among the other clips.

    Above 0: the clusters go together. The clip itself is taken out of all counts, so that a pair of clusters that it alone has
    speaks against it. NaN where one of the clusters is -1, which is no cluster.
    """
    score_N = np.full(len(first_N), np.nan)
    rows = np.flatnonzero((first_N >= 0) & (second_N >= 0))
    count = len(rows)
    if count < 2:
        score_N[rows] = 0.0
        return score_N
    _, first_M = np.unique(first_N[rows], return_inverse=True)
    _, second_M = np.unique(second_N[rows], return_inverse=True)
    pair_M = first_M * (int(second_M.max()) + 1) + second_M
    _, place_M, together = np.unique(pair_M, return_inverse=True, return_counts=True)
    both_M = together[place_M] - 1 + SMOOTHING
    of_first_M = np.bincount(first_M)[first_M] - 1 + SMOOTHING
    of_second_M = np.bincount(second_M)[second_M] - 1 + SMOOTHING
    score_N[rows] = np.log((count - 1) * both_M / (of_first_M * of_second_M))
    return score_N
