"""Decides which decoded frames may be damaged, and when each is displayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av import Packet, VideoFrame

MAX_RUN = 16  # most B-frames in a row that H.264 and HEVC allow


# Errors of FFmpeg's decoders of H.264 and HEVC about frames that are missing or cannot be read, at the packet that they hit.
_MISSING = ("Frame num gap", "Missing reference picture", "Could not find ref with POC", "error while decoding MB")
# Decoders that begin with a key-frame by themselves; others show what they make of a stream that begins with other frames.
_START_AT_KEY_FRAME = ("h264", "hevc", "av1", "libdav1d", "libaom-av1")
# Codecs whose frames have equal steps of time, so that a longer one is a loss.
_FIXED_RATE = ("mpeg1video", "mpeg2video")
_LONGEST_STEP = 2.5  # in durations of the frame before; a frame that is repeated for pulldown lasts 1.5


@dataclass
class FrameOrigin:
    """What `opaque` of a packet and its frame holds. An object of its own for each packet, because PyAV goes by its identity."""

    number: int  # of the packet in the order of decoding
    pixel_aspect: float | None = None  # see m2raap.video.shape; None before the frame is decoded


class Losses:
    """Which frames may be predicted from data that was lost before it could be decoded.

    A frame is numbered by its packet, because frames leave a decoder in another order than their packets enter it. Damaged are
    all frames from the loss on to the next key-frame in the order of decoding, and the frames decoded after that key-frame
    that are displayed before it. One object is for one pass from the start or from a seek. `keys_only`: only key-frames are
    decoded, so that frames between them are missing without a loss. `context`: the decoder; `format_name`: that of OpenVideo.
    """

    def __init__(self, context: Any, format_name: str, keys_only: bool = False) -> None:
        import av.logging

        self._context = context
        self._context.copy_opaque = True  # every frame gets the `opaque` of its packet
        self._keys_only = keys_only
        self._error_before: str | None = None  # the latest one between the latest packet and the next
        # Streams for broadcast, of which parts are lost unnoticed. Frames are cut out of them by a parser, so that the flag of
        # damage comes with the packet before.
        self._is_broadcast = format_name in ("mpegts", "mpeg")
        self.number = -1  # of the latest packet
        self._clean = -1  # of the latest undamaged key-frame that was displayed
        self._lost: list[int] = []  # numbers of packets whose data was lost, or before which data was lost
        self._last_pts = -(1 << 62)  # of the latest frame
        self._displays_by_pts = format_name != "avi"  # see m2raap.video.reorder
        self._next_dts: float | None = None  # latest decoding time of the next packet if none is lost between
        self._late = False  # whether the latest packet comes later than that
        self._last_error = av.logging.get_last_error
        self._num_errors = self._last_error()[0]

    def note_before_next(self, error: str | None) -> None:
        """An error between the latest packet and the next one that is added: the demuxer has skipped what it could not read."""
        self._error_before = error or self._error_before

    def add(self, packet: Packet, skipped_after: bool = False) -> None:
        """Numbers the next packet, which is to be decoded next. `skipped_after`: the demuxer has skipped data behind it."""
        self.number += 1
        packet.opaque = FrameOrigin(self.number)
        starts_late = self.number == 0 and not packet.is_keyframe and self._context.name not in _START_AT_KEY_FRAME
        if starts_late or packet.is_corrupt:
            self._lost.append(self.number)
        if not self._is_broadcast:
            if skipped_after or (self.number and self._error_before is not None):
                self._lost.append(self.number)
            self._error_before = None
            return
        if packet.is_corrupt:
            self._lost.append(self.number + 1)
        dts = packet.dts
        self._late = not self._keys_only and dts is not None and self._next_dts is not None and dts > self._next_dts
        if self._late and self._context.name in _FIXED_RATE:
            self._lost.append(self.number)
        self._next_dts = dts + _LONGEST_STEP * packet.duration if dts is not None and packet.duration else None

    def before_next(self) -> None:
        """Data was lost between the latest packet and the next one."""
        self._lost.append(self.number + 1)

    def at_latest(self) -> None:
        """The latest packet could not be decoded."""
        self._lost.append(self.number)
        self.note_before_next(self.new_error())

    def note_errors(self) -> None:
        """Looks for errors of the decoder that missing frames cause. To be called after each packet is decoded."""
        error, self._error_before = self.new_error() or self._error_before, None
        if error is not None and not self._keys_only and (self._late or error.startswith(_MISSING)):
            self._lost.append(self.number)

    def origin_of(self, frame: VideoFrame) -> FrameOrigin:
        """The origin of a frame, which is the latest packet where the decoder does not tell."""
        origin: Any = frame.opaque
        if not isinstance(origin, FrameOrigin):
            frame.opaque = origin = FrameOrigin(self.number)
        return origin

    def new_error(self) -> str | None:
        """FFmpeg's latest error in this process if it is newer than the last call, even where its level hides it."""
        num_errors, error = self._last_error()
        if num_errors == self._num_errors:
            return None
        self._num_errors = num_errors
        return error[2] if error is not None else None

    def taint(self, frame: VideoFrame, number: int) -> bool:
        """Whether the next frame that the decoder gives out may be predicted from lost data, or is out of order for a loss.

        `number`: that of its origin.
        """
        pts, late = frame.pts, False
        if pts is not None:
            late = self._displays_by_pts and pts <= self._last_pts
            self._last_pts = max(self._last_pts, pts)
        if number < self._clean:
            return True  # it was decoded before the key-frame after a loss, and comes after it
        if not self._lost:
            return False
        last = number + frame.interlaced_frame  # the second field may be a packet of its own
        tainted = any(self._clean < lost <= last for lost in self._lost)
        if frame.key_frame and not frame.is_corrupt and not any(number <= lost <= last for lost in self._lost):
            tainted, self._clean, self._last_pts = False, max(self._clean, number), pts or 0
            self._lost = [lost for lost in self._lost if lost > self._clean]
        return tainted or late


def spread_damage(frames: Iterator[tuple[VideoFrame | None, bool]]) -> Iterator[tuple[VideoFrame | None, bool]]:
    """Each frame with a flag: whether it is damaged, or may be predicted from a damaged frame or a lost packet (None).

    `frames`: with a flag of `Losses`. Frames count as damaged until the next undamaged I-frame. B-frames are held back until
    the frame after them, from which they are predicted as well.
    """
    from av.video.frame import PictureType

    broken = False
    run: list[tuple[VideoFrame | None, bool, bool]] = []  # B-frames and lost packets that are held back
    for frame, tainted in frames:
        if frame is None:
            broken = True
            run.append((None, True, True))
            continue
        flagged = bool(frame.is_corrupt)
        broken = flagged or (broken and not frame.key_frame)
        run.append((frame, broken, tainted))
        if frame.pict_type == PictureType.B and len(run) < MAX_RUN:
            continue
        damaged = flagged or any(corrupt for held, corrupt, _ in run[:-1] if held is not None)
        spreads = damaged and not frame.key_frame
        yield from ((held, corrupt or tainted or spreads) for held, corrupt, tainted in run)
        run = []
    yield from ((held, corrupt or tainted) for held, corrupt, tainted in run)


class Stamps:
    """Chooses the time stamp of each frame: the presentation time (pts), or the decoding time (dts) where the pts of the file
    run backwards more often.

    Source: guess_correct_pts in FFmpeg's libavcodec/decode.c, whose result PyAV does not give.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = -(1 << 62)
        self._faulty_pts = self._faulty_dts = 0

    def of(self, frame: VideoFrame, corrupt: bool = False) -> int | None:
        """The time stamp of the next frame in units of the stream's time base; None where it has none.

        Damaged frames may be out of order for the damage alone, and do not count.
        """
        pts, dts = frame.pts, frame.dts
        if not corrupt:
            self._count(pts, dts)
        if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None):
            return pts
        return dts

    def _count(self, pts: int | None, dts: int | None) -> None:
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
