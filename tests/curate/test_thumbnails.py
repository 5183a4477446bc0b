from __future__ import annotations

import numpy as np
import pytest

from m2raap.curate.thumbnails import SIDE, hashes, in_step, matching_shares, thumbnail


def noise(seed: int, k: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (k, SIDE, SIDE, 3)).astype(np.uint8)


def flat(grey: int, k: int = 8) -> np.ndarray:
    return np.full((k, SIDE, SIDE, 3), grey, np.uint8)


def test_thumbnail_is_the_mean_of_areas() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:2, :2] = 200
    assert thumbnail(image).shape == (SIDE, SIDE, 3)
    assert thumbnail(image)[0, 0, 0] == pytest.approx(200) and thumbnail(image)[1:].max() == 0


def test_hashes_bear_noise_and_brightness_and_tell_strangers_and_order() -> None:
    rng = np.random.default_rng(0)
    one = noise(1)
    copy = (one * 0.95 + 8 + rng.normal(0, 6, one.shape)).clip(0, 255).astype(np.uint8)

    def distance(a: np.ndarray, b: np.ndarray) -> list[int]:
        return [((x ^ y) & (2**64 - 1)).bit_count() for x, y in zip(hashes(a), hashes(b), strict=True)]

    assert max(distance(one, copy)) <= 8
    assert min(distance(one, noise(2))) > 12
    assert distance(one, one[::-1])[0] > 12


def test_what_shows_nothing_has_no_hash() -> None:
    assert hashes(flat(0)) is None and hashes(flat(180)) is None
    half = np.concatenate([flat(0, 4), noise(3, 4)])
    assert hashes(half) is not None
    assert hashes(half)[1] == hashes(half)[0]  # an empty half goes by the whole


def test_frames_are_taken_at_their_relative_positions() -> None:
    rows = noise(4, 3)
    assert [int((rows == frame).all(axis=(1, 2, 3)).argmax()) for frame in in_step(rows)] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert in_step(rows[:1]).shape == (8, SIDE, SIDE, 3)


def test_flat_frames_match_nothing_and_the_same_ground_does_not_count() -> None:
    black, picture = flat(0), noise(5)

    def share(a: np.ndarray, b: np.ndarray) -> float:
        return float(matching_shares(a[None], b[None], 0.1)[0])

    assert share(black, black) == 0 and share(flat(120), flat(120)) == 0
    mixed = np.concatenate([black[:4], picture[4:]])
    assert share(mixed, mixed) == 1  # four frames show something, and those match
    assert share(mixed, np.concatenate([flat(200, 4), picture[4:]])) == 0.5  # another ground is a difference
    assert share(mixed, picture) == 0.5
    almost_all_black = np.concatenate([black[:7], picture[7:]])
    assert share(almost_all_black, almost_all_black) == 0  # one frame is no clip


def test_share_by_hand() -> None:
    rng = np.random.default_rng(6)
    a = noise(7)
    b = (a + rng.normal(0, 30, a.shape)).clip(0, 255).astype(np.uint8)
    hits = 0
    for x, y in zip(a.astype(float), b.astype(float), strict=True):
        x, y = x - x.mean(axis=(0, 1)), y - y.mean(axis=(0, 1))
        hits += ((x - y) ** 2).sum() / ((x**2).sum() + (y**2).sum()) <= 0.075
    assert 0 < hits < 8
    assert matching_shares(a[None], b[None], 0.075)[0] == pytest.approx(hits / 8)
