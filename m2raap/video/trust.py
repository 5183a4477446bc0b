"""Which decoded frames can be trusted, and when each is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame

_MAX_RUN = 16  # B-frames between two others: the most that H.264 and HEVC can hold back


def spread_damage(frames: Iterator[VideoFrame | None]) -> Iterator[tuple[VideoFrame | None, bool]]:
    """Each frame with: is it damaged, or may it be predicted from damage? A sound key-frame ends the doubt.

    B-frames wait for the frame after them, from which they are predicted too.
    """
    from av.video.frame import PictureType

    broken = False
    run: list[tuple[VideoFrame | None, bool]] = []  # B-frames (and lost packets) that wait
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
        spoilt = flagged or any(corrupt for waiting, corrupt in run[:-1] if waiting is not None)
        yield from ((waiting, corrupt or (spoilt and not frame.key_frame)) for waiting, corrupt in run)
        run = []
    yield from run


class Stamps:
    """Presentation stamps, or those of decoding where the file's presentation stamps run backwards more often.

    FFmpeg's own rule (guess_correct_pts of libavcodec/decode.c), which PyAV does not show.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = -(1 << 62)
        self._faulty_pts = self._faulty_dts = 0

    def of(self, frame: VideoFrame) -> int | None:
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
