"""The length of a video, also where its header does not state it correctly."""

from __future__ import annotations

from contextlib import suppress

from m2raap.video.container import OpenVideo

# Headers of these formats state the length of the longest stream, which is often the audio.
LOOSE_HEADERS = ("asf", "flv")


def video_length_s(opened: OpenVideo) -> float:
    """Seconds from the start of the video to the end of its last frame; 0 where neither header nor packets state it."""
    if opened.format_name not in LOOSE_HEADERS:
        return opened.duration_s
    return packets_end_s(opened) or opened.duration_s


def packets_end_s(opened: OpenVideo) -> float:
    """End of the last video packet in seconds by its time stamp; 0 without packets. Reads the whole file, decodes nothing."""
    import av.error

    origin = opened.stream.start_time or 0
    opened.was_read = True
    end_s = 0.0
    with suppress(av.error.FFmpegError):  # a damaged file counts up to where it can be read
        for packet in opened.packets():
            if packet.pts is not None:
                lasts_s = float((packet.duration or 0) * opened.time_base) or 1 / (opened.fps or 25.0)
                end_s = max(end_s, float((packet.pts - origin) * opened.time_base) + lasts_s)
    return end_s
