from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.errors import M2raapError
from m2raap.retrieval.index import KINDS, Kind, VectorIndex, build_index, choose_kind, write_index


def clustered(num: int = 1200, dim: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed])
    centres = rng.normal(size=(40, dim))
    found = centres[rng.integers(0, 40, num)] + 0.5 * rng.normal(size=(num, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


VECTORS = clustered()
QUERIES = clustered(40, seed=1)


def opened(folder: Path, kind: Kind, vectors: np.ndarray = VECTORS) -> VectorIndex:
    digest = write_index(build_index(vectors, kind), folder / "index.faiss")
    return VectorIndex.open(folder / "index.faiss", digest, kind, vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_hits_and_exact_scores(tmp_path: Path, kind: Kind) -> None:
    index = opened(tmp_path, kind)
    rows, scores = index.search(QUERIES, 10)
    truth = np.argsort(-(QUERIES @ VECTORS.T), axis=1, kind="stable")[:, :10]
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, truth, strict=True)])
    assert recall == 1.0 if kind == "flat" else recall > 0.9
    assert np.allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, axis=1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    allowed = np.arange(len(VECTORS)) % 3 == 0
    rows, _ = index.search(QUERIES, 10, allowed)
    expected = np.flatnonzero(allowed)[np.argsort(-(QUERIES @ VECTORS[allowed].T), axis=1, kind="stable")[:, :10]]
    assert (rows == expected).all(), "a filter that leaves few clips is answered exactly by every kind"


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "pq"])
def test_a_filter_inside_faiss(tmp_path: Path, kind: Kind, monkeypatch) -> None:
    monkeypatch.setattr("m2raap.retrieval.index.SCAN_MOST", 0)
    allowed = np.arange(len(VECTORS)) % 3 == 0
    index = opened(tmp_path, kind)
    rows, _ = index.search(QUERIES, 5, allowed)
    assert (rows >= 0).all() and allowed[rows].all()
    all_scored, _ = index.search(QUERIES, 5, allowed, exact=True)
    expected = np.flatnonzero(allowed)[np.argsort(-(QUERIES @ VECTORS[allowed].T), axis=1, kind="stable")[:, :5]]
    assert (all_scored == expected).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_vectors_make_the_same_bytes(tmp_path: Path, kind: Kind) -> None:
    digests = {write_index(build_index(VECTORS[:600], kind), tmp_path / str(n)) for n in range(2)}
    assert len(digests) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32), st.integers(1, 3))
def test_flat_is_brute_force_with_ties_by_row(num: int, top: int, seed: int, levels: int) -> None:
    rng = np.random.default_rng([seed])
    vectors = rng.integers(-levels, levels + 1, (num, 3)).astype(np.float32)
    query = rng.integers(-levels, levels + 1, (1, 3)).astype(np.float32)
    allowed = rng.random(num) < 0.6
    index = VectorIndex("flat", vectors, build_index(vectors, "flat"))
    rows, scores = index.search(query, top, allowed)
    expected = sorted(np.flatnonzero(allowed), key=lambda row: (-float(vectors[row] @ query[0]), row))[:top]
    assert rows[0].tolist() == expected and scores[0].tolist() == [float(vectors[row] @ query[0]) for row in expected]


def test_only_the_signed_file_is_opened(tmp_path: Path) -> None:
    opened(tmp_path, "flat")
    path = tmp_path / "index.faiss"
    with pytest.raises(M2raapError, match="index.faiss: .*make the index again"):
        VectorIndex.open(path, "0" * 64, "flat", VECTORS)
    digest = write_index(build_index(VECTORS[:-1], "flat"), path)
    with pytest.raises(M2raapError, match=r"holds 1199 vectors .*\(1200, 32\)"):
        VectorIndex.open(path, digest, "flat", VECTORS)


def test_kinds_by_size() -> None:
    assert [choose_kind(n) for n in (1, 200_000, 200_001, 2_000_000, 2_000_001)] == [
        "flat",
        "flat",
        "hnsw",
        "hnsw",
        "pq",
    ]
    with pytest.raises(M2raapError, match="at least 256 clips.* 255"):
        build_index(VECTORS[:255], "pq")
