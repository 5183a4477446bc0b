"""Chooses the film among the video streams of a file, beside which there may be covers, previews and smaller copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from m2raap.video.sniff import refuse_many_streams

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_DEFAULT = 0x1  # AV_DISPOSITION_DEFAULT: the stream that the file asks a player to display
# ATTACHED_PIC, TIMED_THUMBNAILS and STILL_IMAGE of FFmpeg: covers and previews, which are no videos.
_PICTURE = 0x400 | 0x800 | 0x100000
_MAX_PACKETS = 250  # packets of the other streams after which a stream with a single one is a picture
_AS_LONG = 0.9  # a stream of at least this share of the longest one's length counts as equally long


def film(container: InputContainer) -> tuple[VideoStream | None, bool]:
    """The video stream to read, None where the file has none; and whether packets were read to tell which it is.

    Covers and previews are never chosen, and a stream of one frame only where no stream has more. Of several films it is the
    one marked as default, then the longest, then the one with the most pixels, then the first.
    """
    streams = [s for s in container.streams.video if not int(s.disposition) & _PICTURE]
    if len(streams) < 2:
        return (streams[0] if streams else None), False
    counts: dict[int, int] = {s.index: s.frames for s in streams}
    was_read = not all(counts.values())
    if was_read:
        counts = _packets_of(container, streams)
    films = [s for s in streams if counts[s.index] > 1] or streams
    films = [s for s in films if int(s.disposition) & _DEFAULT] or films
    lengths_s = {s.index: _length_s(s) for s in films}
    if all(lengths_s.values()):
        longest_s = max(lengths_s.values())
        films = [s for s in films if lengths_s[s.index] >= _AS_LONG * longest_s]
    return max(films, key=lambda s: _pixels(s)), was_read


def clock_s(text: str) -> float:
    """'00:01:02.5' -> 62.5; 0 for anything else."""
    try:
        hours, minutes, seconds = text.strip("\0 ").split(":")
        value = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0
    return value if 0 < value < 1e9 else 0.0


def _packets_of(container: InputContainer, streams: list[Any]) -> dict[int, int]:
    """Number of packets of each stream at the start of the file, by the stream's index."""
    import av.error

    counts = dict.fromkeys((s.index for s in streams), 0)
    try:
        for packet in container.demux(*streams):
            counts[packet.stream.index] += packet.size > 0
            if min(counts.values()) > 1 or max(counts.values()) > _MAX_PACKETS:
                break
    except MemoryError as error:
        refuse_many_streams([str(error)])
        raise
    except (av.error.FFmpegError, IndexError):  # a damaged file counts up to where it can be read
        return counts
    return counts


def _length_s(stream: Any) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return clock_s(stream.metadata.get("DURATION", ""))


def _pixels(stream: Any) -> int:
    context = stream.codec_context
    return context.width * context.height if context else 0
