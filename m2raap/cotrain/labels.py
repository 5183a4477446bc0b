"""The clusters of a window in every modality, and what they say of each clip.

N clips of the window, E size of a modality's vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from m2raap.core.clusters import CoarseToFine, coarse_to_fine
from m2raap.cotrain.consistency import cluster_pmi


@dataclass(frozen=True)
class Labels:
    """Of each modality the coarse and the fine cluster (N,) of every clip; -1 for a clip without it."""

    coarse: dict[str, np.ndarray]
    fine: dict[str, np.ndarray]

    def agreement(self, first: str, second: str) -> np.ndarray:
        """(N,) cluster_pmi of the coarse clusters of two modalities; NaN for a clip without one of them."""
        return cluster_pmi(self.coarse[first], self.coarse[second])

    def agreement_of_frames(self) -> dict[str, np.ndarray]:
        """`agreement` of frames with each other modality, by its name."""
        return {sense: self.agreement("frames", sense) for sense in self.coarse if sense != "frames"}

    def mutual_information(self) -> dict[str, float]:
        """Of each pair of modalities the mean cluster_pmi of coarse clusters: how much they tell of each other."""
        means = {}
        for first, second in combinations(sorted(self.coarse), 2):
            score_N = self.agreement(first, second)
            known = ~np.isnan(score_N)
            if known.sum() > 1:
                means[f"{first}-{second}"] = float(score_N[known].mean())
        return means


def label_window(
    vectors: dict[str, np.ndarray],
    coarse: int,
    fine: int,
    seed: int,
    before: dict[str, CoarseToFine],
) -> tuple[Labels, dict[str, CoarseToFine]]:
    """Clusters each modality of a window, from the centres of the round before where there are any of its size.

    Vectors are unit rows, or any rows of one scale; 0 for a clip without the modality, which gets no cluster.
    """
    labels, centres = Labels({}, {}), {}
    for name, vectors_NE in vectors.items():
        vectors_NE = centred(vectors_NE, mean_of_present(vectors_NE))
        rows = np.flatnonzero(np.abs(vectors_NE).sum(1) > 0)
        start = before.get(name)
        if start is not None and start.coarse_CE.shape[1] != vectors_NE.shape[1]:
            start = None
        centres[name] = coarse_to_fine(vectors_NE[rows], coarse, fine, seed, start=start)
        labels.coarse[name], labels.fine[name] = (np.full(len(vectors_NE), -1, np.int64) for _ in range(2))
        labels.coarse[name][rows], labels.fine[name][rows] = centres[name].assign(vectors_NE[rows])
    return labels, centres


def centred(vectors_NE: np.ndarray, mean_E: np.ndarray) -> np.ndarray:
    """Unit rows less a mean, 0 where a row is 0: raw values, and the vectors of towers, share a large common part."""
    present = np.abs(vectors_NE).sum(1) > 0
    moved = np.where(present[:, None], vectors_NE - mean_E, 0.0)
    return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def mean_of_present(vectors_NE: np.ndarray) -> np.ndarray:
    """(E,) mean of the rows that are not 0."""
    return vectors_NE[np.abs(vectors_NE).sum(1) > 0].mean(0)
