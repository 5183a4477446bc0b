"""How long a video is where its header cannot be trusted with that."""

from __future__ import annotations

from contextlib import suppress

from m2raap.video.container import OpenVideo

# Their headers state the length of the longest stream, often the sound: the middles of segments would be missed.
LOOSE_HEADERS = ("asf", "flv")


def video_length_s(opened: OpenVideo) -> float:
    """Seconds from the start of the video to the end of its last frame; 0 where neither header nor packets say."""
    if opened.format_name not in LOOSE_HEADERS:
        return opened.duration_s
    return packets_end_s(opened) or opened.duration_s


def packets_end_s(opened: OpenVideo) -> float:
    """When the last video packet ends by its own time stamp, 0 without any. Reads the whole file, decodes nothing."""
    import av.error

    origin = opened.stream.start_time or 0
    opened.was_read = True  # who decodes next has to seek back
    end_s = 0.0
    with suppress(av.error.FFmpegError):  # of a damaged file: as far as it can be read
        for packet in opened.packets():
            if packet.pts is not None:
                lasts_s = float((packet.duration or 0) * opened.time_base) or 1 / (opened.fps or 25.0)
                end_s = max(end_s, float((packet.pts - origin) * opened.time_base) + lasts_s)
    return end_s
