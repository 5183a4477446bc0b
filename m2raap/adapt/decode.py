"""What a decoder process does with the frames of clips. It imports no torch, so that many such processes need little memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2raap.adapt.augment import Augmentation
from m2raap.core.errors import M2raapError
from m2raap.models.pictures import Resize, pixels_from_jpegs


def decode_clips(
    items: Sequence[tuple[str, list[bytes]]],
    resize: Resize,
    augment: Augmentation,
    epoch: int | None,
    fast: bool,
    out: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Of each (clip id, JPEGs) the pixels (T, S, S, 3) in uint8, written into `out` where that is given.

    Raises M2raapError naming a clip that cannot be decoded.
    """
    decoded = []
    for place, (clip_id, jpegs) in enumerate(items):
        try:
            into = out[place] if out is not None else None
            decoded.append(pixels_from_jpegs(jpegs, resize, augment.crop(clip_id, epoch), fast, into))
        except M2raapError as error:
            raise M2raapError(f"clip '{clip_id}': {error}") from None
    return decoded
