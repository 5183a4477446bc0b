"""The clusters of a window in every modality, and what they say of each clip.

N clips of the window, E size of a modality's vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from m2raap.core.clusters import CoarseToFine, coarse_to_fine
from m2raap.cotrain.consistency import cluster_pmi

KINDS = ("coarse", "fine")


@dataclass(frozen=True)
class Labels:
    """Of each modality the coarse and the fine cluster (N,) of every clip; -1 for a clip without it."""

    coarse: dict[str, np.ndarray]
    fine: dict[str, np.ndarray]

    @classmethod
    def joined(cls, parts: Sequence[Labels]) -> Labels:
        """Those of several sets of clips, one after the other."""
        whole = (
            {name: np.concatenate([getattr(part, kind)[name] for part in parts]) for name in parts[0].coarse}
            for kind in KINDS
        )
        return cls(*whole)

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


@dataclass(frozen=True)
class ModalityClusters:
    """The clusters of a modality, of unit vectors less their mean: raw values and the vectors of towers share a large part."""

    mean_E: np.ndarray
    centres: CoarseToFine

    def continues(self, before: ModalityClusters) -> bool:
        """Whether the numbers of clusters mean what they did before: not where there are more or fewer."""
        return len(self.centres.coarse_CE) == len(before.centres.coarse_CE)

    def assign(self, vectors_NE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the coarse and the fine cluster of every row; -1 for rows of NaN."""
        rows = np.flatnonzero(~np.isnan(vectors_NE[:, 0]))
        coarse_N, fine_N = (np.full(len(vectors_NE), -1, np.int64) for _ in range(2))
        coarse_N[rows], fine_N[rows] = self.centres.assign(centred(vectors_NE[rows], self.mean_E))
        return coarse_N, fine_N


def cluster_window(
    vectors: dict[str, np.ndarray],
    coarse: int,
    fine: int,
    seed: int,
    before: dict[str, ModalityClusters],
) -> dict[str, ModalityClusters]:
    """Clusters each modality of a window, from the centres of the round before, in the same space, where they are as many.

    Vectors (N, E) are unit rows, or any rows of one scale; NaN for a clip without the modality. A modality that fewer than two
    clips have, or all the same, gets no clusters.
    """
    clusters = {}
    for name, vectors_NE in vectors.items():
        vectors_NE = vectors_NE[~np.isnan(vectors_NE[:, 0])]
        if not (vectors_NE != vectors_NE[:1]).any():
            continue
        mean_E = vectors_NE.mean(0)
        start = before[name].centres if name in before else None
        clusters[name] = ModalityClusters(
            mean_E, coarse_to_fine(centred(vectors_NE, mean_E), coarse, fine, seed, start=start)
        )
    return clusters


def label(vectors: dict[str, np.ndarray], clusters: dict[str, ModalityClusters]) -> Labels:
    """The clusters of every clip in each modality; -1 throughout for a modality that has none."""
    none_N = np.full(len(next(iter(vectors.values()))), -1, np.int64)
    of = {
        name: clusters[name].assign(vectors_NE) if name in clusters else (none_N, none_N)
        for name, vectors_NE in vectors.items()
    }
    return Labels({name: both[0] for name, both in of.items()}, {name: both[1] for name, both in of.items()})


def centred(vectors_NE: np.ndarray, mean_E: np.ndarray) -> np.ndarray:
    """Unit rows less a mean."""
    moved = vectors_NE - mean_E
    return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)).astype(np.float32)
