"""Decodes a video packet by packet and tolerates damage. Times are seconds since the stream's start (`start_time`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from m2raap.video.container import OpenVideo, has_room
from m2raap.video.shape import PixelAspects
from m2raap.video.trust import Losses, Stamps, spread_damage

if TYPE_CHECKING:
    from av import VideoFrame

MAX_STAMP = 1 << 62  # FFmpeg's time stamps have 64 bits
_MAX_ERRORS_IN_A_ROW = 256  # after this many the demuxer is taken to make no progress


@dataclass
class DecodedFrame:
    """One frame, or `frame=None` for a packet that could not be decoded.

    `corrupt`: the frame is damaged, or may be predicted from a damaged one. FFmpeg marks only the first kind, although three
    flipped bits can damage all frames up to the next I-frame.
    """

    time_s: float
    frame: VideoFrame | None
    corrupt: bool = False


def decode(
    opened: OpenVideo, start_s: float = 0.0, end_s: float | None = None, keys_only: bool = False
) -> Iterator[DecodedFrame]:
    """Frames with start_s <= time < end_s in presentation order; a packet that cannot be decoded gives `frame=None`.

    Seeks to an I-frame at or before `start_s` and drops the frames before `start_s`. A frame without time stamp gets the
    time of the frame before plus 1/fps. With `keys_only`, only packets with the key-frame flag are decoded. Damage raises no
    error. A frame's `opaque` is its FrameOrigin.
    """
    base, origin = float(opened.time_base), opened.stream.start_time or 0
    tick_s = 1 / (opened.fps or 25.0)
    last_s = -tick_s
    if start_s > 0 or opened.was_read:
        seek_before(opened, start_s)
    opened.was_read = True
    stamps = Stamps()
    for frame, corrupt in spread_damage(_tolerant(opened, keys_only)):
        if frame is None:
            if last_s + tick_s >= start_s:
                yield DecodedFrame(max(last_s, start_s), None, corrupt=True)
            continue
        stamp = stamps.of(frame, corrupt)
        time_s = last_s + tick_s if stamp is None else (stamp - origin) * base
        last_s = time_s
        if time_s < start_s - 1e-6:
            continue
        if end_s is not None and time_s >= end_s - 1e-6:
            return
        yield DecodedFrame(time_s, frame, corrupt)


def seek_before(opened: OpenVideo, start_s: float) -> None:
    """Seeks to an I-frame at or before `start_s`.

    In a stream without an index FFmpeg seeks by time stamps alone, and may stop inside a group of pictures, whose frames
    would be lost. So the next I-frame is looked up after a seek, and where it is too late the seek is repeated farther back.
    """
    import av.error

    container: Any = opened.container
    stream: Any = opened.stream
    origin = stream.start_time or 0
    for back_s in (0.0, 1.0, 4.0, 16.0, start_s + 1.0, start_s + 16.0):
        target = max(-MAX_STAMP, min(MAX_STAMP, origin + int((start_s - back_s) / opened.time_base)))
        try:
            container.seek(target, stream=stream, backward=True)
            if opened.format_name == "mov" or _next_key_s(opened) <= start_s + 1e-6:
                container.seek(target, stream=stream, backward=True)
                return
        except av.error.FFmpegError:
            continue  # the file has no index, or no packet that early
    try:
        container.seek(max(-MAX_STAMP, origin - int(16 / opened.time_base)), stream=stream, backward=True)
    except av.error.FFmpegError:
        container.seek(0, stream=stream, unsupported_byte_offset=True)


def _next_key_s(opened: OpenVideo) -> float:
    """Time of the next packet with the key-frame flag; infinity where the next 1,000 packets hold none."""
    base, origin = opened.time_base, opened.stream.start_time or 0
    for packet in islice(opened.packets(), 1000):
        if packet.is_keyframe and packet.size:
            stamp = packet.dts if packet.pts is None or opened.format_name == "avi" else packet.pts
            return float((stamp - origin) * base) if stamp is not None else float("inf")
    return float("inf")


def _need_room_for_a_frame(context: Any) -> None:
    """Raises MemoryError where memory for one more frame is lacking, which some decoders report as a damaged packet."""
    if not has_room(max(1, context.width * context.height * 2)):
        raise MemoryError(f"not enough memory for a frame of {context.width}x{context.height} pixels")


def _tolerant(opened: OpenVideo, keys_only: bool) -> Iterator[tuple[VideoFrame | None, bool]]:
    """All frames; None for each failure to read or decode a packet. Stops after _MAX_ERRORS_IN_A_ROW failures in a row.

    With each frame: whether it may be predicted from lost data.
    """
    import av.error

    stream: Any = opened.stream
    # An AVI has decoding times only: the n-th frame that the decoder gives out is displayed at the n-th of them.
    in_order: deque[int] | None = deque() if opened.format_name == "avi" else None
    losses, aspects = Losses(opened, keys_only), PixelAspects(opened)
    failures = 0
    packets = opened.packets()
    while failures <= _MAX_ERRORS_IN_A_ROW:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        except MemoryError as error:
            raise MemoryError(str(error)) from None
        except av.error.FFmpegError:
            failures += 1
            losses.before_next()
            yield None, True
            packets = opened.packets()  # the exception has closed the generator; a new one continues
            continue
        if keys_only and packet.size and not packet.is_keyframe:
            continue  # by the packet's flag, because the decoders of VP9 and AV1 ignore `skip_frame`
        losses.add(packet)
        if in_order is not None and packet.dts is not None:
            in_order.append(packet.dts)
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except MemoryError as error:
            raise MemoryError(str(error)) from None
        except av.error.FFmpegError as error:
            failures += 1
            opened.note_refused_size(error)
            _need_room_for_a_frame(stream.codec_context)
            if in_order:
                in_order.popleft()
            losses.at_latest()
            yield None, True
            continue
        losses.note_errors()
        aspects.note(losses.number)
        if frames:
            failures = 0
        for frame in frames:
            if in_order:
                frame.pts = in_order.popleft()
            aspects.mark(losses.origin_of(frame))
            yield frame, losses.taint(frame)
