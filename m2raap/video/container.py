"""Opens untrusted video files with whitelists and limits, and reads their headers. Runs in the child process."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from m2raap.video.faults import faults_of_the_file, lack_of_memory, unreadable
from m2raap.video.limits import CODECS, FORMATS, MAX_STREAMS, MAX_TIME_S, PROTOCOLS, SOUND_CODECS, Refused, VideoConfig
from m2raap.video.paths import open_regular, read_at
from m2raap.video.reorder import late_by
from m2raap.video.shape import pixel_aspect
from m2raap.video.sniff import is_mp4_without_moov, refuse_by_head, refuse_many_streams, why_unopened
from m2raap.video.tails import Tail, find_tail
from m2raap.video.track import clock_s, film

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.stream import VideoStream

TOO_MANY_PIXELS = "Picture size"  # av_image_check_size2 of FFmpeg: 'Picture size 16384x16384 is invalid'
# Rates outside these are impossible: they come from damaged headers, or are those of a clock.
MIN_FPS, MAX_FPS = 1e-4, 1000.0
_READ_BYTES = 256 * 1024
_MAX_STAMP = 1 << 62  # FFmpeg's time stamps have 64 bits
_UNKNOWN_AVI_FRAMES = 1 << 30  # what FFmpeg writes to a pipe, where it cannot come back with the number
_SAME_START_S = 0.001  # streams that start closer than this start together: stamps may be rounded to milliseconds


@dataclass
class OpenVideo:
    """An open container and one of its video streams (see m2raap.video.track).

    Times of a file are seconds since the container's start, as players and `ffmpeg -ss` count them: since its first picture, or
    since its sound where that starts earlier.
    """

    container: InputContainer
    stream: VideoStream
    file: BinaryIO
    num_bytes: int
    was_read: bool = False  # packets have been read, so that a second pass has to seek back
    frames_follow: bool = False  # the latest decode ended at its `end_s`, before an undamaged frame
    refused_size: bool = False  # FFmpeg refused a frame with more pixels than the limit
    num_logged_before: int = 0  # FFmpeg's log messages in this process when the container was opened
    _held: Packet | None = None  # the first packet of the file, which `begins_early` has read
    _after_seek: bool = False  # the next packet is the first of an AVI after a seek
    _late_by: int = 0  # of the times of an AVI's packets since the latest seek, in units of `time_base`
    _in_a_pack: bool = False  # the last seek may have ended between the frames of a pack of a program stream

    def note_refused_size(self, error: Exception) -> None:
        """Sets `refused_size` where FFmpeg refused the size of a frame.

        PyAV adds FFmpeg's latest log message to an error, even one about the file before; only a newer one counts.
        """
        import av.logging

        if av.logging.get_last_error()[0] > self.num_logged_before:
            self.refused_size |= TOO_MANY_PIXELS in str(error)

    @property
    def format_name(self) -> str:
        """FFmpeg's first name for the container: mov, matroska, avi, mpegts, mpeg, flv, ogg or asf."""
        return self.container.format.name.split(",")[0]

    @property
    def fps(self) -> float:
        """Average number of frames per second by the header; 0 where the header states none, or an impossible one."""
        for rate in (self.stream.average_rate, self.stream.guessed_rate):
            if rate and MIN_FPS <= float(rate) < MAX_FPS:
                return float(rate)
        return 0.0

    @cached_property
    def time_base(self) -> Fraction:
        """Seconds per unit of the stream's time stamps."""
        base = self.stream.time_base
        return Fraction(base.numerator, base.denominator) if base and base > 0 else Fraction(1, 90000)

    @cached_property
    def pixel_aspect(self) -> tuple[float, bool]:
        """The pixel aspect ratio by the header, and whether frames may state another one. To be read before a frame is decoded.

        A ratio of the container is for all frames, one of the codec until the codec states the next.
        """
        by_header = pixel_aspect(self.stream)
        return by_header, by_header == pixel_aspect(self.stream.codec_context)

    @cached_property
    def _tick_s(self) -> float:
        return float(self.time_base)

    @cached_property
    def first_stamp(self) -> int:
        """Time stamp of the first frame, in units of `time_base`."""
        return self.stream.start_time or 0

    @cached_property
    def first_s(self) -> float:
        """Time of the first frame in seconds since the container's start: more than 0 where the sound starts earlier."""
        if self.container.start_time is None or self.stream.start_time is None:
            return 0.0
        sound_first_s = float(self.first_stamp * self.time_base) - self.container.start_time / 1e6
        return sound_first_s if _SAME_START_S < sound_first_s <= MAX_TIME_S else 0.0

    def seconds(self, stamp: int) -> float:
        """The time of a time stamp, in seconds since the container's start."""
        return self.first_s + (stamp - self.first_stamp) * self._tick_s

    def stamp(self, time_s: float) -> int:
        """The time stamp at or before `time_s`, which is in seconds since the container's start."""
        return self.first_stamp + int((time_s - self.first_s) / self.time_base)

    @cached_property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last one by the header; 0 where the header does not state it."""
        is_matroska = self.format_name == "matroska"
        # A container states its length from its own start. Matroska's lengths are the time stamps of ends.
        first_s = float(self.first_stamp * self.time_base) if is_matroska else self.first_s
        container_s = _without(max(0, self.container.duration or 0) / 1e6, first_s)
        stream_s = float(self.stream.duration * self.time_base) if self.stream.duration else 0.0
        if self.format_name == "avi":
            # FFmpeg computes the duration of a cut-off AVI from the bytes that are left; the header states the full length.
            num_frames = self.stream.frames if 0 < self.stream.frames < _UNKNOWN_AVI_FRAMES else 0
            return float(num_frames * self.time_base)
        if is_matroska:
            # The container's duration is that of its longest stream, which may be the audio. mkvmerge, which adds tags of its
            # own, writes the length of a stream into its tag.
            by_mkvmerge = any(name.startswith("_STATISTICS") for name in self.stream.metadata)
            tag_s = clock_s(self.stream.metadata.get("DURATION", ""))
            stream_s = stream_s or _without(tag_s, 0.0 if by_mkvmerge else first_s)
        # An MP4's edit list applies to the container's duration, not to the stream's: the shorter one can be displayed.
        return min(stream_s, container_s) if stream_s > 0 and container_s > 0 else stream_s or container_s

    @property
    def stated_end_s(self) -> float:
        """End of the last frame in seconds since the container's start by the header; 0 where the header does not state it."""
        return self.first_s + self.duration_s if self.duration_s else 0.0

    @cached_property
    def length_is_stated(self) -> bool:
        """Whether the header states a length; if not, FFmpeg takes `duration_s` from the last time stamps in the file."""
        if self.format_name == "flv":
            return b"duration\0" in read_at(self.file, 0, 4096)
        if self.format_name == "mov":
            return bool(self.stream.frames)  # a fragmented MP4 has no sample table in its header
        return self.duration_s > 0 and self.format_name not in ("mpegts", "mpeg", "ogg")

    @cached_property
    def length_is_of_video(self) -> bool:
        """Whether `duration_s` is certainly that of the video stream, not of a longer audio stream."""
        if self.format_name in ("mpegts", "mpeg", "ogg", "asf"):
            return False  # FFmpeg gives every stream the length of the file
        return bool(self.stream.duration) or "DURATION" in self.stream.metadata or self.format_name == "avi"

    @cached_property
    def tail(self) -> Tail:
        """Whether the file ends where its container says: see m2raap.video.tails."""
        return find_tail(self.file, self.num_bytes, self.format_name)

    def seek(self, stamp: int) -> None:
        """Seeks to a packet at or before a time stamp. Raises FFmpegError where the file has no index, or no such packet."""
        # An AVI counts from 0, and has no packet before; a byte position, to which `rewind` goes, leaves its count as it is.
        stamp = max(0 if self.format_name == "avi" else -_MAX_STAMP, min(_MAX_STAMP, stamp))
        self.container.seek(stamp, stream=self.stream, backward=True)
        self.was_read = True
        self._in_a_pack = self.format_name == "mpeg" and stamp > self.first_stamp
        self._after_seek, self._held = self.format_name == "avi", None

    def begins_early(self) -> bool:
        """Whether a file of which nothing was read begins with packets without a time, which lie before its start.

        FFmpeg has no index of them: only who reads from the first byte on can decode what they lead to.
        """
        self._held = None if self.was_read else next(self.packets(), None)
        return self._held is not None and self._held.size > 0 and self._held.pts is None and self._held.dts is None

    def rewind(self) -> None:
        """Goes back to the first byte of the file, whatever its time stamps. Raises FFmpegError."""
        self.container.seek(0, stream=self.stream, unsupported_byte_offset=True)
        self.was_read, self._in_a_pack = True, False

    def packets(self) -> Iterator[Packet]:
        """Packets of the video stream from the current position on; the last one is empty and flushes the decoder.

        An AVI stores decoding times only, which become the `pts` of its packets (see m2raap.video.reorder). A pack of a program
        stream states one time, that of the first frame that begins in it, from which FFmpeg counts on. After a seek it gives
        that time to the end of the frame before, so that the frames of the first pack are left out. Raises Refused
        (unsupported_codec) for encrypted packets.
        """
        if self._held is not None:
            packet, self._held = self._held, None
            yield packet
        pack: int | None = None  # position of the pack; frames without a time of their own have none
        may_be_encrypted, is_avi = self.format_name == "mov", self.format_name == "avi"
        # At the end PyAV raises IndexError for a stream that appeared after opening; all video packets have come by then.
        try:
            with suppress(IndexError):
                packets = self.container.demux(self.stream)
                for packet in packets:
                    # Of a clear beginning the next key-frame is the first that may be encrypted.
                    if may_be_encrypted and packet.is_keyframe and packet.has_sidedata("encryption_info"):
                        raise Refused("unsupported_codec", "the video is encrypted (DRM), and the file holds no key")
                    if self._in_a_pack and packet.size:
                        pack = packet.pos if pack is None else pack
                        if packet.pos in (None, pack):
                            continue
                        self._in_a_pack = False
                    if is_avi and packet.size:
                        if self._after_seek:
                            self._after_seek, self._late_by = False, late_by(self.stream.index_entries, packet)
                        if self._late_by and packet.dts is not None:
                            packet.dts -= self._late_by
                        packet.pts = packet.dts
                    yield packet
        except MemoryError as error:
            refuse_many_streams([str(error)])
            raise

    def nothing_decoded(self, some_packets: bool) -> Refused:
        """The refusal of a file from which no frame could be decoded. `some_packets`: whether packets could be read."""
        if self.refused_size:
            return Refused("too_large", "the frames have more pixels than the limit")
        if some_packets and self.tail != "cut":
            return Refused("corrupt", "no frame can be decoded")
        return Refused("truncated", "the file holds no frames")


@dataclass
class OpenContainer:
    """A container opened with the whitelists and limits; `messages` are those of FFmpeg while it was opened."""

    container: Any
    file: BinaryIO
    num_bytes: int
    messages: list[tuple[int, str, str]]


@contextmanager
def open_container(path: Path, cfg: VideoConfig) -> Iterator[OpenContainer]:
    """Opens the container at `path`. Raises Refused with the reason why it cannot be used, also for errors of who reads it.

    FFmpeg gets an open file, never a path, and its requests to open further files are refused. So a playlist disguised as a
    video can open nothing, even if a whitelist should fail.
    """
    import av
    import av.error
    import av.logging

    raw, num_bytes = open_regular(path, cfg)
    with raw:
        refuse_by_head(raw)
        guard = {
            "protocol_whitelist": PROTOCOLS,
            "format_whitelist": FORMATS,
            "codec_whitelist": f"{CODECS},{SOUND_CODECS}",
            "max_pixels": str(cfg.max_pixels),
            "max_streams": str(MAX_STREAMS),
        }
        messages: list[tuple[int, str, str]] = []
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # or a "repeated 3 more times" about one file comes during the next
        try:
            with av.logging.Capture(local=True) as messages:
                container: Any = av.open(
                    _Nameless(raw),
                    options=guard,
                    metadata_errors="replace",
                    io_open=_refuse_open,
                    buffer_size=_READ_BYTES,
                )
        except av.error.ArgumentError as error:
            raise Refused(
                "refused_format", f"FFmpeg recognises the file as a format outside the whitelist ({error})"
            ) from None
        except MemoryError as error:
            refuse_many_streams([message for _, _, message in messages])
            raise lack_of_memory(error) from None
        except av.error.FFmpegError as error:
            raise why_unopened(raw, num_bytes, str(error)) from None
        except OSError as error:
            raise unreadable(error) from None
        except (ArithmeticError, ValueError) as error:  # PyAV cannot express a number of the header
            raise Refused("corrupt", f"the header holds an impossible value ({error})") from None
        finally:
            av.logging.set_level(av.logging.PANIC)
        with container, faults_of_the_file():
            _refuse_cut_header(container, raw, num_bytes)
            yield OpenContainer(container, raw, num_bytes, messages)


@contextmanager
def open_video(path: Path, cfg: VideoConfig) -> Iterator[OpenVideo]:
    """Opens the film of the container at `path`. Raises Refused with the reason why it cannot be used."""
    import av.logging
    from av.stream import Discard

    with open_container(path, cfg) as within:
        container = within.container
        for other in container.streams:
            if other.type != "video":
                other.discard = Discard.all
        stream, was_read = film(container)
        if stream is None:
            kinds = ["cover" if s.type == "video" else s.type for s in container.streams]
            raise Refused("no_video_stream", f"the file's streams are {kinds}")
        context: Any = stream.codec_context
        if context is None or context.name not in CODECS.split(","):
            raise Refused("unsupported_codec", f"the codec is {getattr(context, 'name', 'unknown')}")
        if context.width * context.height > cfg.max_pixels:
            raise Refused(
                "too_large",
                f"a frame has {context.width}x{context.height} pixels, at most {cfg.max_pixels} are allowed",
            )
        context.thread_count = 1
        context.options = {"max_pixels": str(cfg.max_pixels), "threads": "1"}
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        opened = OpenVideo(container, stream, within.file, within.num_bytes, was_read)
        opened.num_logged_before = av.logging.get_last_error()[0]
        opened.refused_size = any(TOO_MANY_PIXELS in message for _, _, message in within.messages)
        yield opened


class _Nameless:
    """A file without a name, so that FFmpeg recognises its format by the bytes alone, never by a file extension."""

    name = ""

    def __init__(self, raw: BinaryIO) -> None:
        self.read, self.tell, self._seek = raw.read, raw.tell, raw.seek

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # damaged tables hold negative offsets
            return -errno.EINVAL


def _refuse_cut_header(container: Any, raw: BinaryIO, num_bytes: int) -> None:
    """Raises Refused (header_missing) for a file that ends inside its header, which FFmpeg may open all the same."""
    name = container.format.name
    useful = any(stream.type in ("video", "audio", "subtitle") for stream in container.streams)
    if useful and not name.startswith("mov"):
        return
    if find_tail(raw, num_bytes, name) == "cut" and (not useful or is_mp4_without_moov(raw, num_bytes)):
        raise Refused("header_missing", "the file ends inside its header: it was cut off")


def _refuse_open(url: str, flags: int, options: dict[str, str]) -> Any:
    raise Refused("refused_format", f"the file asks for another one to be opened: {url[:80]!r}")


def _without(end_s: float, first_s: float) -> float:
    """Length from `first_s` to `end_s`; `end_s` where that is no length."""
    return end_s - first_s if 0 < first_s < end_s else end_s
