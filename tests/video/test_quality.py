from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2raap.video import quality


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_hamming_equals_bit_by_bit(one: int, two: int) -> None:
    bits = [(one >> i & 1) != (two >> i & 1) for i in range(64)]
    assert quality.hamming(one, two) == sum(bits)


def test_dhash_is_signed_64_bit_and_knows_mirror_images() -> None:
    ramp_HW = np.tile(np.arange(180, dtype=np.uint8), (90, 1))
    assert quality.dhash64(ramp_HW) == -1  # every pixel darker than its right neighbour: 64 ones
    assert quality.dhash64(np.ascontiguousarray(ramp_HW[:, ::-1])) == 0
    rng = np.random.default_rng(0)
    picture_HW = np.kron(rng.integers(0, 255, (9, 16), dtype=np.uint8), np.ones((10, 10), np.uint8))
    noisy_HW = np.clip(picture_HW.astype(int) + rng.integers(-3, 4, picture_HW.shape), 0, 255).astype(np.uint8)
    assert quality.hamming(quality.dhash64(picture_HW), quality.dhash64(noisy_HW)) <= 3
    assert quality.hamming(quality.dhash64(picture_HW), quality.dhash64(picture_HW[:, ::-1].copy())) > 10


def test_blur_lowers_the_laplacian() -> None:
    rng = np.random.default_rng(1)
    sharp_HW = rng.integers(0, 255, (90, 160), dtype=np.uint8)
    soft_HW = ((sharp_HW.astype(int) + np.roll(sharp_HW, 1, 0) + np.roll(sharp_HW, 1, 1)) // 3).astype(np.uint8)
    assert quality.blur_variance(soft_HW) < quality.blur_variance(sharp_HW)
    assert quality.blur_variance(np.full((90, 160), 7, np.uint8)) == 0


def test_black_and_flat() -> None:
    black_HW = np.full((100, 100), 16, np.uint8)
    assert quality.is_black(black_HW) and quality.is_flat(black_HW)
    black_HW[:3] = 200  # 3 % of the picture is lit
    assert not quality.is_black(black_HW)
    brightest_HW = np.full((100, 100), quality.BLACK_LUMA - 1, np.uint8)
    brightest_HW[:2] = 255  # 2 %, the brightest picture that is still black
    assert quality.is_black(brightest_HW)
    assert quality.is_flat(np.full((100, 100), 235, np.uint8))


def test_mean_difference() -> None:
    assert quality.mean_difference(np.full((4, 4), 10, np.uint8), np.full((4, 4), 250, np.uint8)) == 240
