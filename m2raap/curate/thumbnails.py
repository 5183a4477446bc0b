"""The look of a clip: 8 x 8 colour thumbnails of its frames, and three 64-bit hashes of them.

The usual difference hash is unstable on plain pictures: on flat areas its bits are ties that a new encoding changes. Here a
bit says on which side of a random plane (Charikar 2002) the frames are, each less its mean colour. Noise, brightness and a
few pixels cut off at the edges change few bits. The frames stay in order, so another motion of the same objects gives another
hash.

Shapes: K frames a clip, P pairs of clips, F = 8 * 8 * 3 values a frame.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SIDE, FRAMES = 8, 8
NUM_HASHES = 3
MIN_CONTRAST = 4.0  # contrast in grey levels (RMS) under which a frame shows nothing
_SAME_GROUND = 16.0  # most grey levels between the means of two empty frames that count as the same
_MIN_MATCHES = 2


def thumbnail(rgb_HWC: np.ndarray) -> np.ndarray:
    """(8, 8, 3) uint8: means over a grid of areas."""
    import cv2

    return cv2.resize(rgb_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def in_step(thumbs: np.ndarray) -> np.ndarray:
    """(8, 8, 8, 3): 8 of the clip's frames (K, 8, 8, 3) at equal steps from the first to the last; repeated if K < 8."""
    return thumbs[np.rint(np.linspace(0, len(thumbs) - 1, FRAMES)).astype(int)]


def hashes(thumbs: np.ndarray) -> list[int] | None:
    """Signed 64-bit hashes of the whole clip and of its halves; None if no half shows anything.

    thumbs: (K, 8, 8, 3) uint8 in time order, K >= 1.
    """
    frames_KF, energy_K = _centred(in_step(thumbs))
    frames_KF = np.where((energy_K >= _MIN_ENERGY)[:, None], frames_KF, 0.0)
    half = FRAMES // 2
    views = (frames_KF.reshape(-1), frames_KF[:half].mean(axis=0), frames_KF[half:].mean(axis=0))
    if not any(view.any() for view in views[1:]):
        return None
    # A half that shows nothing gets the hash of the whole clip: zeros would be one hash for all such halves.
    halves = [view if view.any() else views[0] for view in views]
    return [_hash(view) for view in halves]


@lru_cache(maxsize=2)
def _planes(size: int) -> np.ndarray:
    return np.random.default_rng([0, size]).normal(size=(64, size))


def _hash(view: np.ndarray) -> int:
    # The sums are taken in a fixed order, so that all machines get the same bits.
    sides = np.add.reduce(_planes(len(view)) * view.astype(np.float64), axis=1) > 0
    return int.from_bytes(np.packbits(sides).tobytes(), "big", signed=True)


_MIN_ENERGY = MIN_CONTRAST**2 * SIDE * SIDE * 3


def _centred(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., F) frames less the mean of each channel, and their energies (...)."""
    rows = thumbs.astype(np.float32)
    rows = (rows - rows.mean(axis=(-3, -2), keepdims=True)).reshape(*thumbs.shape[:-3], -1)
    return rows, np.square(rows).sum(axis=-1)


def matching_shares(first: np.ndarray, second: np.ndarray, max_distance: float) -> np.ndarray:
    """(P,) share of frames that match, of pairs of clips (P, K, 8, 8, 3) uint8 in step.

    Distance of two frames a, b, each channel less its mean: |a - b|^2 / (|a|^2 + |b|^2). A frame that shows nothing matches
    none; if the frames of both clips show nothing on the same ground, they do not count. 0 with fewer than two matches.
    """
    (a, a_energy), (b, b_energy) = _centred(first), _centred(second)
    seen = (a_energy >= _MIN_ENERGY) & (b_energy >= _MIN_ENERGY)
    distance = np.square(a - b).sum(axis=-1) / np.maximum(a_energy + b_energy, 1e-9)
    match = (seen & (distance <= max_distance)).sum(axis=-1)
    ground = np.abs(first.mean(axis=(2, 3)) - second.mean(axis=(2, 3))).max(axis=-1) <= _SAME_GROUND
    both_flat = (a_energy < _MIN_ENERGY) & (b_energy < _MIN_ENERGY) & ground
    counted = first.shape[1] - both_flat.sum(axis=-1)
    return np.where(match >= _MIN_MATCHES, match / np.maximum(counted, 1), 0.0)
