"""Clusters on the sphere: k-means (FAISS), in one step or coarse to fine.

N vectors, E dimensions, C clusters. Vectors and centres are unit rows in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

POINTS_A_CLUSTER = 256  # vectors for each cluster; k-means learns nothing from more (FAISS's own limit)


@contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS with one thread: several would sum in an order that varies."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def spherical_kmeans(
    vectors_NE: np.ndarray, clusters: int, seed: int, iterations: int = 20, start_CE: np.ndarray | None = None
) -> np.ndarray:
    """(C, E) unit centres; at most as many as there are vectors. The same rows give the same centres.

    `start_CE`: centres to begin with (warm start), where they are as many as will come out.
    """
    import faiss

    clusters = min(clusters, len(vectors_NE))
    start = start_CE if start_CE is not None and len(start_CE) == clusters else None
    with _one_thread():
        kmeans = faiss.Kmeans(
            vectors_NE.shape[1], clusters, niter=iterations, seed=seed, spherical=True,
            max_points_per_centroid=POINTS_A_CLUSTER, min_points_per_centroid=1,
        )  # fmt: skip
        kmeans.train(np.ascontiguousarray(vectors_NE, np.float32), init_centroids=start)
    assert kmeans.centroids is not None
    return kmeans.centroids


def nearest_centres(vectors_NE: np.ndarray, centres_CE: np.ndarray) -> np.ndarray:
    """(N,) index of the centre with the highest cosine."""
    import faiss

    index = faiss.IndexFlatIP(centres_CE.shape[1])
    index.add(np.ascontiguousarray(centres_CE, np.float32))
    with _one_thread():
        _, nearest_N1 = index.search(np.ascontiguousarray(vectors_NE, np.float32), 1)
    return nearest_N1[:, 0]


@dataclass(frozen=True)
class CoarseToFine:
    """Clusters within clusters: a vector is compared with the coarse centres, then with the fine ones of the nearest.

    `fine_CE` holds the fine centres one coarse cluster after the other; those of cluster c are rows first[c] .. first[c + 1].
    """

    coarse_CE: np.ndarray
    fine_CE: np.ndarray
    first: np.ndarray

    def assign(self, vectors_NE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the coarse and the fine cluster of every vector, the fine ones numbered through."""
        coarse_N = nearest_centres(vectors_NE, self.coarse_CE)
        fine_N = np.zeros(len(vectors_NE), np.int64)
        for cluster in np.unique(coarse_N).tolist():
            rows = np.flatnonzero(coarse_N == cluster)
            start, stop = self.first[cluster : cluster + 2].tolist()
            fine_N[rows] = start + nearest_centres(vectors_NE[rows], self.fine_CE[start:stop])
        return coarse_N, fine_N


def coarse_to_fine(
    vectors_NE: np.ndarray, coarse: int, fine: int, seed: int, iterations: int = 20, start: CoarseToFine | None = None
) -> CoarseToFine:
    """`coarse` clusters, each divided into `fine` ones, or into as many as it has vectors.

    An assignment compares a vector with coarse + fine centres in place of coarse x fine. `start`: clusters of before, whose
    centres are the first guess, so that numbers keep their meaning; it keeps the number of fine clusters of each coarse one. It
    is not read where it has more or fewer coarse clusters than will come out.
    """
    if start and len(start.coarse_CE) != min(coarse, len(vectors_NE)):
        start = None
    coarse_CE = spherical_kmeans(vectors_NE, coarse, seed, iterations, start.coarse_CE if start else None)
    coarse_N = nearest_centres(vectors_NE, coarse_CE)
    parts: list[np.ndarray] = []
    for cluster in range(len(coarse_CE)):
        rows = np.flatnonzero(coarse_N == cluster)
        before = start.fine_CE[slice(*start.first[cluster : cluster + 2])] if start else None
        count = len(before) if before is not None else fine
        if len(rows) < count and before is not None:
            parts.append(before)  # too few vectors to move the centres of before
        elif len(rows) == 0:
            parts.append(coarse_CE[cluster : cluster + 1])
        else:
            parts.append(spherical_kmeans(vectors_NE[rows], count, seed + 1 + cluster, iterations, before))
    first = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return CoarseToFine(coarse_CE, np.concatenate(parts), first)
