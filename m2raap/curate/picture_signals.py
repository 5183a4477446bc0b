"""What a clip's key-frames show, as signals of the clip: thumbnails, their hashes, and how many are blurred."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2raap.core.tables import Row
from m2raap.curate import thumbnails
from m2raap.video import quality

_BLUR_SIDE_PX = 128  # sharpness can be compared only between pictures of one size
# Variance of the Laplacian at that size, as a share of the variance of the luma. Real key-frames: 0.01 at the 1st percentile,
# 0.37 at the median; the same frames blurred with sigma 3: 0.002. A picture of low contrast does not count as blurred.
_BLURRED = 0.006


def picture_signals(jpegs: Sequence[bytes]) -> Row:
    """Signals of a clip's key-frames: their thumbnails, the hashes of these, and the share of blurred frames."""
    import cv2

    small: list[np.ndarray] = []
    blurred = 0
    for jpeg in jpegs:
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None, "keyframes stores only JPEGs that can be decoded"
        small.append(thumbnails.thumbnail(picture))
        luma = quality.luma(picture)
        scale = _BLUR_SIDE_PX / min(luma.shape)
        if scale < 1:
            luma = cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        spread = float(luma.std())
        blurred += spread >= quality.FLAT_STD and quality.blur_variance(luma) < _BLURRED * spread**2
    thumbs = np.stack(small)
    hashes = thumbnails.hashes(thumbs)
    return {
        "thumbnails": thumbs.tobytes(),
        "thumbnail_hashes": np.array(hashes, "<i8").tobytes() if hashes else None,
        "blurred_share": blurred / len(jpegs),
    }
