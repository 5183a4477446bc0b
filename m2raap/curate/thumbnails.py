"""Near-identical clips by 8 x 8 colour thumbnails of their frames: the exact second opinion to the hashes.

A 64-bit hash of a plain picture is mostly chance: on flat ground its bits are ties that a new encoding turns over. A
thumbnail less its mean is not moved by that, nor by brightness, and shows where things are, so clips in which the same
things move otherwise stay apart. All pairs are compared: good to some ten thousand clips; beyond, hashes first.

Shapes: N clips, K frames a clip, F = 8 * 8 * 3 values a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from m2raap.core.config import Config

SIDE = 8
_BLOCK = 256  # clips compared with all others at a time


class DuplicateConfig(Config):
    """When two clips are copies."""

    max_distance: float = Field(default=0.1, gt=0, lt=1, description="0: the same frame, about 1: strangers")
    min_share: float = Field(default=0.6, gt=0, le=1, description="share of the frames, in order, that must match")
    min_contrast: float = Field(default=4.0, ge=0, description="grey levels (RMS) under which a frame is flat")
    max_duration_gap: float = Field(default=0.1, ge=0, description="relative difference of the durations")


def thumbnail(rgb_HWC: np.ndarray) -> np.ndarray:
    """(8, 8, 3) uint8: means over a grid of areas."""
    import cv2

    return cv2.resize(rgb_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def near_duplicates(
    ids: Sequence[str],
    thumbs: Sequence[np.ndarray],
    durations_s: Sequence[float],
    cfg: DuplicateConfig | None = None,
    quality: Sequence[float] | None = None,
) -> dict[str, str]:
    """dropped clip_id -> clip_id of the kept clip that it copies, sorted by dropped id.

    Of copies the one of highest `quality` is kept (any measure, such as sharpness), without it the smallest id.

    thumbs: per clip (K, 8, 8, 3) uint8 in time order; clips with fewer frames are aligned by relative position, clips
    with none match nothing, flat frames match nothing. Distance of two frames a, b, each channel less its mean:
    |a - b|^2 / (|a|^2 + |b|^2). The result depends on the set of clips alone, never on their order.
    """
    cfg = cfg or DuplicateConfig()
    assert len(ids) == len(thumbs) == len(durations_s) and len(set(ids)) == len(ids)
    rank = [(-quality[i] if quality is not None else 0.0, name) for i, name in enumerate(ids)]
    order = sorted((i for i in range(len(ids)) if len(thumbs[i])), key=lambda i: rank[i])
    if not order:
        return {}
    frames_NKF, energy_NK = _features([thumbs[i] for i in order], cfg.min_contrast)
    duration_N = np.array([durations_s[i] for i in order], np.float64)
    kept = np.ones(len(order), bool)
    dropped: dict[str, str] = {}
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        share = _matching_share(frames_NKF[start:stop], energy_NK[start:stop], frames_NKF[:stop], energy_NK[:stop], cfg)
        gap = np.abs(duration_N[start:stop, None] - duration_N[None, :stop])
        longer = np.maximum(duration_N[start:stop, None], duration_N[None, :stop])
        match = (share >= cfg.min_share) & (gap <= cfg.max_duration_gap * longer)
        for row in range(stop - start):  # a dropped clip drops no other: chains of likeness end there
            at = start + row
            found = np.flatnonzero(match[row, :at] & kept[:at])
            if len(found):
                kept[at] = False
                dropped[ids[order[at]]] = ids[order[int(found[0])]]
    return dict(sorted(dropped.items()))


def _features(thumbs: Sequence[np.ndarray], min_contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N, K, F) less channel means, all stretched to the largest K, and energies (N, K), NaN where flat."""
    num_frames = max(map(len, thumbs))
    frames_NKF = np.empty((len(thumbs), num_frames, SIDE * SIDE * 3), np.float32)
    for clip, thumbs_K in zip(frames_NKF, thumbs, strict=True):
        picks = np.rint(np.linspace(0, len(thumbs_K) - 1, num_frames)).astype(int)
        rows = np.asarray(thumbs_K, np.float32)[picks]
        clip[:] = (rows - rows.mean(axis=(1, 2), keepdims=True)).reshape(num_frames, -1)
    energy_NK = np.square(frames_NKF).sum(axis=-1)
    flat = energy_NK < min_contrast**2 * frames_NKF.shape[-1]
    return frames_NKF, np.where(flat, np.nan, energy_NK)


def _matching_share(
    a_MKF: np.ndarray, ea_MK: np.ndarray, b_NKF: np.ndarray, eb_NK: np.ndarray, cfg: DuplicateConfig
) -> np.ndarray:
    """(M, N) share of aligned frames whose distance is small enough; NaN energies (flat frames) never match."""
    matches = np.zeros((len(a_MKF), len(b_NKF)), np.float32)
    for k in range(a_MKF.shape[1]):
        energy = ea_MK[:, k, None] + eb_NK[None, :, k]
        matches += 1.0 - 2.0 * (a_MKF[:, k] @ b_NKF[:, k].T) / energy <= cfg.max_distance
    return matches / a_MKF.shape[1]
