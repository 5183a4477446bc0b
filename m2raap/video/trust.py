"""Decides which decoded frames may be damaged, and when each is displayed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame

_MAX_RUN = 16  # most B-frames in a row that H.264 and HEVC allow


def spread_damage(frames: Iterator[VideoFrame | None]) -> Iterator[tuple[VideoFrame | None, bool]]:
    """Each frame with a flag: whether it is damaged, or may be predicted from a damaged frame or a lost packet (None).

    Frames count as damaged until the next undamaged I-frame. B-frames are held back until the frame after them, from which
    they are predicted as well.
    """
    from av.video.frame import PictureType

    broken = False
    run: list[tuple[VideoFrame | None, bool]] = []  # B-frames and lost packets that are held back
    for frame in frames:
        if frame is None:
            broken = True
            run.append((None, True))
            continue
        flagged = bool(frame.is_corrupt)
        broken = flagged or (broken and not frame.key_frame)
        run.append((frame, broken))
        if frame.pict_type == PictureType.B and len(run) < _MAX_RUN:
            continue
        damaged = flagged or any(corrupt for held, corrupt in run[:-1] if held is not None)
        yield from ((held, corrupt or (damaged and not frame.key_frame)) for held, corrupt in run)
        run = []
    yield from run


class Stamps:
    """Chooses the time stamp of each frame: the presentation time (pts), or the decoding time (dts) where the pts of the file
    run backwards more often.

    Source: guess_correct_pts in FFmpeg's libavcodec/decode.c, whose result PyAV does not give.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = -(1 << 62)
        self._faulty_pts = self._faulty_dts = 0

    def of(self, frame: VideoFrame) -> int | None:
        """The time stamp of the next frame in units of the stream's time base; None where it has none."""
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None):
            return pts
        return dts
