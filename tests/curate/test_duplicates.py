from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.curate import thumbnails
from m2raap.curate.duplicates import DuplicateConfig, candidates, near_duplicates, near_pairs


def random_hashes(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, num, np.uint64)


def flip(value: np.uint64, bits: int, rng: np.random.Generator) -> np.uint64:
    for bit in rng.choice(64, bits, replace=False):
        value ^= np.uint64(1) << np.uint64(bit)
    return value


def brute(hashes: np.ndarray, most: int) -> set[tuple[int, int]]:
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= most
    return set(map(tuple, np.argwhere(np.triu(near, 1)).tolist()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_distinct_hashes_pair_as_by_brute_force(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    base = random_hashes(12, seed)
    copies = [flip(base[rng.integers(12)], int(rng.integers(0, 11)), rng) for _ in range(60)]
    hashes = np.unique(np.array([*base, *copies], np.uint64))
    rng.shuffle(hashes)
    found = near_pairs(hashes, most, max_bucket=1000)
    assert set(map(tuple, found.tolist())) == brute(hashes, most)
    assert found[:, 1].tolist() == sorted(found[:, 1].tolist())


def clusters(pairs: set[tuple[int, int]], num: int) -> list[int]:
    """Label of every row: the smallest row of its connected component."""
    labels = list(range(num))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(labels[a], labels[b])
            changed |= labels[a] != low or labels[b] != low
            labels[a] = labels[b] = low
    return labels


def test_equal_hashes_stand_for_each_other_and_clusters_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(3)
    base = random_hashes(30, 3)
    hashes = np.array([flip(base[rng.integers(30)], int(rng.integers(0, 5)), rng) for _ in range(300)], np.uint64)
    found = set(map(tuple, near_pairs(hashes, 6, 1000).tolist()))
    assert found <= brute(hashes, 6)
    assert clusters(found, 300) == clusters(brute(hashes, 6), 300)


def test_a_picture_that_is_everywhere_costs_a_bounded_number_of_pairs() -> None:
    hashes = np.concatenate([np.full(5000, 77, np.uint64), random_hashes(100, 0)])
    found = near_pairs(hashes, 6, 256)
    assert len(found) <= 64 * len(hashes)
    assert set(found[:, 1].tolist()) >= set(range(1, 5000))  # each has a partner before it


def clip(seed: int, k: int = 8) -> np.ndarray:
    """Thumbnails (k, 8, 8, 3) of a bright spot that wanders over a dim, noisy ground."""
    rng = np.random.default_rng(seed)
    frames = np.full((k, 96, 96, 3), 90.0) + rng.normal(0, 2, (k, 96, 96, 3))
    start, step, colour = rng.integers(0, 40, 2), rng.integers(2, 6, 2), rng.integers(0, 255, 3)
    for i in range(k):
        y, x = start + step * i
        frames[i, y : y + 24, x : x + 24] = colour
    return frames.clip(0, 255).astype(np.uint8)


def thumbs(frames: np.ndarray) -> np.ndarray:
    return np.stack([thumbnails.thumbnail(f) for f in frames])


def reworked(frames: np.ndarray, seed: int) -> np.ndarray:
    """Two pixels cut off at a side, brighter, new noise: a re-upload."""
    rng = np.random.default_rng(seed)
    cut = np.pad(frames[:, 2:, :-2], ((0, 0), (0, 2), (2, 0), (0, 0)), mode="edge").astype(float)
    return (cut * 1.05 + 6 + rng.normal(0, 3, cut.shape)).clip(0, 255).astype(np.uint8)


def copies(clips: list[np.ndarray], durations_s: list[float] | None = None, **cfg: float) -> dict[int, int]:
    hashes = np.array([thumbnails.hashes(one) for one in clips], np.int64).view(np.uint64)
    steps = np.stack([thumbnails.in_step(one) for one in clips])
    durations_s = durations_s or [2.5] * len(clips)
    return near_duplicates(hashes, durations_s, lambda rows: steps[rows], DuplicateConfig(**cfg))


def test_reworked_copies_are_found_and_others_stay() -> None:
    frames = [clip(s) for s in range(40)]
    rows = [thumbs(f) for f in frames] + [thumbs(reworked(frames[s], s)) for s in (3, 17, 30)]
    assert copies(rows) == {40: 3, 41: 17, 42: 30}


def test_same_things_moving_otherwise_or_longer_are_no_copies() -> None:
    rows = thumbs(clip(1))
    assert copies([rows, rows[::-1]]) == {}
    assert copies([rows, rows], [2.0, 2.3]) == {}
    assert copies([rows, rows], [2.0, 2.1]) == {1: 0}


def test_chains_of_likeness_end_at_the_first_copy() -> None:
    rng = np.random.default_rng(8)
    one = rng.integers(60, 200, (8, 8, 8, 3)).astype(float)
    drift = rng.normal(0, 12, one.shape)
    rows = [(one + step * drift).clip(0, 255).astype(np.uint8) for step in range(3)]
    cfg = {"max_distance": 0.05, "max_hamming": 12}
    assert copies(rows[:2], **cfg) == {1: 0} and copies(rows[1:], **cfg) == {1: 0}
    assert copies([rows[0], rows[2]], **cfg) == {}
    assert copies(rows, **cfg) == {1: 0}  # the last is like the dropped one only: it stays


def test_shorter_copies_align_by_position() -> None:
    frames = clip(2)
    assert copies([thumbs(frames), thumbs(frames)[[0, 0, 2, 2, 4, 4, 6, 6]][::2]], min_share=0.5) == {1: 0}


def test_candidates_are_sorted_and_unique() -> None:
    one = random_hashes(1, 5)[0]
    found = candidates(np.full((10, 3), one), DuplicateConfig())
    assert found.tolist() == [[i, j] for j in range(10) for i in range(j)]


@pytest.mark.parametrize("num", [0, 1])
def test_few_clips(num: int) -> None:
    assert near_duplicates(np.zeros((num, 3), np.uint64), [1.0] * num, lambda rows: rows, DuplicateConfig()) == {}
