"""A few frames of a clip at given places, decoded straight to pixels: what training on raw video does every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.video.container import OpenVideo, open_video
from m2raap.video.decode import decode
from m2raap.video.length import packets_end_s, video_length_s
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.render import Renderer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ClipFile:
    """Where a clip lies: [start_s, end_s) of the video at `path` (from `resolve_video`); end None: to its end."""

    path: Path
    start_s: float
    end_s: float | None


@dataclass
class SampledFrames:
    """Frames ascending in time, one size. `pixels` are rows of RGB bytes, height x width x 3 each."""

    times_s: list[float]  # strictly increasing, since the start of the clip
    width: int
    height: int
    pixels: list[bytes]


def sample(
    path: Path,
    start_s: float,
    end_s: float | None,
    places: Sequence[float],
    short_side_px: int,
    limits: VideoConfig,
) -> SampledFrames:
    """The first sound frames at or after each of `places` (strictly increasing, 0..1 of the way from the first to the last
    frame of [start_s, end_s)); past the last frame that one. Where two places share a frame it is given once.

    Decodes from the start of the clip, or from a key-frame where the index knows one between two places.
    Raises Refused: what `open_video` raises, truncated where there is no frame at all.
    """
    assert all(0 <= a < b <= 1 for a, b in pairwise([*places, 1.0])), places
    with open_video(path, limits) as opened:
        ends_s = [end for end in (end_s, video_length_s(opened)) if end]
        window_s = (min(ends_s) if ends_s else packets_end_s(opened)) - start_s
        last_s = start_s + max(0.0, window_s - 1 / (opened.fps or 25.0))
        return _take(opened, start_s, end_s, [start_s + place * (last_s - start_s) for place in places], short_side_px)


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
        raise Refused("truncated", f"no sound frame between {start_s:g} s and {end_s} s")
    width, height = renderer.target
    return SampledFrames(
        [round(t - start_s, 6) for t in times_s], width, height, [picture.tobytes() for picture in pictures]
    )


def _key_times_s(opened: OpenVideo) -> list[float]:
    """Times of key-frames as the file's index gives them; none for containers without one."""
    base, origin = opened.time_base, opened.stream.start_time or 0
    return [float((e.timestamp - origin) * base) for e in opened.stream.index_entries or () if e.is_keyframe]
