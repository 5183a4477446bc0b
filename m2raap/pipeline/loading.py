"""How long a training reads, decodes and validates, for `run --dry-run`: from a few of its own clips, decoded on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from m2raap.adapt.config import AdaptConfig
from m2raap.core.engine import available_cores
from m2raap.core.errors import M2raapError
from m2raap.core.spread import spread
from m2raap.core.view import View
from m2raap.models.config import BackboneConfig
from m2raap.models.pictures import Resize, pixels_from_jpegs
from m2raap.pipeline.shapes import shape_of
from m2raap.pipeline.this_machine import clock
from m2raap.pipeline.train_cost import FLOPS, Cost
from m2raap.video.fetch import is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.worker import VideoWorker

SAMPLE_CLIPS = 8
_ENOUGH_S = 0.3  # seconds over which the rate is measured


@dataclass(frozen=True)
class Loading:
    """Clips a second of one core, and how many clips it was measured on. `note`: why there is no rate."""

    clips_per_core_s: float
    clips: int
    note: str = ""


def measured_loading(cfg: AdaptConfig, backbone: BackboneConfig, limits: VideoConfig, view: View | None) -> Loading:
    """The rate at which the clips of a view are decoded as training does; `view` has key-frames. None: there are none yet."""
    if view is None:
        return Loading(0.0, 0, "no key-frames to measure it on")
    shape = shape_of(backbone)
    size = shape.patch_px * math.isqrt(max(1, shape.vision_tokens - 1))
    try:
        return _videos(cfg, limits, view, size) if cfg.input == "video" else _frames(cfg, view, size)
    except (M2raapError, Refused) as error:
        return Loading(0.0, 0, str(error))


def _frames(cfg: AdaptConfig, view: View, size: int) -> Loading:
    clips: list[list[bytes]] = []
    for part in view.parts(("jpegs",)):
        for frames in part.frames.values():
            jpegs = frames["jpegs"]
            clips.append([jpegs[place] for place in spread(len(jpegs), cfg.num_frames)])
        if len(clips) >= SAMPLE_CLIPS:
            break
    clips = clips[:SAMPLE_CLIPS]
    if not clips:
        return Loading(0.0, 0, "no key-frames to measure it on")
    resize, fast = Resize(size, "bicubic", "shortest"), cfg.decode == "fast"
    pixels_from_jpegs(clips[0], resize, fast=fast)  # loads the library
    begin, done = time.process_time(), 0
    while not done or time.process_time() - begin < _ENOUGH_S:
        pixels_from_jpegs(clips[done % len(clips)], resize, fast=fast)
        done += 1
    return Loading(done / max(time.process_time() - begin, 1e-9), len(clips))


def _videos(cfg: AdaptConfig, limits: VideoConfig, view: View, size: int) -> Loading:
    rows = [clip for part in view.parts(("frames",)) for clip in part.clips if clip["clip_id"] in part.frames]
    rows = [row for row in rows if not is_url(row["video"])][:SAMPLE_CLIPS]
    if not rows:
        return Loading(0.0, 0, "no video file to measure it on")
    places = [(place + 0.5) / cfg.num_frames for place in range(cfg.num_frames)]
    root = view.corpus.video_root
    with VideoWorker(limits) as worker:
        worker.sample(resolve_video(root, rows[0]["video"]), rows[0]["start_s"] or 0.0, rows[0]["end_s"], places, size)
        begin = time.perf_counter()
        for row in rows:
            worker.sample(resolve_video(root, row["video"]), row["start_s"] or 0.0, row["end_s"], places, size)
        return Loading(len(rows) / max(time.perf_counter() - begin, 1e-9), len(rows))


def loading_hours(cost: Cost, loading: Loading, cores: int) -> float:
    """Hours that `cores` cores decode; 0 where the rate is unknown."""
    return cost.decoded / loading.clips_per_core_s / cores / 3600 if loading.clips_per_core_s else 0.0


def loading_line(arm: str, cfg: AdaptConfig, cost: Cost, loading: Loading) -> str:
    """The line in which `run --dry-run` prints what loading takes, and how many cores feed a GPU."""
    what = f"{arm} decodes clips {cost.decoded:,} times, {cost.validations} validations of {cost.val_clips:,} clips included"
    if not loading.clips_per_core_s:
        return f"{what}; how long that takes was not measured: {loading.note}"
    source = "from video" if cfg.input == "video" else f"decode {cfg.decode}"
    rate, cores = loading.clips_per_core_s, available_cores()
    hours = loading_hours(cost, loading, cores)
    per_gpu = FLOPS[cfg.precision] / max(cost.flop / max(cost.pairs_seen, 1), 1)  # clips a second of the estimated GPU
    feed = f"a 300-TFLOP/s GPU would take {per_gpu:.3g} clips/s, which {math.ceil(per_gpu / rate)} such cores decode"
    return (
        f"{what}: {clock(hours)} on the {cores} cores of this machine ({rate:.3g} clips/s a core, measured on "
        f"{loading.clips} clips, {source}); {feed if not cost.cached else 'a cache keeps what frozen layers make of them'}"
    )
