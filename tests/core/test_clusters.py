"""Clusters: against brute force, the same for the same rows, warm starts, coarse to fine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.clusters import coarse_to_fine, nearest_centres, spherical_kmeans


def blobs(num_blobs: int, each: int, seed: int, dim: int = 16, noise: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(num_blobs, dim))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    labels = np.repeat(np.arange(num_blobs), each)
    vectors = middles[labels] + rng.normal(0, noise / np.sqrt(dim), (len(labels), dim))
    order = rng.permutation(len(labels))
    vectors = vectors[order] / np.linalg.norm(vectors[order], axis=1, keepdims=True)
    return vectors.astype(np.float32), labels[order]


def lloyd(vectors: np.ndarray, centres: np.ndarray, iterations: int) -> np.ndarray:
    """k-means by loops."""
    for _ in range(iterations):
        nearest = np.array([int(np.argmax([float(v @ c) for c in centres])) for v in vectors])
        for number in range(len(centres)):
            if (nearest == number).any():
                total = vectors[nearest == number].sum(0)
                centres[number] = total / np.linalg.norm(total)
    return centres


def test_it_is_lloyds_algorithm_from_the_same_start() -> None:
    vectors, _ = blobs(4, 12, seed=1)
    start = vectors[:4].copy()
    centres = spherical_kmeans(vectors, 4, 0, iterations=5, start_CE=start)
    np.testing.assert_allclose(centres, lloyd(vectors.copy(), start.copy(), 5), atol=1e-5)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_assignment_is_the_highest_cosine(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, centres = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    assert nearest_centres(vectors, centres).tolist() == (vectors @ centres.T).argmax(1).tolist()


def test_blobs_come_out_the_same_every_time_also_coarse_to_fine() -> None:
    vectors, labels = blobs(12, 30, seed=2)
    clusters = coarse_to_fine(vectors, 4, 6, seed=0)
    coarse, fine = clusters.assign(vectors)
    again = coarse_to_fine(vectors, 4, 6, seed=0)
    np.testing.assert_array_equal(clusters.fine_CE, again.fine_CE)
    purest = sum(np.bincount(labels[fine == number]).max() for number in set(fine.tolist()))
    assert purest > 0.9 * len(labels)
    assert all(clusters.first[c] <= f < clusters.first[c + 1] for c, f in zip(coarse, fine, strict=True))
    for row in range(0, len(vectors), 7):
        first, stop = clusters.first[coarse[row]], clusters.first[coarse[row] + 1]
        assert fine[row] == first + (clusters.fine_CE[first:stop] @ vectors[row]).argmax()


def test_a_warm_start_keeps_the_numbers() -> None:
    vectors, _ = blobs(6, 40, seed=3)
    clusters = coarse_to_fine(vectors, 3, 4, seed=0)
    rng = np.random.default_rng(0)
    moved = vectors + rng.normal(0, 0.02, vectors.shape).astype(np.float32)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    later = coarse_to_fine(moved, 3, 4, seed=9, start=clusters)
    assert later.first.tolist() == clusters.first.tolist()
    for before, after in zip(clusters.assign(vectors), later.assign(moved), strict=True):
        assert (before == after).mean() > 0.9


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_vectors_make_few_clusters(count: int) -> None:
    vectors, _ = blobs(1, count, seed=4)
    clusters = coarse_to_fine(vectors, 4, 3, seed=0)
    coarse, fine = clusters.assign(vectors)
    assert len(clusters.coarse_CE) == min(4, count) and len(coarse) == len(fine) == count
    assert clusters.first[-1] == len(clusters.fine_CE)
