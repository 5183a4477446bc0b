"""Colours of objects and tones of backgrounds, and which of them can be told apart."""

from __future__ import annotations

from functools import cache

import numpy as np

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (222, 35, 40),
    "orange": (246, 138, 18),
    "yellow": (248, 226, 40),
    "green": (45, 165, 60),
    "cyan": (45, 210, 220),
    "blue": (40, 75, 220),
    "purple": (128, 42, 178),
    "pink": (252, 130, 190),
    "white": (248, 248, 248),
    "black": (18, 18, 18),
}
TONE_RGB: tuple[tuple[int, int, int], ...] = (
    (188, 188, 188),
    (128, 128, 128),
    (66, 66, 66),
    (198, 184, 158),
    (92, 106, 128),
    (112, 116, 86),
    (146, 124, 138),
    (112, 142, 140),
    (96, 78, 64),
    (52, 58, 70),
)
_MIN_CONTRAST = 40.0  # CIE76 distance between an object's colour and its background's tone


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 (..., 3) -> CIE L*a*b* (D65)."""
    value = np.asarray(rgb, dtype=float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


@cache
def tones_for(colours: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """The tones on which all these colours stand out."""
    objects = lab(np.array([COLOUR_RGB[c] for c in colours]))
    good = [t for t in TONE_RGB if np.linalg.norm(objects - lab(np.array(t)), axis=-1).min() >= _MIN_CONTRAST]
    assert good, colours
    return tuple(good)
