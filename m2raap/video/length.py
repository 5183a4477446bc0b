"""The length of a video, also where its header does not state it correctly."""

from __future__ import annotations

from contextlib import suppress

from m2raap.video.container import OpenVideo
from m2raap.video.decode import seek_before
from m2raap.video.limits import Refused
from m2raap.video.tally import STEP_BACK_S

# Headers of these formats state the length of the longest stream, which is often the audio, or none; then FFmpeg's estimate is
# that of the longest stream, or leaves out the frames of the last pack.
LOOSE_HEADERS = ("asf", "flv", "mpeg", "mpegts", "ogg")


def video_end_s(opened: OpenVideo) -> float:
    """End of the last frame in seconds since the container's start; 0 where neither header nor packets state it."""
    if opened.format_name not in LOOSE_HEADERS:
        return opened.stated_end_s
    return packets_end_s(opened) or opened.stated_end_s


def packets_end_s(opened: OpenVideo) -> float:
    """End of the last video packet in seconds since the container's start, by its time stamp; 0 without packets.

    Reads the whole file, decodes nothing. Raises Refused (corrupt) for an Ogg that holds several videos one after the other,
    whose times begin again: once read, FFmpeg gives only the last of them.
    """
    import av.error

    if opened.was_read:
        seek_before(opened, 0.0)
    opened.was_read = True
    end_s = 0.0
    with suppress(av.error.FFmpegError):  # a damaged file counts up to where it can be read
        for packet in opened.packets():
            if packet.pts is not None:
                lasts_s = float((packet.duration or 0) * opened.time_base) or 1 / (opened.fps or 25.0)
                time_s = opened.seconds(packet.pts)
                if opened.format_name == "ogg" and time_s < end_s - STEP_BACK_S:
                    raise Refused(
                        "corrupt", "the file holds several videos that were joined without new times; split it"
                    )
                end_s = max(end_s, time_s + lasts_s)
    return end_s
