"""Bland backgrounds, larger than the picture so that the camera can move over them."""

from __future__ import annotations

import numpy as np

from data_tools.world.palette import tones_for

SIZE_PX = 96
MARGIN_PX = 20
_CANVAS_PX = SIZE_PX + 2 * MARGIN_PX
_Y, _X = np.mgrid[0:_CANVAS_PX, 0:_CANVAS_PX].astype(np.float32)


def _soft(wave: np.ndarray) -> np.ndarray:
    """A wave with flattened tops, without hard edges."""
    return np.tanh(3 * wave)


def paint(kind: str, colours: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """float32 (canvas, canvas, 3), 0..255: `kind` in a tone on which objects of these colours stand out."""
    tones = tones_for(colours)
    tone = np.asarray(tones[int(rng.integers(len(tones)))], dtype=np.float32)
    depth = float(rng.uniform(9, 15))
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    along = _X * np.cos(angle) + _Y * np.sin(angle)
    across = -_X * np.sin(angle) + _Y * np.cos(angle)
    if kind == "plain":
        pattern = np.zeros_like(_X)
    elif kind == "gradient":
        pattern = 1.4 * (along - along.mean()) / np.abs(along - along.mean()).max()
    elif kind == "stripes":
        pattern = _soft(np.sin(2 * np.pi * along / rng.uniform(10, 16) + phase))
    elif kind == "checker":
        period = rng.uniform(18, 26)
        pattern = _soft(2 * np.sin(2 * np.pi * _X / period + phase) * np.sin(2 * np.pi * _Y / period + phase))
    elif kind == "grain":
        pattern = np.repeat(np.repeat(rng.normal(0, 0.7, (_CANVAS_PX // 2, _CANVAS_PX // 2)), 2, axis=0), 2, axis=1)
    elif kind == "dots":
        period = rng.uniform(9, 12)
        wave = np.sin(2 * np.pi * along / period + phase) * np.sin(2 * np.pi * across / period + phase)
        pattern = 1.3 * np.clip(3 * (np.abs(wave) - 0.55), 0, 1)
    else:
        assert kind == "waves", kind
        bend = 4 * np.sin(2 * np.pi * across / rng.uniform(24, 36))
        pattern = np.sin(2 * np.pi * (along + bend) / rng.uniform(14, 20) + phase)
    light = float(rng.uniform(0.92, 1.06))
    tint = rng.uniform(-5, 5, 3).astype(np.float32)
    return ((tone + tint + depth * pattern[..., None].astype(np.float32)) * light).astype(np.float32)
