"""Decodes a video packet by packet and tolerates damage. Times are seconds since the container's start (OpenVideo)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from m2raap.video.container import OpenVideo
from m2raap.video.faults import has_room
from m2raap.video.reorder import in_display_order
from m2raap.video.shape import PixelAspects
from m2raap.video.trust import MAX_RUN, Losses, Stamps, spread_damage

if TYPE_CHECKING:
    from av import Packet, VideoFrame

# Containers of which FFmpeg has no index but of the packets that it has read. Joined files hold times more than once, so that a
# seek to the first one may end in the middle.
WITHOUT_INDEX = ("mpegts", "mpeg", "flv", "ogg")
MAX_ERRORS_IN_A_ROW = 256  # after this many the demuxer is taken to make no progress


@dataclass(slots=True)
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
    tick_s = 1 / (opened.fps or 25.0)
    opened.frames_follow = False
    for item in _from_before(opened, start_s, keys_only):
        if item.frame is None:
            if item.time_s + tick_s >= start_s:
                yield DecodedFrame(max(item.time_s, start_s), None, corrupt=True)
            continue
        if item.time_s < start_s - 1e-6:
            continue
        if end_s is not None and item.time_s >= end_s - 1e-6:
            opened.frames_follow = not item.corrupt
            return
        yield item


def displayed_in(opened: OpenVideo, start_s: float, end_s: float) -> float | None:
    """The time of the undamaged frame that a player displays throughout [start_s, end_s), in which no frame begins; None
    without one."""
    tick_s, last_s, last_end_s = 1 / (opened.fps or 25.0), None, 0.0
    for item in _from_before(opened, start_s, keys_only=False):
        if item.frame is None or item.corrupt:
            last_s = None if item.time_s <= start_s + 1e-6 else last_s
            continue
        if item.time_s > start_s + 1e-6:
            return last_s
        last_s = item.time_s
        last_end_s = last_s + (float((item.frame.duration or 0) * opened.time_base) or tick_s)
    return last_s if last_end_s >= end_s - 1e-6 else None


def _from_before(opened: OpenVideo, start_s: float, keys_only: bool) -> Iterator[DecodedFrame]:
    """All frames from one that is displayed at or before `start_s`.

    After a seek some decoders give no frame until they have seen several, as in a stream without I-frames, whose pictures are
    renewed part by part; others show such pictures half renewed, and mark them. So where the first frame is later than `start_s`,
    or is damaged, the seek is repeated farther back.
    """
    if start_s > opened.first_s or opened.was_read:
        seek_before(opened, start_s)
    opened.was_read = True
    items = _timed(opened, keys_only)
    for back_s in (2.0, 8.0):
        first = next(items, None)
        if first is None:
            return
        is_in_time = first.frame is None or (first.time_s <= start_s + 1e-6 and not first.corrupt)
        if start_s <= opened.first_s or is_in_time:
            yield first
            break
        seek_before(opened, start_s - back_s)
        items = _timed(opened, keys_only)
    yield from items


def _timed(opened: OpenVideo, keys_only: bool) -> Iterator[DecodedFrame]:
    """All frames from the current position on; a packet that cannot be decoded has the time of the frame before it.

    FFmpeg gives no time to the frames of a Matroska that lie before its start, as a cut by copy leaves them: they are left out.
    """
    tick_s, is_before = 1 / (opened.fps or 25.0), opened.format_name == "matroska"
    last_s = opened.first_s - tick_s
    stamps = Stamps()
    frames = _tolerant(opened, keys_only)
    for frame, corrupt in spread_damage(in_display_order(frames) if opened.format_name == "avi" else frames):
        if frame is not None:
            stamp = stamps.of(frame, corrupt)
            if stamp is None and is_before:
                continue
            is_before = False
            last_s = last_s + tick_s if stamp is None else opened.seconds(stamp)
        yield DecodedFrame(last_s, frame, corrupt)


def seek_before(opened: OpenVideo, start_s: float) -> None:
    """Seeks to an I-frame displayed at or before `start_s`, and so early that the frames from `start_s` on get their times.

    In a stream without an index FFmpeg seeks by time stamps alone, and may stop inside a group of pictures, whose frames
    would be lost. Indices of MP4 hold decoding times, and the I-frame that is decoded before `start_s` may be displayed after
    it. So the next I-frame is looked up after a seek, and where it is too late the seek is repeated farther back.
    """
    import av.error

    if opened.format_name == "avi":
        # The I-frame after a seek may come too early by as many frames: see in_display_order. Files whose frames have different
        # lengths state a high rate.
        start_s = max(0.0, start_s - (MAX_RUN + 1) / min(opened.fps or 25.0, 25.0))
    if opened.format_name in WITHOUT_INDEX and start_s <= opened.first_s:
        with suppress(av.error.FFmpegError):
            opened.rewind()  # times may occur more than once in the file
            return
    if opened.format_name == "matroska" and opened.begins_early():
        return
    for back_s in (0.0, 1.0, 4.0, 16.0, start_s + 1.0, start_s + 16.0):
        target = opened.stamp(start_s - back_s)
        try:
            opened.seek(target)
            if _next_key_s(opened) <= max(start_s, opened.first_s) + 1e-6:
                opened.seek(target)
                return
        except av.error.FFmpegError:
            continue  # the file has no index, or no packet that early
    try:
        opened.seek(opened.stamp(opened.first_s - 16.0))
    except av.error.FFmpegError:
        opened.rewind()


def _next_key_s(opened: OpenVideo) -> float:
    """Time of the next packet with the key-frame flag; infinity where the next 1,000 packets hold none."""
    for packet in islice(opened.packets(), 1000):
        if packet.is_keyframe and packet.size:
            stamp = packet.dts if packet.pts is None else packet.pts
            return opened.seconds(stamp) if stamp is not None else float("inf")
    return float("inf")


def _need_room_for_a_frame(context: Any) -> None:
    """Raises MemoryError where memory for one more frame is lacking, which some decoders report as a damaged packet."""
    if not has_room(max(1, context.width * context.height * 2)):
        raise MemoryError(f"not enough memory for a frame of {context.width}x{context.height} pixels")


def _tolerant(opened: OpenVideo, keys_only: bool) -> Iterator[tuple[VideoFrame | None, bool]]:
    """All frames; None for each failure to read or decode a packet. Stops after MAX_ERRORS_IN_A_ROW failures in a row.

    With each frame: whether it may be predicted from lost data. Each packet is read before the one before it is decoded, because
    where bytes are missing inside a packet it ends with foreign ones, which only the demuxer notices, behind it.
    """
    import av.error

    stream: Any = opened.stream
    losses = Losses(stream.codec_context, opened.format_name, keys_only)
    aspects = PixelAspects(stream.codec_context, *opened.pixel_aspect)
    failures = 0
    reads = _read(opened, losses)
    read = next(reads, None)
    while read is not None and failures <= MAX_ERRORS_IN_A_ROW:
        (packet, error_before), read = read, next(reads, None)
        losses.note_before_next(error_before)
        if packet is None:
            failures += 1
            losses.before_next()
            yield None, True
            continue
        if keys_only and packet.size and not packet.is_keyframe:
            continue  # by the packet's flag, because the decoders of VP9 and AV1 ignore `skip_frame`
        losses.add(packet, skipped_after=read is not None and read[1] is not None)
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
            losses.at_latest()
            yield None, True
            continue
        losses.note_errors()
        aspects.note(losses.number)
        if frames:
            failures = 0
        for frame in frames:
            origin = losses.origin_of(frame)
            aspects.mark(origin)
            yield frame, losses.taint(frame, origin.number)


def _read(opened: OpenVideo, losses: Losses) -> Iterator[tuple[Packet | None, str | None]]:
    """All packets, None for each failure to read one, and FFmpeg's error since the packet before."""
    import av.error

    packets = opened.packets()
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        except MemoryError as error:
            raise MemoryError(str(error)) from None
        except av.error.FFmpegError:
            yield None, losses.new_error()
            packets = opened.packets()  # the exception has closed the generator; a new one continues
            continue
        yield packet, losses.new_error()
