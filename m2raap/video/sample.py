"""Decodes a few frames of a clip at given places to pixels, as training on raw video does in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.video.container import OpenVideo, open_video
from m2raap.video.decode import decode
from m2raap.video.length import packets_end_s, video_end_s
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.render import Renderer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ClipFile:
    """A clip as a span [start_s, end_s) of the video at `path` (from `resolve_video`); an `end_s` of None is the video's end.

    Both are seconds since the container's start."""

    path: Path
    start_s: float
    end_s: float | None


@dataclass
class SampledFrames:
    """Frames of a clip, ascending in time and all of one size."""

    times_s: list[float]  # strictly increasing, since the start of the clip
    width: int  # pixels
    height: int
    pixels: list[bytes]  # one entry per frame: RGB uint8 [height, width, 3]


def sample(
    path: Path,
    start_s: float,
    end_s: float | None,
    places: Sequence[float],
    short_side_px: int,
    limits: VideoConfig,
) -> SampledFrames:
    """For each of `places` the first undamaged frame at or after it in [start_s, end_s), or the last frame where none follows.

    `places` are strictly increasing numbers from 0 (the first frame) to 1 (the last frame). A frame of several places is
    returned once. Decoding goes on from one place to the next, or restarts at an I-frame between them where the file's index
    names one. Raises Refused: what `open_video` raises, unsupported_codec, and truncated where the span has no frame.
    """
    assert all(0 <= a < b <= 1 for a, b in pairwise([*places, 1.0])), places
    with open_video(path, limits) as opened:
        ends_s = [end for end in (end_s, video_end_s(opened)) if end]
        first_s = max(start_s, opened.first_s)
        window_s = (min(ends_s) if ends_s else packets_end_s(opened)) - first_s
        last_s = first_s + max(0.0, window_s - 1 / (opened.fps or 25.0))
        return _take(opened, start_s, end_s, [first_s + place * (last_s - first_s) for place in places], short_side_px)


def _take(
    opened: OpenVideo, start_s: float, end_s: float | None, targets_s: list[float], short_side_px: int
) -> SampledFrames:
    import av.error

    jumps_s = _key_times_s(opened)
    renderer: Renderer | None = None
    times_s: list[float] = []
    pictures: list[Image] = []

    def keep(time_s: float, frame: Any) -> None:
        nonlocal renderer
        renderer = renderer or Renderer(opened.stream, frame, short_side_px)
        try:
            pictures.append(renderer.picture(frame))
        except (av.error.FFmpegError, ValueError) as error:
            raise Refused("unsupported_codec", f"pixel format {frame.format.name}: {error}") from None
        times_s.append(time_s)

    frames = decode(opened, start_s, end_s)
    last: tuple[float, Any] | None = None
    for target_s in targets_s:
        if last is not None and any(last[0] < key_s <= target_s for key_s in jumps_s):
            frames = decode(opened, target_s - 1e-6, end_s)
        if last is None or last[0] < target_s - 1e-6:
            for item in frames:
                if item.frame is not None and not item.corrupt:
                    last = item.time_s, item.frame
                    if item.time_s >= target_s - 1e-6:
                        break
        if last is not None and (not times_s or last[0] > times_s[-1] + 1e-6):
            keep(*last)
    if renderer is None:
        span = f"from {start_s:g} s to " + ("the end" if end_s is None else f"{end_s:g} s")
        raise Refused("truncated", f"the span {span} holds no undamaged frame")
    width, height = renderer.target
    return SampledFrames(
        [round(t - start_s, 6) for t in times_s], width, height, [picture.tobytes() for picture in pictures]
    )


def _key_times_s(opened: OpenVideo) -> list[float]:
    """Times of the I-frames in the file's index; empty for a container without index."""
    return [opened.seconds(e.timestamp) for e in opened.stream.index_entries or () if e.is_keyframe]
