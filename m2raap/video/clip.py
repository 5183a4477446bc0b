"""The settings and the result of reading a clip: key-frames as JPEGs, and signals. The full and the sparse reading share it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.video import quality
from m2raap.video.choose import NEAR_COPY_BITS, STRATEGIES, Candidate, Pick, fill_up
from m2raap.video.render import Renderer
from m2raap.video.shots import Detector

if TYPE_CHECKING:
    import numpy as np


class KeyframeConfig(Config):
    """How many key-frames a clip gets, how they are chosen and how they are stored."""

    k: int = Field(default=8, ge=1, le=256, description="Number of key-frames that a clip keeps.")
    strategy: Literal["keyframe", "uniform", "iframe"] = Field(
        default="keyframe",
        description="keyframe: frames without defects near the middles of slots within shots; uniform: the frames at the "
        "middles of k equal segments; iframe: the file's I-frames.",
    )
    fill: bool = Field(
        default=True,
        description="With the strategy iframe: whether other frames are added up to k where there are fewer I-frames.",
    )
    short_side_px: int = Field(
        default=256, ge=16, description="Short side of a stored frame in pixels; smaller clips keep their size."
    )
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="JPEG quality of a stored frame.")
    detector: Detector = Field(
        default="adaptive", description="Detector of cuts between shots; transnetv2 needs the extra of that name."
    )
    min_shot_s: float = Field(default=0.6, ge=0, description="Length of the shortest shot in seconds.")
    reading: Literal["auto", "full", "referenced", "sparse"] = Field(
        default="auto",
        description="full: every frame is decoded; sparse: only I-frames and a few frames reached by seeking are decoded, so "
        "that shots and motion stay unknown; auto: sparse where sparse_from_s and sparse_gain allow it, else full; referenced: "
        "as auto, but instead of all frames of H.264 and HEVC in MP4 and Matroska only those from which others are predicted, in "
        "two thirds of the time; damaged and very short clips are decoded in full.",
    )
    sparse_from_s: float = Field(
        default=120.0,
        ge=0,
        description="With the readings auto and referenced: length in seconds below which a clip is not read sparsely.",
    )
    sparse_gain: float = Field(
        default=8.0,
        ge=1,
        description="With the readings auto and referenced: how many times fewer frames the sparse reading must decode to be "
        "used.",
    )

    senses: tuple[Literal["sound", "motion"], ...] = Field(
        default=(),
        description="What else of a clip is kept, in the table `senses`: sound (mel bands over time) and motion (optical flow "
        "over time and place; of a clip that is read sparsely, none).",
    )

    @model_validator(mode="after")
    def _network_sees_all(self) -> KeyframeConfig:
        if self.reading == "sparse" and self.detector == "transnetv2":
            raise ValueError("the detector transnetv2 needs every frame; set 'reading' to auto or full")
        return self


@dataclass(frozen=True)
class ClipKeyframes:
    """The key-frames of one clip in order of time, and the signals of the whole clip.

    Every list has the same length K, one entry for each key-frame. K is `KeyframeConfig.k`, or less where the clip has fewer
    undamaged frames (or I-frames, without `fill`); `signals["shortfall"]` is the difference.
    """

    times_s: list[float]  # seconds since the start of the clip, strictly increasing
    shots: list[int]  # number of the shot, counted from 0; -1 where shots are unknown
    scores: list[float]  # 0..1; 1 is a frame without defects in the middle of its slot (see m2raap.video.choose)
    why: list[str]  # the reason of the choice, for people
    hashes: list[int]  # 64-bit difference hash (dHash), as a signed integer
    jpegs: list[bytes]  # JPEG files: RGB, upright, square pixels, each of `width` x `height` pixels
    width: int  # pixels
    height: int  # pixels
    motion: bytes | None = None  # m2raap.video.motion, float16 of MOTION_SHAPE; None where it was not measured
    signals: dict[str, Any] = field(default_factory=dict)  # name -> number or word; None where it was not measured


def measured(time_s: float, lasts_s: float, plane_HWC: np.ndarray, is_key: bool, turns: int) -> Candidate:
    """Measures of an undamaged frame from its small plane (uint8 BGR [H, W, 3]), `turns` quarter turns from upright."""
    import numpy as np

    luma_HW = quality.luma(plane_HWC)
    return Candidate(
        time_s=time_s,
        sharpness=quality.blur_variance(luma_HW),
        hash64=quality.dhash64(np.ascontiguousarray(np.rot90(luma_HW, turns)) if turns else luma_HW),
        black=quality.is_black(luma_HW),
        flat=quality.is_flat(luma_HW),
        is_key=is_key,
        lasts_s=lasts_s,
    )


def choose(
    cfg: KeyframeConfig, candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float
) -> list[Pick]:
    """At most k picks by the configured strategy."""
    picks = STRATEGIES[cfg.strategy](candidates, cuts_s, duration_s, cfg.k)
    if cfg.strategy == "iframe" and cfg.fill:
        picks = fill_up(picks, candidates, cuts_s, duration_s, cfg.k)
    return picks


def clip_keyframes(
    cfg: KeyframeConfig,
    candidates: Sequence[Candidate],
    pictures: Sequence[Any],
    picks: Sequence[Pick],
    renderer: Renderer,
    signals: dict[str, Any],
) -> ClipKeyframes:
    """Encodes the picks and collects the result. `pictures`: a decoded frame, or a PIL image of the stored size, for each
    candidate."""
    from PIL import Image

    jpegs = []
    for pick in picks:
        picture = pictures[pick.index]
        image = picture if isinstance(picture, Image.Image) else renderer.picture(picture)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=cfg.jpeg_quality)
        jpegs.append(buffer.getvalue())
    hashes = [candidates[pick.index].hash64 for pick in picks]
    sharpness = [candidates[pick.index].sharpness for pick in picks]
    of_picks = {
        "source_width": renderer.display_size[0],
        "source_height": renderer.display_size[1],
        "transfer": renderer.transfer,
        "primaries": renderer.primaries,
        "hdr": renderer.is_hdr,
        "wide_gamut": renderer.has_wide_gamut,
        "pick_sharpness": sum(sharpness) / len(sharpness) if sharpness else None,
        "pick_copies": sum(quality.hamming(a, b) <= NEAR_COPY_BITS for a, b in pairwise(hashes)),
        "shortfall": cfg.k - len(picks),
    }
    return ClipKeyframes(
        times_s=[round(candidates[pick.index].time_s, 6) for pick in picks],
        shots=[pick.shot for pick in picks],
        scores=[round(pick.score, 4) for pick in picks],
        why=[pick.why for pick in picks],
        hashes=hashes,
        jpegs=jpegs,
        width=renderer.target[0],
        height=renderer.target[1],
        signals=signals | of_picks,
    )
