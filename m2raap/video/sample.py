"""Decodes a few frames of a clip at given places to pixels, as training on raw video does in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.video.container import OpenVideo, open_video
from m2raap.video.decode import DecodedFrame, decode, displayed_in
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
        first_s, tick_s = max(start_s, opened.first_s), 1 / (opened.fps or 25.0)
        stated_end_s = video_end_s(opened) if end_s is None else end_s
        if end_s is None and max(_times_s(opened), default=0.0) >= stated_end_s:
            stated_end_s = packets_end_s(opened)  # the header states no end, or one that is too early

        def take(until_s: float) -> tuple[SampledFrames, bool]:
            last_s = first_s + max(0.0, until_s - first_s - tick_s)
            targets_s = [first_s + place * (last_s - first_s) for place in places]
            sampled, end_seen_s = _take(opened, start_s, end_s, targets_s, short_side_px)
            return sampled, targets_s[-1] > end_seen_s + tick_s

        try:
            sampled, ends_earlier = take(stated_end_s)
        except Refused:
            displayed_s = None if end_s is None else displayed_in(opened, start_s, end_s)
            if displayed_s is None:
                raise
            sampled, _ = _take(opened, displayed_s, end_s, [displayed_s], short_side_px)
            return replace(sampled, times_s=[0.0])
        return take(min(stated_end_s, packets_end_s(opened)))[0] if ends_earlier else sampled


def _take(
    opened: OpenVideo, start_s: float, end_s: float | None, targets_s: list[float], short_side_px: int
) -> tuple[SampledFrames, float]:
    """The frames at `targets_s`, which is not empty, and the time of the last frame that was read."""
    import av.error

    jumps_s = _times_s(opened, keys_only=True)
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
        jump_s = max((key_s for key_s in jumps_s if key_s <= target_s), default=0.0)
        starts_s = [None]
        if last is not None and last[0] < jump_s:
            starts_s = [target_s, jump_s]  # from the I-frame on where the target lies behind the last frame
        for from_s in starts_s:
            if last is not None and last[0] >= (from_s or target_s) - 1e-6:
                break
            frames = frames if from_s is None else decode(opened, from_s - 1e-6, end_s)
            last = _next_at(frames, target_s) or last
        if last is not None and (not times_s or last[0] > times_s[-1] + 1e-6):
            keep(*last)
    if renderer is None or last is None:
        span = f"from {start_s:g} s to " + ("the end" if end_s is None else f"{end_s:g} s")
        raise Refused("truncated", f"the span {span} holds no undamaged frame")
    width, height = renderer.target
    times_s = [round(t - start_s, 6) for t in times_s]
    return SampledFrames(times_s, width, height, [picture.tobytes() for picture in pictures]), last[0]


def _next_at(frames: Iterator[DecodedFrame], target_s: float) -> tuple[float, Any] | None:
    """Time and picture of the next undamaged frame at or after `target_s`, or of the last one; None where none follows."""
    last: tuple[float, Any] | None = None
    for item in frames:
        if item.frame is not None and not item.corrupt:
            last = item.time_s, item.frame
            if item.time_s >= target_s - 1e-6:
                break
    return last


def _times_s(opened: OpenVideo, keys_only: bool = False) -> list[float]:
    """Times of the frames that are in the file's index, or of its I-frames; empty for a container without index."""
    entries = [e for e in opened.stream.index_entries or () if not e.is_discard]
    return [opened.seconds(e.timestamp) for e in entries if e.is_keyframe or not keys_only]
