"""Reads the key-frames and signals of a clip in one decode, or in a sparse reading of a few frames where that is cheaper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from m2raap.video import quality
from m2raap.video.choose import shot_bounds
from m2raap.video.clip import ClipKeyframes, KeyframeConfig, choose, clip_keyframes, measured
from m2raap.video.container import OpenVideo, open_video
from m2raap.video.decode import decode, displayed_in
from m2raap.video.length import video_end_s
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.motion import MotionField
from m2raap.video.planes import PlaneMaker
from m2raap.video.planner import plan_sparse
from m2raap.video.pool import FramePool
from m2raap.video.render import Renderer
from m2raap.video.shape import SizeChanges
from m2raap.video.shots import TimedPlane, find_cuts
from m2raap.video.sparse import read_sparsely
from m2raap.video.tally import Tally, varies

if TYPE_CHECKING:
    import numpy as np

_MUCH_LONGER = 0.05  # see _Scan.is_longer_by
# Containers that state the time of every frame, and codecs whose decoders leave out frames that no other needs.
_TIMED, _SKIPPABLE = ("mov", "matroska"), ("h264", "hevc")
_MISSING_S = 0.5  # how much of the end of a clip may be frames that were left out
SAMPLES_PER_S = (
    8.0  # motion, darkness and stillness are sampled at this rate, so that they do not depend on the frame rate
)


def extract(
    path: Path,
    start_s: float,
    end_s: float | None,
    cfg: KeyframeConfig,
    limits: VideoConfig,
    cuts_s: Sequence[float] | None = None,
) -> ClipKeyframes:
    """Key-frames and signals of [start_s, end_s) of the video; an `end_s` of None is the end of the video.

    Both are seconds since the container's start, and the times of key-frames are seconds since `start_s`. Where the picture
    starts later than that, the clip is what the video shows from there on.

    `cuts_s`: known cuts, ascending, in seconds since `start_s`; then `cfg.detector` does not run, and the clip is decoded in
    full. A clip with fewer undamaged frames than k gives all of them (`signals['shortfall']` is the number missing), and a span
    between two frames the one that is displayed then.
    Raises Refused: what `open_video` raises, truncated, corrupt, unsupported_codec, out_of_memory.
    """
    with open_video(path, limits) as opened:
        first_s = max(start_s, opened.first_s)
        if end_s is not None and end_s <= first_s:
            raise Refused("truncated", f"the span ends at {end_s:g} s, and the picture starts at {first_s:g} s")
        late_s = first_s - start_s  # where only the sound has started, there is nothing to choose
        if cuts_s is not None and late_s:
            cuts_s = [cut_s - late_s for cut_s in cuts_s]
        clip = _read(opened, first_s, end_s, cfg, limits, cuts_s)
        return replace(clip, times_s=[round(time_s + late_s, 6) for time_s in clip.times_s]) if late_s else clip


def _read(
    opened: OpenVideo,
    start_s: float,
    end_s: float | None,
    cfg: KeyframeConfig,
    limits: VideoConfig,
    cuts_s: Sequence[float] | None,
) -> ClipKeyframes:
    if cuts_s is None and (planned := plan_sparse(opened, start_s, end_s, cfg)):
        clip = read_sparsely(opened, planned, end_s, cfg, limits)
        if clip is not None:
            return clip
    context = opened.stream.codec_context
    if cfg.reading == "referenced" and opened.format_name in _TIMED and context.name in _SKIPPABLE:
        with _referenced_only(context):
            scan = _Scan(opened, start_s, end_s, cfg, cuts_s, leaves_out=True)
            scan.run()
        if scan.is_like_the_whole:
            return scan.result()
    scan = _Scan(opened, start_s, end_s, cfg, cuts_s)
    scan.run()
    if scan.is_longer_by > _MUCH_LONGER:  # the candidates lie in the length by the header, not in the whole clip
        scan = _Scan(opened, start_s, end_s, cfg, cuts_s, scan.tally.covered_s)
        scan.run()
    if end_s is not None and not scan.tally.decoded and not scan.tally.lost:
        displayed_s = displayed_in(opened, start_s, end_s)
        if displayed_s is not None and displayed_s < start_s:
            return _between_frames(opened, displayed_s, start_s, end_s, cfg)
    scan.tally.judge(limits)
    return scan.result()


@contextmanager
def _referenced_only(context: Any) -> Iterator[None]:
    """Within the block the decoder leaves out frames from which no other is predicted: of H.264 with B-frames about half."""
    context.skip_frame = "NONREF"
    try:
        yield
    finally:
        context.skip_frame = "DEFAULT"


def _between_frames(
    opened: OpenVideo, displayed_s: float, start_s: float, end_s: float, cfg: KeyframeConfig
) -> ClipKeyframes:
    """The clip of a span in which no frame begins: the frame of `displayed_s`, which a player displays throughout."""
    scan = _Scan(opened, displayed_s, end_s, cfg, [])
    scan.run()
    clip = scan.result()
    return replace(clip, times_s=[0.0], signals=clip.signals | {"duration_s": end_s - start_s})


class _Scan:
    """State of the single pass over a clip's frames. All times are seconds since the start of the clip."""

    def __init__(
        self,
        opened: OpenVideo,
        start_s: float,
        end_s: float | None,
        cfg: KeyframeConfig,
        known_cuts_s: Sequence[float] | None,
        window_s: float | None = None,
        leaves_out: bool = False,
    ) -> None:
        self._leaves_out = leaves_out  # whether the decoder gives only frames that others need
        self._planes, self._sizes = PlaneMaker(), SizeChanges()
        self.opened, self.cfg, self.start_s, self.end_s = opened, cfg, start_s, end_s
        self.tally = Tally(opened, start_s, end_s)
        if window_s is None:
            window_s = self.tally.window_s if end_s is not None else max(0.0, video_end_s(opened) - start_s)
        self.window_s = window_s  # length of the clip, 0 if unknown
        self._known_cuts_s = known_cuts_s
        self.cuts_s: list[float] = []
        self.pool: FramePool | None = None
        self.times_s: list[float] = []
        self._on_screen: TimedPlane | None = None  # the latest frame, which is displayed until the next one
        self._samples = _Samples()
        self._motion: MotionField | None = None  # only where cfg.senses has it
        self._renderer: Renderer | None = None  # None before the first frame

    def run(self) -> None:
        cfg = self.cfg
        self.cuts_s = find_cuts(self._frames(), cfg.detector, cfg.min_shot_s, self._keep, self._known_cuts_s)
        self.tally.close()

    def _frames(self) -> Iterator[TimedPlane]:
        """Undamaged frames with their small planes; every item is counted. Runs in the detector's thread."""
        import av.error

        for item in decode(self.opened, self.start_s, self.end_s):
            self.tally.add(item)
            frame = item.frame
            if frame is None or item.corrupt:
                continue
            time_s = item.time_s - self.start_s
            if self.times_s and time_s <= self.times_s[-1] + 1e-6:
                continue  # a time stamp that does not increase: such a frame is not displayed, or displayed twice
            self.times_s.append(time_s)
            self._sizes.add(frame)
            try:
                if self.pool is None:
                    self._begin(frame)
                plane_HWC = self._planes.plane(frame)
            except (av.error.FFmpegError, ValueError) as error:
                raise Refused("unsupported_codec", f"pixel format {frame.format.name}: {error}") from None
            yield time_s, plane_HWC, frame

    def _keep(self, timed: TimedPlane, new_cuts_s: list[float]) -> None:
        """Takes a frame that the detector has processed; its time is the end of the frame before it."""
        assert self.pool is not None
        self.pool.cut_at(new_cuts_s)
        self._close(timed[0])
        self._on_screen = timed

    def _close(self, until_s: float) -> None:
        """Measures the frame that is displayed until `until_s`, and offers it to the pool of candidates."""
        if self._on_screen is None:
            return
        time_s, plane_HWC, frame = self._on_screen
        assert self.pool is not None
        luma_HW = self._samples.add(until_s, plane_HWC)
        if self._motion is not None and luma_HW is not None:
            self._motion.add(time_s, luma_HW)
        self.pool.offer(time_s, until_s, plane_HWC, frame, bool(frame.key_frame))

    def _begin(self, frame: Any) -> None:
        self._renderer = Renderer(self.opened.stream, frame, self.cfg.short_side_px)
        frame_bytes = sum(p.buffer_size for p in frame.planes)
        if "motion" in self.cfg.senses:
            self._motion = MotionField(self._renderer.turns, self.window_s * SAMPLES_PER_S)
        keys = self.cfg.strategy == "iframe"
        self.pool = FramePool(self.cfg.k, self.window_s, frame_bytes, self._renderer.picture, keys)

    @property
    def is_like_the_whole(self) -> bool:
        """Whether the frames that others need suffice: none of them is damaged, they reach to the end, and there are enough."""
        tally = self.tally
        is_whole = not (tally.lost or tally.damaged) and tally.covered_s >= self.window_s - _MISSING_S > 0
        return is_whole and self.is_longer_by <= 0 and len(self.times_s) >= 2 * self.cfg.k

    @property
    def is_longer_by(self) -> float:
        """How much longer the clip is than the header says, as a share; 0 where its last frame begins before that end."""
        is_longer = self.end_s is None and 0 < self.window_s <= (self.times_s or [0.0])[-1]
        return self.tally.covered_s / self.window_s - 1 if is_longer else 0.0

    def result(self) -> ClipKeyframes:
        assert self.pool is not None and self._renderer is not None
        cfg, tally, cuts_s, renderer = self.cfg, self.tally, self.cuts_s, self._renderer
        # A header's length may be rounded up or that of the audio: the clip ends no later than its last frame.
        length_s = tally.covered_s if self.is_longer_by else min(self.window_s or tally.covered_s, tally.covered_s)
        self._close(max(length_s, self.times_s[-1]))
        held = self.pool.frames
        candidates = [measured(h.time_s, h.until_s - h.time_s, h.plane_HWC, h.is_key, renderer.turns) for h in held]
        picks = choose(cfg, candidates, cuts_s, length_s)
        signals = self._signals(length_s) | {"blur": median(c.sharpness for c in candidates)}
        clip = clip_keyframes(cfg, candidates, [h.picture for h in held], picks, renderer, signals)
        motion = None if self._motion is None else self._motion.tensor(length_s, cuts_s).tobytes()
        return replace(clip, motion=motion)

    def _signals(self, length_s: float) -> dict[str, float | int | bool | str | None]:
        typical_s = median(self._steps_s) if len(self.times_s) > 1 and not self._leaves_out else 0.0
        fps = self.opened.fps
        if typical_s and not 0.5 < fps * typical_s < 2:
            fps = 1 / typical_s  # the header states a clock rate, or nothing
        return {
            "reading": "referenced" if self._leaves_out else "full",
            "duration_s": length_s,
            "decoded_frames": self.tally.decoded,
            "expected_frames": None if self._leaves_out else self.tally.expected_frames,
            "corrupt_share": self.tally.corrupt_share,
            "fps": fps,
            "variable_frame_rate": None if self._leaves_out else varies(self.times_s),
            "size_changes": self._sizes.count,
            "num_shots": len(shot_bounds(self.cuts_s, length_s)),
        } | self._samples.signals()

    @property
    def _steps_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.times_s)]


class _Samples:
    """Measures at equal steps of time, so that a frame displayed for long counts as often as repeated frames would."""

    def __init__(self) -> None:
        self._points = self._next = 0
        self._luma = self._black = self._change = 0.0
        self._steps = self._still = 0
        self._last_HW: np.ndarray | None = None

    def add(self, until_s: float, plane_HWC: np.ndarray) -> np.ndarray | None:
        """Adds the next frame, which is displayed until `until_s`. Returns its luma (H, W), None for one between two samples."""
        end = math.ceil((until_s - 1e-6) * SAMPLES_PER_S)  # the first sample after the frame
        points, self._next = end - self._next, max(end, self._next)
        if points <= 0:
            return None
        luma_HW = quality.luma(plane_HWC)
        self._points += points
        self._luma += points * quality.mean(luma_HW)
        self._black += points * quality.is_black(luma_HW)
        if self._last_HW is not None:
            change = quality.mean_difference(luma_HW, self._last_HW)
            self._change += change
            self._still += change < quality.FROZEN_DIFFERENCE
            self._steps += 1
        self._steps += points - 1
        self._still += points - 1
        self._last_HW = luma_HW
        return luma_HW

    def signals(self) -> dict[str, float]:
        points, steps = max(1, self._points), max(1, self._steps)
        return {
            "motion": self._change / steps,
            "luma_mean": self._luma / points,
            "black_share": self._black / points,
            "frozen_share": self._still / steps if self._steps else 1.0,
        }
