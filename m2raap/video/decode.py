"""Open a stranger's video with whitelists and decode it packet by packet, whatever its bytes are.

Runs inside the child of `worker.py`. Times are seconds since the start of the video stream (`stream.start_time`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.video.limits import CODECS, FORMATS, PROTOCOLS, Refused, VideoConfig

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_MAX_ERRORS_IN_A_ROW = 256  # a demuxer that only fails makes no progress
_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: the cover of a song is no video
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\1\0")
_LISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0", b"file '")
_BOXES = (b"ftyp", b"mdat", b"moov", b"free", b"wide", b"skip", b"pnot", b"moof", b"styp", b"sidx", b"uuid")


@dataclass
class Opened:
    """An open container and the video stream that counts."""

    container: InputContainer
    stream: VideoStream

    @property
    def fps(self) -> float:
        """Average frames a second by the header; 0 where it does not say."""
        for rate in (self.stream.average_rate, self.stream.guessed_rate):
            if rate and 0 < float(rate) < 1000:
                return float(rate)
        return 0.0

    @property
    def time_base(self) -> Fraction:
        base = self.stream.time_base
        return Fraction(base.numerator, base.denominator) if base else Fraction(1, 90000)

    @property
    def duration_s(self) -> float:
        """Announced length of the video stream in seconds, 0 where the header does not say."""
        if self.container.format.name.startswith("mov") and self.stream.duration:
            # The container's duration is after edit lists, the stream's before: the shorter one can be shown.
            whole = (self.container.duration or 0) / 1e6
            own = float(self.stream.duration * self.time_base)
            return min(own, whole) if whole > 0 else own
        if self.container.format.name == "avi" and self.stream.frames:
            # FFmpeg shortens the duration of a cut AVI to its bytes; the header's length (in time base units) stays.
            return float(self.stream.frames * self.time_base)
        if self.stream.duration:
            return float(self.stream.duration * self.time_base)
        return max(0, self.container.duration or 0) / 1e6


@dataclass
class Decoded:
    """One frame, or `frame=None` for a packet that could not be decoded."""

    time_s: float
    frame: VideoFrame | None

    @property
    def corrupt(self) -> bool:
        return self.frame is None or bool(self.frame.is_corrupt)


@contextmanager
def open_video(path: Path, cfg: VideoConfig) -> Iterator[Opened]:
    """The container at `path`. Raises Refused with the class of what is wrong with it."""
    import av
    import av.error
    import av.logging
    from av.stream import Discard

    av.logging.set_level(av.logging.PANIC)
    _refuse_by_bytes(path, cfg)
    guard = {
        "protocol_whitelist": PROTOCOLS,
        "format_whitelist": FORMATS,
        "codec_whitelist": CODECS + ",aac,mp3,ac3,opus,vorbis",
        "max_pixels": str(cfg.max_pixels),
        "max_streams": "64",
    }
    try:
        container: Any = av.open(f"file:{path}", options=guard, metadata_errors="replace")
    except av.error.ArgumentError as error:
        raise Refused("refused_format", f"FFmpeg took the bytes for a format outside the whitelist ({error})") from None
    except av.error.InvalidDataError as error:
        if _is_mp4_without_moov(path):
            raise Refused("header_missing", "an MP4 without its moov box: it was cut off") from None
        raise Refused("not_media", str(error)) from None
    except av.error.FFmpegError as error:
        raise Refused("not_media", str(error)) from None
    with container:
        streams = [s for s in container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
        if not streams:
            raise Refused("no_video_stream", f"streams: {[s.type for s in container.streams]}")
        stream = streams[0]
        context: Any = stream.codec_context
        if context is None or context.name not in CODECS.split(","):
            raise Refused("unsupported_codec", f"codec {getattr(context, 'name', 'unknown')}")
        if context.width * context.height > cfg.max_pixels:
            raise Refused("too_large", f"{context.width}x{context.height} pixels")
        context.thread_count = 1
        context.options = {"max_pixels": str(cfg.max_pixels), "threads": "1"}
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        yield Opened(container, stream)


def decode(opened: Opened, start_s: float = 0.0, end_s: float | None = None) -> Iterator[Decoded]:
    """Frames with start_s <= time < end_s in presentation order; a damaged packet comes as `frame=None`.

    Seeks to the key-frame before `start_s` and drops what comes earlier. A frame without a time stamp takes the time of
    the one before plus 1/fps. Raises nothing for damage.
    """
    import av.error

    container, stream = opened.container, opened.stream
    base = opened.time_base
    origin = stream.start_time or 0
    tick_s = 1 / (opened.fps or 25.0)
    last_s = -tick_s
    if start_s > 0:
        try:
            container.seek(max(0, int(start_s / base)) + origin, stream=stream, backward=True)
        except av.error.FFmpegError:
            # No index to seek by: decode from the start instead, which gives the same frames later.
            container.seek(origin, stream=stream, backward=True)
    for frame in _tolerant(container, stream):
        if frame is None:
            if last_s + tick_s >= start_s:
                yield Decoded(max(last_s, start_s), None)
            continue
        time_s = last_s + tick_s if frame.pts is None else float((frame.pts - origin) * base)
        last_s = time_s
        if time_s < start_s - 1e-6:
            continue
        if end_s is not None and time_s >= end_s - 1e-6:
            return
        yield Decoded(time_s, frame)


def _tolerant(container: Any, stream: Any) -> Iterator[VideoFrame | None]:
    """All frames; None for each packet or read that failed. Stops after many failures in a row."""
    import av.error

    failures = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError:
            failures += 1
            yield None
            if failures > _MAX_ERRORS_IN_A_ROW:
                return
            packets = container.demux(stream)  # the generator is closed by its exception; a new one reads on
            continue
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.MemoryError as error:
            raise MemoryError(str(error)) from None
        except av.error.FFmpegError:
            failures += 1
            yield None
            if failures > _MAX_ERRORS_IN_A_ROW:
                return
            continue
        if frames:
            failures = 0
        yield from frames


def announced_frames(opened: Opened, start_s: float, end_s: float) -> int | None:
    """Frames that an MP4's sample table puts into the window; None for containers without such a table.

    Entries that an edit list discards are not announced. Decode order is close enough: a clip is judged by a share.
    """
    if not opened.stream.frames or not opened.container.format.name.startswith("mov"):
        return None
    base = float(opened.time_base)
    entries = [e for e in _index(opened) if not e.is_discard]
    if len(entries) < opened.stream.frames * 0.5:
        return None  # not the table of the whole file
    first = entries[0].timestamp
    return sum(1 for e in entries if start_s - 1e-6 <= (e.timestamp - first) * base < end_s - 1e-6)


def share_beyond_file(opened: Opened, num_bytes: int) -> float:
    """Share of the frames in an MP4's sample table that lie past the end of the file. Costs no decoding."""
    entries = _index(opened)
    return sum(1 for e in entries if e.pos + e.size > num_bytes) / len(entries) if entries else 0.0


def _index(opened: Opened) -> list[Any]:
    return list(opened.stream.index_entries or ())


def _refuse_by_bytes(path: Path, cfg: VideoConfig) -> None:
    try:
        num_bytes = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(4096)
    except IsADirectoryError:
        raise Refused("not_media", "a folder") from None
    except OSError as error:
        raise Refused("missing_file", str(error.strerror)) from None
    if num_bytes == 0:
        raise Refused("empty", "0 bytes")
    if num_bytes > cfg.max_bytes:
        raise Refused("too_large", f"{num_bytes} bytes")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(_LISTS):
        raise Refused("refused_format", f"a playlist or file list: {text[:20]!r}")
    if text.startswith(_IMAGES) or (text.startswith(b"RIFF") and text[8:12] == b"WEBP"):
        raise Refused("refused_format", "an image")
    if text[:1] in (b"<", b"{", b"["):
        raise Refused("not_media", f"text, not video: {text[:40]!r}")


def _is_mp4_without_moov(path: Path) -> bool:
    """Walks the top-level boxes (ISO 14496-12): looks like MP4, and no moov is reached before the end of the file."""
    num_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        offset, seen = 0, 0
        while offset + 8 <= num_bytes and seen < 10_000:
            file.seek(offset)
            header = file.read(16)
            size, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if kind not in _BOXES:
                return seen > 0
            if kind == b"moov":
                return offset + size > num_bytes  # the moov itself is cut
            if size == 1:
                size = int.from_bytes(header[8:16], "big")
            seen += 1
            if size == 0:
                return True
            if size < 8:
                return True
            offset += size
    return seen > 0
