"""The shape in which a player displays frames: rotation, mirroring, and pixels that are not square. It may change in a stream."""

from __future__ import annotations

import struct
from typing import Any

from m2raap.video.trust import FrameOrigin


class PixelAspects:
    """The pixel aspect ratio of each frame of a pass, by the packet that it was decoded from.

    A recording of television changes it between 4:3 and 16:9 while the size in pixels stays. PyAV gives only the decoder's
    latest ratio, which is that of a later frame where frames are reordered. A ratio of the container stays for all frames.
    """

    def __init__(self, context: Any, by_header: float, may_change: bool) -> None:
        """`context`: the decoder; the others are OpenVideo.pixel_aspect."""
        self._context, self._by_header, self._may_change = context, by_header, may_change
        self._changes: list[tuple[int, float]] = []  # number of a packet, and the ratio from it on

    def note(self, number: int) -> None:
        """To be called after packet `number` is decoded."""
        ratio = self._context.sample_aspect_ratio
        if not self._changes or ratio != self._latest:
            self._changes.append((number, pixel_aspect(self._context)))
            self._latest = ratio

    def mark(self, origin: FrameOrigin) -> None:
        """Writes the ratio of a frame, as by `pixel_aspect`, into its origin."""
        origin.pixel_aspect = self._by_header
        if self._may_change:
            for first, ratio in reversed(self._changes):
                if first <= origin.number:
                    origin.pixel_aspect = ratio
                    return


class SizeChanges:
    """Counts how often the displayed size of frames, or their shape, changes."""

    def __init__(self) -> None:
        self.count = 0
        self._last: tuple[int, int, float | None] | None = None

    def add(self, frame: Any) -> None:
        """Adds the next frame of m2raap.video.decode or m2raap.video.sparse."""
        shape = frame.width, frame.height, _aspect(frame)
        self.count += self._last is not None and shape != self._last
        self._last = shape


def pixel_aspect(source: object) -> float:
    """Width divided by height of one pixel, by a stream or a codec context; 1 where it states none, or one outside 0.25..4."""
    ratio = getattr(source, "sample_aspect_ratio", None)
    value = float(ratio) if ratio else 1.0
    return value if 0.25 <= value <= 4 else 1.0


def display_size(frame: Any, stream: object, rotation_deg: int) -> tuple[int, int]:
    """(width, height) of a frame in square pixels after the rotation, which is rounded to quarter turns.

    The pixel aspect ratio is that of the frame's origin, else that of the stream.
    """
    wide = max(1, round(frame.width * (_aspect(frame) or pixel_aspect(stream))))
    return (frame.height, wide) if round(rotation_deg / 90) % 2 else (wide, frame.height)


def _aspect(frame: Any) -> float | None:
    return frame.opaque.pixel_aspect if isinstance(frame.opaque, FrameOrigin) else None


def rotation_of(frame: Any) -> int:
    """Counter-clockwise rotation in degrees that makes a frame upright, 0..359; 0 for a display matrix without inverse."""
    return int(frame.rotation) % 360 if _determinant(frame) else 0


def is_mirrored(frame: Any) -> bool:
    """Whether the file's display matrix also mirrors a frame top to bottom before the rotation (front cameras of phones)."""
    return _determinant(frame) < 0


def _determinant(frame: Any) -> int:
    """Of the display matrix; 1 for a frame without one. A matrix of zeros, which some files hold, has none to turn by."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return a * d - b * c
