"""One decode of a clip -> its key-frames as JPEGs and its signals."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from m2raap.core.config import Config
from m2raap.video import quality
from m2raap.video.choose import NEAR_COPY_BITS, STRATEGIES, Candidate, Pick, shot_bounds
from m2raap.video.decode import Opened, announced_frames, decode, open_video
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.pool import FramePool, Held
from m2raap.video.probe import pixel_aspect, shown_size
from m2raap.video.shots import Detector, ShotDetector, plane_size

if TYPE_CHECKING:
    import numpy as np

SAMPLES_PER_S = 8.0  # motion, darkness and stillness are measured on this grid, so they do not depend on the frame rate


class KeyframeConfig(Config):
    """How many frames stand for a clip, how they are found and how they are stored."""

    k: int = Field(default=8, ge=1, le=256)
    strategy: Literal["keyframe", "uniform"] = "keyframe"
    short_side_px: int = Field(default=256, ge=16)  # smaller clips keep their size
    jpeg_quality: int = Field(default=90, ge=1, le=100)
    detector: Detector = "adaptive"
    min_shot_s: float = Field(default=0.6, ge=0)


@dataclass
class ClipFrames:
    """The picks of one clip, ascending in time, and its signals. Lists have one entry a pick (at most k)."""

    times_s: list[float]  # strictly increasing, since the start of the clip
    shots: list[int]
    scores: list[float]
    why: list[str]
    hashes: list[int]  # 64-bit dHash as signed int64
    jpegs: list[bytes]
    width: int
    height: int
    signals: dict[str, float | int | bool] = field(default_factory=dict)


def extract(path: Path, start_s: float, end_s: float | None, cfg: KeyframeConfig, limits: VideoConfig) -> ClipFrames:
    """Key-frames and signals of [start_s, end_s) of the video (end None: to its end).

    With fewer sound frames than k all of them are returned (`signals['shortfall']` says how many are missing).
    Raises Refused: what `open_video` raises, truncated, corrupt, unsupported_codec, out_of_memory.
    """
    with open_video(path, limits) as opened:
        scan = _Scan(opened, start_s, end_s, cfg)
        scan.run()
        scan.judge(limits)
        return scan.result()


class _Scan:
    """State of the one pass over a clip's frames. All times are relative to the start of the clip."""

    def __init__(self, opened: Opened, start_s: float, end_s: float | None, cfg: KeyframeConfig) -> None:
        from av.video.reformatter import VideoReformatter

        # Two, because each keeps the tables of its last conversion.
        self._scaler, self._colours = VideoReformatter(), VideoReformatter()
        self.opened, self.cfg, self.start_s, self.end_s = opened, cfg, start_s, end_s
        announced_s = opened.duration_s
        if end_s is not None:
            self.window_s = end_s - start_s
        else:
            self.window_s = max(0.0, announced_s - start_s)
        self.shots = ShotDetector(cfg.detector, cfg.min_shot_s, opened.fps)
        self.pool: FramePool | None = None
        self.times_s: list[float] = []
        self.decoded = self.lost = self.flagged = 0  # frames, packets without a frame, frames marked corrupt
        self.covered_s = 0.0
        self.sample_luma: list[float] = []
        self.sample_black: list[bool] = []
        self.changes: list[float] = []
        self._last_sample: np.ndarray | None = None
        self._turns = 0  # counter-clockwise quarter turns to upright
        self._plane: tuple[int, int] = (0, 0)
        self._shown: tuple[int, int] = (0, 0)
        self._target: tuple[int, int] = (0, 0)

    def run(self) -> None:
        import av.error

        next_sample_s = 0.0
        tick_s = 1 / (self.opened.fps or 25.0)
        for item in decode(self.opened, self.start_s, self.end_s):
            frame = item.frame
            if frame is None:
                self.lost += 1
                continue
            self.decoded += 1
            time_s = item.time_s - self.start_s
            lasts_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
            self.covered_s = max(self.covered_s, time_s + max(lasts_s, tick_s))
            if item.corrupt:
                self.flagged += 1
                continue
            if self.times_s and time_s <= self.times_s[-1] + 1e-6:
                continue  # a time stamp that goes back: shown never or twice
            self.times_s.append(time_s)
            try:
                if self.pool is None:
                    self._begin(frame)
                plane_HWC = self._small(frame)
            except (av.error.FFmpegError, ValueError) as error:
                raise Refused("unsupported_codec", f"pixel format {frame.format.name}: {error}") from None
            assert self.pool is not None
            if self.shots.push(time_s, plane_HWC):
                self.pool.cut_at(self.shots.cuts_s)
            luma_HW = quality.luma(plane_HWC)
            if time_s >= next_sample_s - 1e-6:
                self._sample(luma_HW)
                next_sample_s = (int(time_s * SAMPLES_PER_S + 1e-6) + 1) / SAMPLES_PER_S
            self.pool.offer(time_s, luma_HW, frame)

    def judge(self, limits: VideoConfig) -> None:
        """Refuses a clip that lost too much."""
        if self.decoded == 0 and self.lost:
            raise Refused("corrupt", f"{self.lost} packets, none could be decoded")
        if self.decoded == 0:
            raise Refused("truncated", f"no frame between {self.start_s:g} s and {self.end_s} s")
        share, how = self._decoded_share()
        if share < limits.min_decoded_share:
            raise Refused("truncated", f"{share:.1%} of the clip is there ({how})")
        if self.corrupt_share > limits.max_corrupt_share:
            raise Refused("corrupt", f"{self.corrupt_share:.1%} of the frames are damaged")
        if self.pool is None:
            raise Refused("corrupt", "no frame is without damage")

    @property
    def corrupt_share(self) -> float:
        return (self.lost + self.flagged) / (self.decoded + self.lost)

    @cached_property
    def _table(self) -> int | None:
        return announced_frames(self.opened, self.start_s, self.end_s if self.end_s is not None else float("inf"))

    @property
    def expected_frames(self) -> int:
        """By the sample table (MP4), else by length and average rate; what was decoded where both are unknown."""
        return self._table if self._table is not None else round(self.window_s * self.opened.fps) or self.decoded

    def _decoded_share(self) -> tuple[float, str]:
        # An annotated end past the end of the video is missing video too, so time counts in every container.
        by_time = min(1.0, self.covered_s / self.window_s) if self.window_s > 0 else 1.0
        if self._table and self.decoded / self._table < by_time:
            return self.decoded / self._table, f"{self.decoded} of {self._table} frames"
        return by_time, f"{self.covered_s:.2f} of {self.window_s:.2f} s"

    def _begin(self, frame: Any) -> None:
        self._turns = round(frame.rotation / 90) % 4
        self._plane = plane_size(frame.width, frame.height)
        self._shown = shown_size(frame.width, frame.height, pixel_aspect(self.opened.stream), frame.rotation)
        scale = min(1.0, self.cfg.short_side_px / min(self._shown))
        self._target = (max(1, round(self._shown[0] * scale)), max(1, round(self._shown[1] * scale)))
        frame_bytes = sum(p.buffer_size for p in frame.planes)
        self.pool = FramePool(self.cfg.k, self.window_s, frame_bytes, self._render)

    def _small(self, frame: Any) -> np.ndarray:
        width, height = self._plane
        # Two taps, as OpenCV's bilinear of SceneManager: cuts agree with it, which area averaging spoils.
        small = self._scaler.reformat(frame, width, height, "bgr24", interpolation="FAST_BILINEAR", threads=1)
        return small.to_ndarray()

    def _render(self, frame: Any) -> Any:
        """Decoded frame -> PIL RGB at the stored size (bicubic, as CLIP's own preprocessing), upright."""
        from PIL import Image

        image = Image.fromarray(self._colours.reformat(frame, format="rgb24", threads=1).to_ndarray())
        flip = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
        if self._turns:
            image = image.transpose(flip[self._turns])
        return image if image.size == self._target else image.resize(self._target, Image.Resampling.BICUBIC)

    def _sample(self, luma_HW: np.ndarray) -> None:
        self.sample_luma.append(float(luma_HW.mean()))
        self.sample_black.append(quality.is_black(luma_HW))
        if self._last_sample is not None:
            self.changes.append(quality.mean_difference(luma_HW, self._last_sample))
        self._last_sample = luma_HW

    def _candidate(self, held: Held) -> Candidate:
        import numpy as np

        upright_HW = np.ascontiguousarray(np.rot90(held.luma_HW, self._turns))
        return Candidate(
            time_s=held.time_s,
            sharpness=quality.blur_variance(held.luma_HW),
            hash64=quality.dhash64(upright_HW),
            black=quality.is_black(held.luma_HW),
            flat=quality.is_flat(held.luma_HW),
        )

    def result(self) -> ClipFrames:
        from PIL import Image

        assert self.pool is not None
        cuts_s = self.shots.finish()
        length_s = self.window_s or self.covered_s
        candidates = [self._candidate(h) for h in self.pool.frames]
        picks = STRATEGIES[self.cfg.strategy](candidates, cuts_s, length_s, self.cfg.k)
        jpegs = []
        for pick in picks:
            picture = self.pool.frames[pick.index].picture
            image = picture if isinstance(picture, Image.Image) else self._render(picture)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=self.cfg.jpeg_quality)
            jpegs.append(buffer.getvalue())
        return ClipFrames(
            times_s=[round(candidates[p.index].time_s, 6) for p in picks],
            shots=[p.shot for p in picks],
            scores=[round(p.score, 4) for p in picks],
            why=[p.why for p in picks],
            hashes=[candidates[p.index].hash64 for p in picks],
            jpegs=jpegs,
            width=self._target[0],
            height=self._target[1],
            signals=self._signals(candidates, picks, cuts_s, length_s),
        )

    def _signals(
        self, candidates: list[Candidate], picks: list[Pick], cuts_s: list[float], length_s: float
    ) -> dict[str, float | int | bool]:
        import numpy as np

        steps_s = np.diff(self.times_s)
        typical = float(np.median(steps_s)) if len(steps_s) else 0.0
        uneven = float((np.abs(steps_s - typical) > 0.2 * typical).mean()) if len(steps_s) else 0.0
        hashes = [candidates[p.index].hash64 for p in picks]
        fps = self.opened.fps
        if typical and not 0.5 < fps * typical < 2:
            fps = 1 / typical  # the header names a clock rate, or nothing
        return {
            "duration_s": length_s,
            "source_width": self._shown[0],
            "source_height": self._shown[1],
            "decoded_frames": self.decoded,
            "expected_frames": self.expected_frames,
            "corrupt_share": self.corrupt_share,
            "fps": fps,
            "variable_frame_rate": uneven > 0.02,
            "num_shots": len(shot_bounds(cuts_s, length_s)),
            "motion": float(np.mean(self.changes)) if self.changes else 0.0,
            "luma_mean": float(np.mean(self.sample_luma)),
            "blur": float(np.median([c.sharpness for c in candidates])),
            "black_share": float(np.mean(self.sample_black)),
            "frozen_share": (
                float(np.mean([c < quality.FROZEN_DIFFERENCE for c in self.changes])) if self.changes else 1.0
            ),
            "pick_sharpness": float(np.mean([candidates[p.index].sharpness for p in picks])),
            "pick_copies": sum(quality.hamming(a, b) <= NEAR_COPY_BITS for a, b in pairwise(hashes)),
            "shortfall": self.cfg.k - len(picks),
        }
