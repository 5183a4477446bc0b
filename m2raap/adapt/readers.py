"""What reads the frames of the clips: stored pictures, raw videos, or a cache of what frozen layers make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from m2raap.adapt.augment import Augmentation
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.pixels import Decoding, JpegFrames
from m2raap.adapt.prefix_cache import PrefixCache, PrefixLayout, open_prefix_cache
from m2raap.adapt.raw_video import Decoders, RawVideos, VideoSource
from m2raap.adapt.sources import PairSource
from m2raap.adapt.state import FrameReader
from m2raap.core.engine import available_cores
from m2raap.core.errors import M2raapError
from m2raap.models.video_clip import VideoCLIP

Report = Callable[[str, int, int], None]  # the task, the number of its parts that are done, and of all its parts
OpenCache = Callable[[PairSource, str], PrefixCache]  # from a source and the digest of its frames


def choose_cache(
    cfg: AdaptConfig,
    model: VideoCLIP,
    sources: list[PairSource],
    root: Path,
    report: Report,
    dist_context: DistContext,
    decoding: Decoding,
) -> tuple[OpenCache | None, int]:
    """What opens the prefix cache of a source (None: there is no cache), and the bytes of the caches of all sources."""
    num_clips = sum(source.num_clips for source in sources)
    layout = _cache_layout(cfg, model, num_clips)
    if layout is None:
        return None, 0
    cache_bytes = layout.num_bytes(model, num_clips)
    limit_bytes = max(cfg.cache_limit_gb * 1e9, cache_bytes)

    def open_cache(source: PairSource, frames: str) -> PrefixCache:
        return dist_context.main_process_first(
            lambda: open_prefix_cache(root, frames, source, model, layout, report, limit_bytes, decoding)
        )

    return open_cache, cache_bytes


def _cache_layout(cfg: AdaptConfig, model: VideoCLIP, num_clips: int) -> PrefixLayout | None:
    """The layout of the prefix cache; None for no cache. Raises M2raapError where adapt.cache does not fit the backbone."""
    learning = cfg.train_vision_layers
    if cfg.cache == "prefix" and learning == model.backbone.num_layers:
        raise M2raapError(
            "adapt.cache=prefix needs frozen first layers, and adapt.train_vision_layers is all: lower it, or set adapt.cache=off"
        )
    if cfg.cache == "levels" and learning:
        raise M2raapError(
            "adapt.cache=levels needs a frozen vision tower: set adapt.train_vision_layers=0, or adapt.cache=prefix"
        )
    if not cfg.pixels_are_fixed or cfg.cache == "off" or learning == model.backbone.num_layers:
        return None
    depth = max(model.temporal.layers_used, learning)
    prefix, levels = (PrefixLayout(kind, depth, cfg.num_frames) for kind in ("prefix", "levels"))
    if model.inside and cfg.cache == "levels":
        raise M2raapError(
            f"adapt.cache=levels: {cfg.temporal.name} works inside the vision layers; set adapt.cache=prefix"
        )
    if cfg.cache != "auto":
        return prefix if cfg.cache == "prefix" else levels
    affordable = [
        layout
        for layout in ([prefix] if learning or model.inside else [levels, prefix])
        if layout.num_bytes(model, num_clips) <= cfg.cache_limit_gb * 1e9
    ]
    return affordable[0] if affordable else None


def frame_reader(
    cfg: AdaptConfig,
    model: VideoCLIP,
    source: PairSource,
    frames: str,
    training: bool,
    decoding: Decoding,
    decoders: Decoders | None,
    open_cache: OpenCache | None,
) -> FrameReader:
    """What reads the clips of a source; `frames` is the digest of their frames. The val clips are decoded exactly."""
    augment = Augmentation(cfg.augment, cfg.seed)
    preprocess = model.backbone.preprocess
    if decoders is not None:
        assert isinstance(source, VideoSource)
        return RawVideos(source, preprocess, cfg.num_frames, cfg.seed, decoders, augment)
    if open_cache is not None:
        return open_cache(source, frames)
    on_gpu = model.backbone.device.type == "cuda"
    return JpegFrames(
        source, preprocess, cfg.num_frames, decoding, augment, cfg.decode if training else "exact", pinned=on_gpu
    )


def video_decoders(cfg: AdaptConfig, local_world_size: int) -> int:
    """Number of processes that decode raw video for one of `local_world_size` processes that train on this machine."""
    return cfg.decoders or max(1, available_cores() // local_world_size)


@contextmanager
def open_decoders(cfg: AdaptConfig, source: PairSource, local_world_size: int) -> Iterator[Decoders | None]:
    """The decoder processes that input `video` needs (None for keyframes), closed at the end."""
    if cfg.input == "keyframes":
        yield None
        return
    assert isinstance(source, VideoSource)
    decoders = Decoders(video_decoders(cfg, local_world_size), source.limits)
    try:
        yield decoders
    finally:
        decoders.close()
