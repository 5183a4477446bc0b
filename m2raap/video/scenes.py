"""Finds the cuts of a whole video, and makes thumbnails of its frames for a network that finds cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2raap.video.container import OpenVideo, open_video
from m2raap.video.decode import decode
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.planes import PlaneMaker
from m2raap.video.shots import Detector, TimedPlane, find_cuts
from m2raap.video.tally import Tally

if TYPE_CHECKING:
    import numpy as np

THUMB_HW = (27, 48)  # the input size of TransNetV2 in pixels
THUMB_BYTES = 27 * 48 * 3
KEYS_APART_S = 10.0
# Limits of one answer, so that a call stays within its time and size for frames of any size.
_MAX_PIXELS = 4_000_000_000  # pixels of all decoded frames together
_MAX_THUMBS = 8192


@dataclass
class Scenes:
    """The cuts of a video, and its length and rate. Times are seconds since the container's start."""

    cuts_s: list[float]  # times of the first frames of new shots, ascending
    first_s: float  # time of the first frame
    end_s: float  # end of the last frame
    keys_s: list[float]  # times of some I-frames, ascending, KEYS_APART_S or more apart
    origin_s: float  # presentation time of the container's start in the ffmpeg program
    stream: int  # index of the video stream in the file
    fps: float
    num_frames: int


@dataclass
class Thumbnails:
    """Small pictures of the N frames of a span, or of a part of it."""

    times_s: list[float]  # N, strictly increasing, since the container's start
    pixels: bytes  # RGB uint8 [N, 27, 48, 3]
    more: bool  # whether further frames of the span follow


def find_scenes(path: Path, detector: Detector, min_shot_s: float, limits: VideoConfig) -> Scenes:
    """Finds the cuts by decoding the whole video. Raises Refused: what `open_video` raises, truncated, corrupt and
    unsupported_codec."""
    with open_video(path, limits) as opened:
        tally, keys_s, late_s = Tally(opened), [-KEYS_APART_S], list[float]()
        planes = _planes(opened, tally, keys_s, late_s)
        cuts_s = find_cuts(planes, detector, min_shot_s, lambda timed, cuts: None, None)
        tally.judge(limits)
        return Scenes(
            cuts_s=[round(cut, 6) for cut in cuts_s],
            first_s=round(opened.first_s, 6),
            end_s=round(opened.first_s + tally.covered_s, 6),
            keys_s=[round(key, 6) for key in keys_s[1:]],
            origin_s=round(float(opened.first_stamp * opened.time_base) - opened.first_s + sum(late_s), 6),
            stream=opened.stream.index,
            fps=opened.fps,
            num_frames=tally.decoded,
        )


def _planes(opened: OpenVideo, tally: Tally, keys_s: list[float], late_s: list[float]) -> Iterator[TimedPlane]:
    """Undamaged frames with their small planes; every item is counted, and times of I-frames are added to `keys_s`.

    To `late_s` is added by how much the ffmpeg program shows the frames of an AVI later than m2raap. An AVI stores decoding
    times only, and ffmpeg takes that of the packet at which a frame comes out of the decoder, which holds some back.
    """
    import av.error

    planes, last_s = PlaneMaker(), -1.0
    for item in decode(opened):
        tally.add(item)
        if item.frame is None or item.corrupt or item.time_s <= last_s + 1e-6:
            continue
        if last_s < 0 and opened.format_name == "avi" and item.frame.dts is not None:
            late_s.append(opened.seconds(item.frame.dts) - item.time_s)
        last_s = item.time_s
        if item.frame.key_frame and last_s >= keys_s[-1] + KEYS_APART_S:
            keys_s.append(last_s)
        try:
            yield last_s, planes.plane(item.frame), None
        except (av.error.FFmpegError, ValueError) as error:
            raise Refused("unsupported_codec", f"pixel format {item.frame.format.name}: {error}") from None


def thumbnails(path: Path, start_s: float, end_s: float | None, after_s: float, limits: VideoConfig) -> Thumbnails:
    """Undamaged frames of [start_s, end_s) that are later than `after_s`, as many as fit into one answer.

    Times are seconds since the container's start. While the answer's `more` is true, call again with its last time as
    `after_s`. Raises Refused: what `open_video` raises, and unsupported_codec.
    """
    import av.error
    from av.video.reformatter import VideoReformatter

    height, width = THUMB_HW
    scaler = VideoReformatter()
    times_s: list[float] = []
    parts: list[np.ndarray] = []
    budget = _MAX_THUMBS
    with open_video(path, limits) as opened:
        for item in decode(opened, max(start_s, after_s), end_s):
            frame = item.frame
            if frame is None or item.corrupt or item.time_s <= max(after_s, times_s[-1] if times_s else after_s) + 1e-6:
                continue
            if not times_s:
                budget = max(64, min(_MAX_THUMBS, _MAX_PIXELS // (frame.width * frame.height)))
            if len(times_s) == budget:
                return Thumbnails(times_s, b"".join(p.tobytes() for p in parts), more=True)
            try:
                # Bicubic, as the ffmpeg program scaled the network's training data.
                small = scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
                parts.append(small.to_ndarray())
            except (av.error.FFmpegError, ValueError) as error:
                raise Refused("unsupported_codec", f"pixel format {frame.format.name}: {error}") from None
            times_s.append(item.time_s)
    return Thumbnails(times_s, b"".join(p.tobytes() for p in parts), more=False)
