from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.curate.balance import BalanceConfig, centres, clip_vector, last_places, nearest, place


def blobs(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    middles = np.eye(len(sizes), 16)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = middles[labels] + 0.05 * rng.normal(size=(len(labels), 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def test_clusters_are_found_and_seeded() -> None:
    rows, labels = blobs([300, 40, 40, 20])
    cfg = BalanceConfig(target=100, clusters=12)
    found = centres(rows, cfg)
    assert np.array_equal(found, centres(rows, cfg))
    given = [nearest(row, found) for row in rows]
    assert len({(a, b) for a, b in zip(labels.tolist(), given, strict=True)}) == 12  # no cluster holds two kinds
    assert centres(rows[:3], cfg).shape == (3, 16)  # never more centres than clips


def kept(clusters: list[int], ids: list[str], target: int) -> list[int]:
    places = [place(name, 0) for name in ids]
    last = last_places(clusters, places, target)["last"]
    return [i for i, c in enumerate(clusters) if str(c) not in last or places[i] <= last[str(c)]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(1, 90), st.randoms())
def test_the_target_is_met_exactly_and_as_evenly_as_can_be(clusters: list[int], target: int, random) -> None:
    ids = [f"c{i}" for i in range(len(clusters))]
    stay = kept(clusters, ids, target)
    assert len(stay) == min(target, len(clusters))
    sizes, whole = np.bincount([clusters[i] for i in stay], minlength=7), np.bincount(clusters, minlength=7)
    cut = sizes[sizes < whole]
    if len(cut):
        assert sizes.max() <= cut.min() + 1  # no cluster has more than one over one that was cut
    order = random.sample(range(len(ids)), len(ids))
    again = kept([clusters[i] for i in order], [ids[i] for i in order], target)
    assert {ids[i] for i in stay} == {ids[order[i]] for i in again}


def test_a_small_corpus_stays_whole() -> None:
    assert last_places([0, 0, 1], [5, 6, 7], 3) == {"cap": None, "last": {}}
    assert last_places([0, 1, 2], [5, 6, 7], 1)["last"] == {"0": 5, "1": -1, "2": -1}


def test_vectors_and_draw() -> None:
    assert np.linalg.norm(clip_vector(np.array([[1.0, 0.0], [0.0, 1.0]]))) == pytest.approx(1)
    assert place("a", 0) == place("a", 0) != place("a", 1)
    assert 0 <= place("a", 0) < 2**63
