from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.curate.thumbnails import SIDE, DuplicateConfig, near_duplicates, thumbnail


def clip(seed: int, k: int = 8) -> np.ndarray:
    """Frames with a bright spot that wanders over a dim, noisy ground."""
    rng = np.random.default_rng(seed)
    frames = np.full((k, 96, 96, 3), 90.0) + rng.normal(0, 2, (k, 96, 96, 3))
    start, step, colour = rng.integers(0, 40, 2), rng.integers(2, 6, 2), rng.integers(0, 255, 3)
    for i in range(k):
        y, x = start + step * i
        frames[i, y : y + 24, x : x + 24] = colour
    return frames.clip(0, 255).astype(np.uint8)


def thumbs(frames: np.ndarray) -> np.ndarray:
    return np.stack([thumbnail(f) for f in frames])


def reworked(frames: np.ndarray, seed: int) -> np.ndarray:
    """Two pixels cut off at a side, brighter, new noise: a re-upload."""
    rng = np.random.default_rng(seed)
    cut = np.pad(frames[:, 2:, :-2], ((0, 0), (0, 2), (2, 0), (0, 0)), mode="edge").astype(float)
    return (cut * 1.05 + 6 + rng.normal(0, 3, cut.shape)).clip(0, 255).astype(np.uint8)


def test_reworked_copies_are_found_and_others_stay() -> None:
    frames = [clip(s) for s in range(40)]
    frames += [reworked(frames[s], s) for s in (3, 17, 30)]
    ids = [f"b{i:02d}" for i in range(40)] + ["a", "c", "d"]
    rows = [thumbs(f) for f in frames]
    assert near_duplicates(ids, rows, [2.5] * 43) == {"b03": "a", "c": "b17", "d": "b30"}
    turned = list(reversed(range(43)))
    again = near_duplicates([ids[i] for i in turned], [rows[i] for i in turned], [2.5] * 43)
    assert again == {"b03": "a", "c": "b17", "d": "b30"}


def test_same_things_moving_otherwise_are_no_copies() -> None:
    rows = thumbs(clip(1))
    assert near_duplicates(["a", "b"], [rows, rows[::-1]], [2.0, 2.0]) == {}
    assert near_duplicates(["a", "b"], [rows, rows], [2.0, 2.3]) == {}
    assert near_duplicates(["a", "b"], [rows, rows], [2.0, 2.1]) == {"b": "a"}


def test_the_better_copy_is_kept() -> None:
    frames = clip(1)
    rows = [thumbs(frames), thumbs(reworked(frames, 0)), thumbs(clip(2))]
    assert near_duplicates(["a", "b", "c"], rows, [2.0] * 3, quality=[1.0, 2.0, 3.0]) == {"a": "b"}
    assert near_duplicates(["a", "b", "c"], rows, [2.0] * 3, quality=[1.0, 1.0, 3.0]) == {"b": "a"}


def test_flat_frames_and_empty_clips_match_nothing() -> None:
    black = np.zeros((8, SIDE, SIDE, 3), np.uint8)
    half = np.concatenate([black[:4], thumbs(clip(2, 4))])
    assert near_duplicates(["a", "b"], [black, black], [2.0, 2.0]) == {}
    assert near_duplicates(["a", "b"], [half, half], [2.0, 2.0]) == {}
    assert near_duplicates(["a", "b"], [half, half], [2.0, 2.0], DuplicateConfig(min_share=0.5)) == {"b": "a"}
    assert near_duplicates(["a", "b"], [black[:0], black[:0]], [0.0, 0.0]) == {}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_same_as_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 255, (3, 4, SIDE, SIDE, 3))
    rows = [(base[rng.integers(3)] + rng.normal(0, 30, base[0].shape)).clip(0, 255).astype(np.uint8) for _ in range(9)]
    ids = [f"c{i}" for i in rng.permutation(9)]
    cfg = DuplicateConfig(max_distance=0.1)
    expected: dict[str, str] = {}
    for i in sorted(range(9), key=lambda i: ids[i]):
        for j in sorted(range(9), key=lambda j: ids[j]):
            if ids[j] >= ids[i] or ids[j] in expected:
                continue
            hits = 0
            for a, b in zip(rows[i].astype(float), rows[j].astype(float), strict=True):
                a, b = a - a.mean(axis=(0, 1)), b - b.mean(axis=(0, 1))
                hits += ((a - b) ** 2).sum() / ((a**2).sum() + (b**2).sum()) <= cfg.max_distance
            if hits >= 3:  # 60% of 4 frames
                expected[ids[i]] = ids[j]
                break
    assert near_duplicates(ids, rows, [1.0] * 9, cfg) == expected


def test_thumbnail_is_the_mean_of_areas() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:2, :2] = 200
    assert thumbnail(image).shape == (SIDE, SIDE, 3)
    assert thumbnail(image)[0, 0, 0] == pytest.approx(200) and thumbnail(image)[1:].max() == 0
