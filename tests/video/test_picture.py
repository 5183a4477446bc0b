"""Pictures that are given as queries."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from m2raap.video.picture import decode_picture


def _rgba(opacity: int) -> Image.Image:
    picture = Image.new("RGBA", (4, 4), "red")
    picture.putalpha(opacity)
    return picture


@pytest.mark.parametrize(
    ("picture", "pixel"),
    [
        (Image.fromarray(np.full((4, 4), 76 * 256, np.uint16)), (76, 76, 76)),
        (_rgba(0), (255, 255, 255)),
        (_rgba(0).convert("LA"), (255, 255, 255)),
        (_rgba(255), (255, 0, 0)),
        (Image.new("L", (4, 4), 76), (76, 76, 76)),
    ],
)
def test_a_picture_as_a_viewer_shows_it(picture: Image.Image, pixel: tuple[int, int, int]) -> None:
    """Grey of 16 bit is scaled, not clipped, and what is transparent shows white, not the colour hidden below."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    assert tuple(decode_picture(data.getvalue()).pixels[:3]) == pixel
