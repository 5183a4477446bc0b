"""How well the clusters of two modalities agree on a clip: pointwise mutual information, without the clip itself.

N rows, M of them with both clusters.
"""

from __future__ import annotations

import numpy as np

SMOOTHING = 0.1  # clips that are added to a count, so that a pair of clusters that no other clip has is finite


def cluster_pmi(first_N: np.ndarray, second_N: np.ndarray, clip_N: np.ndarray | None = None) -> np.ndarray:
    """(N,) log of how much likelier the two clusters of a row occur together than by chance, among the rows of other clips.

    Above 0: the clusters go together. `clip_N`: the clip of each row, where one has several; None: rows are clips. All rows of
    the clip itself are taken out of the counts, so that a pair of clusters that it alone has speaks against it. NaN where one
    of the clusters is -1, which is no cluster.
    """
    score_N = np.full(len(first_N), np.nan)
    rows = np.flatnonzero((first_N >= 0) & (second_N >= 0))
    if not len(rows):
        return score_N
    _, clip_M = np.unique(rows if clip_N is None else clip_N[rows], return_inverse=True)
    _, first_M = np.unique(first_N[rows], return_inverse=True)
    _, second_M = np.unique(second_N[rows], return_inverse=True)
    pair_M = first_M * (int(second_M.max()) + 1) + second_M
    of_all_M = _among_others(np.zeros(len(rows), np.int64), clip_M)
    both_M, of_first_M, of_second_M = (
        _among_others(key_M, clip_M) + SMOOTHING for key_M in (pair_M, first_M, second_M)
    )
    score_N[rows] = np.where(of_all_M > 0, np.log(np.maximum(of_all_M, 1) * both_M / (of_first_M * of_second_M)), 0.0)
    return score_N


def _among_others(key_M: np.ndarray, clip_M: np.ndarray) -> np.ndarray:
    """(M,) number of rows of other clips with the key of a row."""
    _, place_M, counts = np.unique(key_M, return_inverse=True, return_counts=True)
    together_M = place_M * (int(clip_M.max()) + 1) + clip_M
    _, place_together_M, counts_together = np.unique(together_M, return_inverse=True, return_counts=True)
    return counts[place_M] - counts_together[place_together_M]
