"""Makes pictures of decoded frames: as a player displays them, at the size that is stored."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from m2raap.video.probe import is_mirrored, pixel_aspect, shown_size

if TYPE_CHECKING:
    from PIL.Image import Image


class Renderer:
    """Makes RGB pictures of one stream's frames: upright, square pixels, short side at most `short_side_px`, never enlarged.

    `display_size` is (width, height) in pixels before scaling, `target` after it; `turns` is the number of counter-clockwise
    quarter turns that make a frame upright.
    """

    def __init__(self, stream: object, first: Any, short_side_px: int) -> None:
        self._sizes, self._colours = _reformatters()
        self.turns = round(first.rotation / 90) % 4
        self._mirrored = is_mirrored(first)
        self.display_size = shown_size(first.width, first.height, pixel_aspect(stream), first.rotation)
        scale = min(1.0, short_side_px / min(self.display_size))
        self.target = (max(1, round(self.display_size[0] * scale)), max(1, round(self.display_size[1] * scale)))

    def picture(self, frame: Any) -> Image:
        """RGB picture of size `target`, scaled by a bicubic filter as wide as the scaling step, as in CLIP's preprocessing.

        The planes are scaled before the conversion to RGB, which is several times faster than converting first.
        """
        from PIL import Image

        width, height = self.target if self.turns % 2 == 0 else self.target[::-1]
        small = self._sizes.reformat(frame, width, height, interpolation="BICUBIC", threads=1)
        image = Image.fromarray(self._colours.reformat(small, format="rgb24", threads=1).to_ndarray())
        if self._mirrored:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        flip = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
        return image.transpose(flip[self.turns]) if self.turns else image


@cache
def _reformatters() -> tuple[Any, Any]:
    """Two converters, shared by all clips: each keeps the tables of its last conversion, which take a millisecond to make."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter(), VideoReformatter()
