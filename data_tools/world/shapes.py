"""Antialiased drawing of the world's shapes."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

_MASTER_PX = 512  # shapes are drawn once at this size
_LEVELS_PX = (64, 32, 16)  # nominal diameters of the ready-made masks
_BORDER = 0.25  # empty rim of a mask, share of the diameter


def _polygon(shape: str) -> list[tuple[float, float]]:
    """Corners in a square of -1..1, y downwards."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0, -0.95), (1, 0.8), (-1, 0.8)]
    if shape == "star":
        radii = [1.08 if i % 2 == 0 else 0.43 for i in range(10)]
        return [(r * np.sin(i * np.pi / 5), -r * np.cos(i * np.pi / 5)) for i, r in enumerate(radii)]
    if shape == "cross":
        a, b = 0.3, 1.0
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    if shape == "diamond":
        return [(0, -1.1), (0.62, 0), (0, 1.1), (-0.62, 0)]
    if shape == "hourglass":
        return [(-0.85, -1), (0.85, -1), (0.12, 0), (0.85, 1), (-0.85, 1), (-0.12, 0)]
    assert shape == "heart", shape
    u = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = 16 * np.sin(u) ** 3
    y = 13 * np.cos(u) - 5 * np.cos(2 * u) - 2 * np.cos(3 * u) - np.cos(4 * u)
    return [(a / 16.5, -(b + 2.5) / 15) for a, b in zip(x, y, strict=True)]


def _master(shape: str) -> np.ndarray:
    side = round(_MASTER_PX * (1 + 2 * _BORDER))
    mask = np.zeros((side, side), np.uint8)
    middle, radius = side // 2, _MASTER_PX // 2
    if shape in ("circle", "ring", "crescent"):
        cv2.circle(mask, (middle, middle), round(radius * 0.98), 255, -1)
        if shape == "ring":
            cv2.circle(mask, (middle, middle), round(radius * 0.54), 0, -1)
        if shape == "crescent":
            cv2.circle(mask, (middle + round(radius * 0.5), middle), round(radius * 0.85), 0, -1)
    else:
        corners = np.array([(middle + radius * x, middle + radius * y) for x, y in _polygon(shape)])
        cv2.fillPoly(mask, [corners.round().astype(np.int32)], 255)
    return mask


@cache
def _masks(shape: str) -> dict[int, np.ndarray]:
    master = _master(shape)
    masks = {}
    for level_px in _LEVELS_PX:
        side = round(level_px * (1 + 2 * _BORDER))
        masks[level_px] = cv2.resize(master, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return masks


def draw_shape(
    picture: np.ndarray, shape: str, rgb: np.ndarray, centre_px: np.ndarray, diameter_px: float, angle_deg: float,
    opacity: float = 1.0,
) -> None:  # fmt: skip
    """Paints one shape into `picture` (float32 (H, W, 3)) in place; parts outside the picture are cut off."""
    masks = _masks(shape)
    level = min((p for p in _LEVELS_PX if p >= diameter_px), default=_LEVELS_PX[0])
    mask = masks[level]
    half = int(np.ceil(diameter_px * 0.8)) + 1
    x0, y0 = int(np.floor(centre_px[0])) - half, int(np.floor(centre_px[1])) - half
    scale, turn = diameter_px / level, np.deg2rad(angle_deg)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    c = (mask.shape[0] - 1) / 2
    tx, ty = centre_px[0] - x0 - cos * c + sin * c, centre_px[1] - y0 - sin * c - cos * c
    side = 2 * half + 2
    alpha = cv2.warpAffine(mask, np.array([[cos, -sin, tx], [sin, cos, ty]]), (side, side), flags=cv2.INTER_LINEAR)
    height, width = picture.shape[:2]
    xa, ya, xb, yb = max(x0, 0), max(y0, 0), min(x0 + side, width), min(y0 + side, height)
    if xa >= xb or ya >= yb:
        return
    part = alpha[ya - y0 : yb - y0, xa - x0 : xb - x0, None] * np.float32(opacity)
    window = picture[ya:yb, xa:xb]
    window += part * (np.asarray(rgb, dtype=np.float32) - window)
