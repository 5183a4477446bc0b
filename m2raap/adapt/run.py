"""Everything a run of adaptation holds, made from its settings and sources, or brought back from its checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from m2raap.adapt.batches import BatchSampler, JpegFrames, PairSource, Place, Prefetcher, frames_digest
from m2raap.adapt.captions import CaptionedSource, CaptionTable, caption_table
from m2raap.adapt.checkpoint import Progress, load_checkpoint
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.draws import DropPathRng
from m2raap.adapt.gradcache import GradCache, cut
from m2raap.adapt.lora import add_lora
from m2raap.adapt.objective import bias_of
from m2raap.adapt.optim import choose_trained, make_optimiser
from m2raap.adapt.prefix_cache import PrefixCache, PrefixLayout, open_prefix_cache
from m2raap.adapt.raw_video import Decoders, RawVideos, VideoSource, videos_digest
from m2raap.adapt.texts import TextTable, text_table
from m2raap.adapt.validate import encode_clips
from m2raap.core import talk
from m2raap.core.config import digest, what_is_made
from m2raap.core.engine import available_cores
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import MAX_LOGIT_SCALE
from m2raap.models.families import load_backbone
from m2raap.models.losses import OBJECTIVES
from m2raap.models.stan import DropPath
from m2raap.models.video_clip import VideoCLIP

Report = Callable[[str, int, int], None]
Data = PrefixCache | JpegFrames | RawVideos


@dataclass
class TrainState:
    cfg: AdaptConfig
    model: VideoCLIP
    optimiser: torch.optim.AdamW
    progress: Progress
    key: str
    steps: int
    plan: BatchSampler
    clip_ids: list[str]
    data: Data
    table: TextTable
    text_features_NE: Tensor | None  # of a frozen text tower: encoded once
    val_data: Data | None
    val_table: TextTable | None
    val_clips: int
    captions: CaptionTable | None  # where ACG or the frame-caption loss wants them
    val_captions: CaptionTable | None
    prefetcher: Prefetcher
    out: Path
    log: Any  # these three: of the first process alone
    timings: Any
    board: Any
    drops: DropPathRng
    dist_context: DistContext
    grad_cache: GradCache
    bias: nn.Parameter | None  # of the objective
    max_logit_scale: float  # its logarithm; where a temperature learns
    scaler: torch.amp.GradScaler | None  # of fp16
    began_s: float  # perf_counter when the model was loaded
    decoders: Decoders | None  # of raw video
    cache_bytes: int

    @property
    def checkpoint_path(self) -> Path:
        return self.out / "scratch" / "checkpoint.pt"

    def gates(self) -> dict[str, float]:
        return self.model.gates()

    def after(self, step: int, then: tuple[int, int] | None) -> Place | None:
        """What is read next: `then` of this step's batch, or else what the next step begins with."""
        if then is not None:
            return (step, *then)
        first = cut(self.dist_context.local_slice(self.plan.size), self.grad_cache.micro)[0]
        return (step + 1, *first) if step < self.steps else None

    def close(self) -> None:
        if self.decoders is not None:
            self.decoders.close()  # first, so that a batch that is being read ends early
        self.prefetcher.close()
        for file in (self.log, self.timings, self.board):
            if file is not None:
                file.close()


def prepare(
    cfg: AdaptConfig,
    source: PairSource,
    val_source: PairSource | None,
    out: Path,
    report: Report,
    dist_context: DistContext,
    caches: Path | None = None,
    decoders: Decoders | None = None,
) -> TrainState:
    if source.num_clips < 2:
        raise M2raapError(f"adapt needs at least 2 clips with frames and texts, found {source.num_clips}")
    if cfg.objective not in OBJECTIVES:
        raise M2raapError(f"unknown adapt.objective '{cfg.objective}'; known: {', '.join(OBJECTIVES)}")
    if val_source is not None and val_source.num_clips == 0:
        val_source = None
    cuda = cfg.device == "cuda" or (cfg.device == "auto" and torch.cuda.is_available())
    device = f"cuda:{dist_context.local_rank}" if cuda else "cpu"
    model = VideoCLIP(load_backbone(cfg.backbone), cfg.temporal, cfg.acg, seed=cfg.seed)
    backbone_digest = model.backbone.digest  # asked for first here: as it was loaded
    if cfg.temperature is not None:
        model.backbone.logit_scale.data.fill_(math.log(1 / cfg.temperature))
    max_logit_scale = max(math.log(MAX_LOGIT_SCALE), float(model.backbone.logit_scale.detach()))
    model.to(device)
    began_s = time.perf_counter()
    choose_trained(model, cfg)
    scratch = out / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)

    sources = [source] if val_source is None else [source, val_source]
    frames = [frames_digest(part) if cfg.input == "keyframes" else _films_digest(part) for part in sources]
    data_digests = [
        digest([source_frames, _said(cfg, part)]) for source_frames, part in zip(frames, sources, strict=True)
    ]
    cache = _cache_plan(cfg, model, sum(part.num_clips for part in sources))
    cache_bytes = cache.num_bytes(model, sum(part.num_clips for part in sources)) if cache else 0
    data: list[Data] = []
    for number, part in enumerate(sources):
        if decoders is not None:
            assert isinstance(part, VideoSource)
            data.append(RawVideos(part, model.backbone.preprocess, cfg.num_frames, cfg.seed, decoders))
        elif cache is None:
            data.append(JpegFrames(part, model.backbone.preprocess, cfg.num_frames))
        else:
            open_cache = partial(
                open_prefix_cache, caches or scratch / "cache", frames[number], part, model, cache, report,
                max(cfg.cache_limit_gb * 1e9, cache_bytes),
            )  # fmt: skip
            data.append(dist_context.main_process_first(open_cache))
    tables = [text_table(part, model.backbone, cfg.langs, cfg.lang_odds, cfg.origin_odds) for part in sources]
    chinese = sum("zh" in by_lang for by_lang in tables[0].rows_of)
    if chinese and model.backbone.english_only:
        talk.log(
            f"adapt: warning: {chinese} clips have Chinese texts, but the tokenizer of {cfg.backbone.model} knows English only: "
            "Chinese falls into pieces that its text tower never learnt. Take a backbone that reads Chinese (Chinese-CLIP, "
            "AltCLIP, SigLIP2, or a multilingual one such as xlm-roberta-base-ViT-B-32), or langs: [en]"
        )

    readers = [source] if cfg.wants_captions else []
    if cfg.acg and val_source is not None:  # the frame-caption loss alone asks nothing of the val clips
        readers.append(val_source)
    captions = [caption_table(part, model, cfg.num_frames) for part in readers]

    looks_NE = None
    if cfg.group_size > 1:
        looks_NE = dist_context.broadcast(encode_clips(model, data[0], source.num_clips)).cpu().numpy()
    plan = BatchSampler(source.num_clips, cfg.batch_size, cfg.seed, cfg.group_size, looks_NE)
    steps = cfg.steps or max(1, round(cfg.epochs * plan.steps_per_epoch))
    key = digest([what_is_made(cfg), data_digests, backbone_digest])
    if cfg.lora is not None:
        add_lora(model, cfg.lora, cfg.seed)
        model.to(device)
    bias = bias_of(cfg, getattr(model.backbone.clip, "logit_bias", None))
    if bias is not None:
        bias.data = bias.data.to(device)
    optimiser = make_optimiser(model, cfg, bias)
    drops = DropPathRng()
    for module in model.modules():
        if isinstance(module, DropPath):
            module.draws = drops
    progress = load_checkpoint(scratch / "checkpoint.pt", key, model, optimiser) or Progress()
    scaler = torch.amp.GradScaler(model.backbone.device.type) if cfg.precision == "fp16" else None
    if scaler is not None and progress.loss_scale:
        scaler.load_state_dict(progress.loss_scale)
    if bias is not None and progress.bias is not None:
        bias.data.fill_(progress.bias)
    dist_context.assert_same("data, settings or checkpoints", digest([key, progress.step]))
    of_loss = [model.backbone.logit_scale, *([bias] if bias is not None else [])]
    learning = [p for group in optimiser.param_groups for p in group["params"]]
    return TrainState(
        cfg=cfg,
        model=model,
        optimiser=optimiser,
        progress=progress,
        key=key,
        steps=steps,
        plan=plan,
        clip_ids=list(source.clip_ids),
        data=data[0],
        table=tables[0],
        text_features_NE=None if cfg.train_text else _encode_texts(model, tables[0].tokens_NL),
        val_data=data[1] if len(data) > 1 else None,
        val_table=tables[1] if len(tables) > 1 else None,
        val_clips=val_source.num_clips if val_source is not None else 0,
        captions=captions[0] if captions else None,
        val_captions=captions[1] if len(captions) > 1 else None,
        prefetcher=Prefetcher(lambda at: data[0].batch(plan.clips(at[0])[at[1] : at[2]], plan.epoch(at[0]))),
        out=out,
        log=_log_from(out / "train.jsonl", progress.log_bytes) if dist_context.is_main else None,
        timings=(out / "timings.jsonl").open("a", encoding="utf-8") if dist_context.is_main else None,
        board=_board(out, progress.step) if cfg.tensorboard and dist_context.is_main else None,
        drops=drops,
        dist_context=dist_context,
        grad_cache=GradCache(learning, of_loss, dist_context, progress.micro_batch or cfg.micro_batch),
        bias=bias,
        max_logit_scale=max_logit_scale,
        scaler=scaler,
        began_s=began_s,
        decoders=decoders,
        cache_bytes=cache_bytes,
    )


def _cache_plan(cfg: AdaptConfig, model: VideoCLIP, num_clips: int) -> PrefixLayout | None:
    learning = cfg.train_vision_layers
    if cfg.cache == "prefix" and learning == model.backbone.num_layers:
        raise M2raapError("adapt.cache=prefix needs frozen first layers, but adapt.train_vision_layers names them all")
    if cfg.cache == "levels" and learning:
        raise M2raapError(
            "adapt.cache=levels needs a frozen vision tower: set adapt.train_vision_layers=0, or cache=prefix"
        )
    if cfg.input == "video" or cfg.cache == "off" or learning == model.backbone.num_layers:
        return None
    depth = max(model.temporal.layers_used, learning)
    prefix, levels = (PrefixLayout(kind, depth, cfg.num_frames) for kind in ("prefix", "levels"))
    if model.inside and cfg.cache == "levels":
        raise M2raapError(f"adapt.cache=levels: {cfg.temporal.name} works inside the vision layers; set cache=prefix")
    if cfg.cache != "auto":
        return prefix if cfg.cache == "prefix" else levels
    affordable = [
        plan
        for plan in ([prefix] if learning or model.inside else [levels, prefix])
        if plan.num_bytes(model, num_clips) <= cfg.cache_limit_gb * 1e9
    ]
    return affordable[0] if affordable else None


def _films_digest(source: PairSource) -> str:
    assert isinstance(source, VideoSource)
    return videos_digest(source)


def _said(cfg: AdaptConfig, source: PairSource) -> list[Any]:
    """All words that training reads."""
    texts = [source.texts(clip) for clip in range(source.num_clips)]
    if not cfg.wants_captions or not isinstance(source, CaptionedSource):
        return [texts]
    return [texts, [source.captions(clip) for clip in range(source.num_clips)]]


@contextmanager
def open_decoders(cfg: AdaptConfig, source: PairSource) -> Iterator[Decoders | None]:
    """The processes that input `video` needs, closed whatever happens."""
    if cfg.input == "keyframes":
        yield None
        return
    assert isinstance(source, VideoSource)
    decoders = Decoders(cfg.decoders or available_cores(), source.limits)
    try:
        yield decoders
    finally:
        decoders.close()


def _encode_texts(model: VideoCLIP, tokens_NL: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.encode_text(chunk.to(model.backbone.device)) for chunk in tokens_NL.split(256)])


def _log_from(path: Path, num_bytes: int) -> BinaryIO:
    """The log, cut to what it held when the checkpoint was written."""
    log = path.open("r+b" if path.exists() else "w+b")
    log.truncate(num_bytes)
    log.seek(num_bytes)
    return log


def _board(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise M2raapError(
            "adapt.tensorboard is true, but tensorboard is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
