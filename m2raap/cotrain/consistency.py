"""How well the clusters of two modalities agree on a clip: pointwise mutual information, without the clip itself.

N clips, K clusters of a modality.
"""

from __future__ import annotations

import numpy as np

SMOOTHING = 0.1  # clips that are added to a count, so that a pair of clusters that no other clip has is finite


def cluster_pmi(first_N: np.ndarray, second_N: np.ndarray) -> np.ndarray:
    """(N,) log of how much likelier the two clusters of a clip occur together than by chance, among the other clips.

    Above 0: the clusters go together. The clip itself is taken out of all counts, so that a pair of clusters that it alone has
    speaks against it.
    """
    count = len(first_N)
    if count < 2:
        return np.zeros(count)
    _, first_N = np.unique(first_N, return_inverse=True)
    _, second_N = np.unique(second_N, return_inverse=True)
    num_second = int(second_N.max()) + 1
    pair_N = first_N * num_second + second_N
    _, place_N, together = np.unique(pair_N, return_inverse=True, return_counts=True)
    both_N = together[place_N] - 1 + SMOOTHING
    of_first_N = np.bincount(first_N)[first_N] - 1 + SMOOTHING
    of_second_N = np.bincount(second_N)[second_N] - 1 + SMOOTHING
    return np.log((count - 1) * both_N / (of_first_N * of_second_N))
