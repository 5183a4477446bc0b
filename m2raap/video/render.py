"""Makes pictures of decoded frames: as a player displays them, at the size that is stored."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from m2raap.video import colour
from m2raap.video.shape import display_size, is_mirrored, rotation_of

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


class Renderer:
    """Makes RGB pictures of one stream's frames: upright, square pixels, short side at most `short_side_px`, never enlarged.

    `display_size` is (width, height) of the first frame in pixels before scaling, `target` after it; `turns` is the number of
    counter-clockwise quarter turns that make a frame upright. A later frame of another shape is fitted into `target` between
    black bars. HDR and the primaries of BT.2020 are converted for an ordinary screen; Refused is raised for Dolby Vision alone.
    """

    def __init__(self, stream: object, first: Any, short_side_px: int) -> None:
        colour.refuse_dolby_vision_alone(first)
        self._sizes, self._colours = _reformatters()
        self._stream, self._rotation_deg = stream, rotation_of(first)
        self.turns = round(self._rotation_deg / 90) % 4
        self._mirrored = is_mirrored(first)
        self.display_size = display_size(first, stream, self._rotation_deg)
        self.transfer, self.primaries = colour.transfer(first), colour.primaries(first)
        self.is_hdr, self.has_wide_gamut = colour.is_hdr(first), colour.has_wide_gamut(first)
        scale = min(1.0, short_side_px / min(self.display_size))
        self.target = (max(1, round(self.display_size[0] * scale)), max(1, round(self.display_size[1] * scale)))

    def picture(self, frame: Any) -> Image:
        """RGB picture of size `target`, scaled by a bicubic filter as wide as the scaling step, as in CLIP's preprocessing.

        The planes are scaled before the conversion to RGB, which is several times faster than converting first.
        """
        from PIL import Image

        size = self._size_within_target(frame)
        width, height = size if self.turns % 2 == 0 else size[::-1]
        small = self._sizes.reformat(frame, width, height, interpolation="BICUBIC", threads=1)
        image = Image.fromarray(self._rgb(small, colour.is_hdr(frame), colour.has_wide_gamut(frame)))
        if self._mirrored:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        flip = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
        image = image.transpose(flip[self.turns]) if self.turns else image
        if size == self.target:
            return image
        framed = Image.new("RGB", self.target)
        framed.paste(image, ((self.target[0] - size[0]) // 2, (self.target[1] - size[1]) // 2))
        return framed

    def _size_within_target(self, frame: Any) -> tuple[int, int]:
        """(width, height) of the upright frame, as large as `target` allows without changing its shape."""
        upright = display_size(frame, self._stream, self._rotation_deg)
        if upright == self.display_size:
            return self.target
        scale = min(self.target[0] / upright[0], self.target[1] / upright[1])
        return max(1, round(upright[0] * scale)), max(1, round(upright[1] * scale))

    def _rgb(self, small: Any, is_hdr: bool, has_wide_gamut: bool) -> np.ndarray:
        if not (is_hdr or has_wide_gamut):
            return self._colours.reformat(small, format="rgb24", threads=1).to_ndarray()
        rgb_HWC = self._colours.reformat(small, format="rgb48le", threads=1).to_ndarray()
        return colour.to_screen(rgb_HWC, colour.transfer(small), has_wide_gamut)


@cache
def _reformatters() -> tuple[Any, Any]:
    """Two converters, shared by all clips: each keeps the tables of its last conversion, which take a millisecond to make."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter(), VideoReformatter()
