"""Thumbnails and blur of key-frames."""

from __future__ import annotations

import numpy as np
import pytest

from m2raap.curate.picture_signals import picture_signals


def test_picture_signals_measure_blur_and_thumbnails() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    sharp = cv2.resize(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8), (240, 240), interpolation=cv2.INTER_NEAREST)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 12)
    dim = (sharp * 0.1 + 100).astype(np.uint8)  # low contrast is not blur
    flat = np.full_like(sharp, 90)

    def share(*pictures: np.ndarray) -> float:
        return picture_signals([cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures])["blurred_share"]

    assert share(sharp, sharp) == share(dim, dim) == share(flat, flat) == 0
    assert share(blurred, blurred, sharp, sharp) == 0.5
    signals = picture_signals([cv2.imencode(".png", flat)[1].tobytes()] * 8)
    assert signals["thumbnail_hashes"] is None and len(signals["thumbnails"]) == 8 * 192
