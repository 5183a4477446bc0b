"""Measures of small luma planes: darkness, flatness, blur, difference, and a 64-bit difference hash."""

from __future__ import annotations

import numpy as np

# As in FFmpeg's blackdetect: a pixel is black below 10 % of full luma, a picture where 98 % of its pixels are black.
BLACK_LUMA = 26
BLACK_PIXEL_SHARE = 0.98
_MEAN_OF_BLACK = BLACK_LUMA + 255 * (1 - BLACK_PIXEL_SHARE)  # no black picture has a greater mean luma
# Mean absolute luma difference (0..255) of two frames below which nothing moves. The -60 dB of FFmpeg's freezedetect are
# 0.26; the coding noise of a still picture at web bitrates reaches about twice that.
FROZEN_DIFFERENCE = 0.5
# Standard deviation of luma (0..255) below which a picture is flat: a flash, a card of one colour.
FLAT_STD = 4.0


def luma(plane_HWC: np.ndarray) -> np.ndarray:
    """uint8 BGR [H, W, 3] -> uint8 luma [H, W] (BT.601)."""
    import cv2

    return cv2.cvtColor(plane_HWC, cv2.COLOR_BGR2GRAY)


def blur_variance(luma_HW: np.ndarray) -> float:
    """Variance of the Laplacian: high is sharp. Comparable only between planes of one size (Pech-Pacheco 2000)."""
    import cv2

    _, deviation = cv2.meanStdDev(cv2.Laplacian(luma_HW, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def is_black(luma_HW: np.ndarray) -> bool:
    """Whether at least BLACK_PIXEL_SHARE of the pixels are black."""
    if mean(luma_HW) > _MEAN_OF_BLACK:  # most pictures, which need no count
        return False
    return float(np.count_nonzero(luma_HW < BLACK_LUMA)) >= BLACK_PIXEL_SHARE * luma_HW.size


def is_flat(luma_HW: np.ndarray) -> bool:
    """Whether the standard deviation of the luma is below FLAT_STD."""
    import cv2

    return float(cv2.meanStdDev(luma_HW)[1][0, 0]) < FLAT_STD


def mean(luma_HW: np.ndarray) -> float:
    """Mean luma, 0..255."""
    import cv2

    return cv2.mean(luma_HW)[0]


def mean_difference(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    """Mean absolute difference of two uint8 planes, 0..255."""
    import cv2

    return cv2.norm(a_HW, b_HW, cv2.NORM_L1) / a_HW.size


def dhash64(luma_HW: np.ndarray) -> int:
    """64-bit difference hash as a signed integer: a bit is 1 where a pixel of the 9x8 reduction is darker than the one to its
    right."""
    import cv2

    # Through a multiple of the size first, because averaging areas of whole pixels takes a tenth of the time.
    small = cv2.resize(cv2.resize(luma_HW, (36, 32)), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


def hamming(a: int, b: int) -> int:
    """Number of bits in which two 64-bit hashes differ."""
    return ((a ^ b) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()
