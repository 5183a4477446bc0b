"""Makes the state of a run of adaptation from its settings and sources, and from its checkpoint where there is one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.augment import Augmentation
from m2raap.adapt.captions import caption_table
from m2raap.adapt.checkpoint import Progress, load_checkpoint, put_weights
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.conflict import ConflictMeans, Truth
from m2raap.adapt.distributed import DistContext, local_gpu
from m2raap.adapt.draw import Draws, Share
from m2raap.adapt.gradcache import GradCache
from m2raap.adapt.logs import Logs
from m2raap.adapt.lora import add_lora
from m2raap.adapt.loss_modules import LossModules
from m2raap.adapt.objective import bias_of
from m2raap.adapt.optim import choose_trained, make_optimiser
from m2raap.adapt.order_texts import OrderTexts, order_texts
from m2raap.adapt.pixels import Decoding, JpegFrames
from m2raap.adapt.prefetch import Prefetcher
from m2raap.adapt.raw_video import Decoders, VideoSource, videos_digest
from m2raap.adapt.readers import Report, choose_cache, frame_reader
from m2raap.adapt.sampler import BatchSampler
from m2raap.adapt.sources import CaptionedSource, PairSource, SensedSource
from m2raap.adapt.state import DropPathRng, FrameReader, Optim, Split, TrainState
from m2raap.adapt.texts import TextTable, encode_texts, text_table
from m2raap.adapt.tokens import Tokens, TokenStore
from m2raap.adapt.trackers import open_trackers
from m2raap.adapt.validate import encode_clips
from m2raap.core import talk
from m2raap.core.config import digest, result_settings
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.core.files import remove_drafts
from m2raap.models.backbone import MAX_LOGIT_SCALE
from m2raap.models.families import load_backbone
from m2raap.models.interaction.phrases import token_spans
from m2raap.models.losses import objective_of
from m2raap.models.stan import DropPath
from m2raap.models.video_clip import VideoCLIP


def prepare(
    cfg: AdaptConfig,
    source: PairSource,
    val_source: PairSource | None,
    out: Path,
    report: Report,
    dist_context: DistContext,
    decoding: Decoding,
    caches: Path | None = None,
    decoders: Decoders | None = None,
    start: Path | None = None,
) -> TrainState:
    """The state of a run before its first step, or after the step of its checkpoint.

    `decoding`: of stored frames. `decoders`: only for the input `video`. The caller closes both. `caches`: the folder of prefix
    caches; None: in scratch. Raises M2raapError for settings that do not fit the clips or the backbone, and for a checkpoint of
    other settings or data.
    """
    _refuse_unusable(cfg, source)
    _warn_of_few_frames(cfg, source)
    sources = [part for part in (source, val_source) if part is not None and part.num_clips]
    model = _load_model(cfg, dist_context, start)
    _refuse_captions_of_other_frames(cfg, model)
    started_s = time.perf_counter()
    scratch = out / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    if dist_context.is_main:
        remove_drafts(scratch)  # of a checkpoint in whose midst the run was killed
    frames_digests = [part.frames_digest if cfg.input == "keyframes" else _videos_digest(part) for part in sources]
    key = _key(cfg, model, sources, frames_digests, start)
    on_gpu = model.backbone.device.type == "cuda"
    open_cache, cache_bytes = choose_cache(
        cfg, model, sources, caches or scratch / "cache", report, dist_context, decoding
    )
    store = TokenStore(scratch / "tokens", key, dist_context.main_process_first)
    open_frames = partial(frame_reader, cfg, model, decoding=decoding, decoders=decoders, open_cache=open_cache)
    train, *val = _splits(cfg, model, sources, frames_digests, open_frames, store)
    sampler = _make_sampler(cfg, model, train, source, dist_context)
    optim = _make_optim(cfg, model, dist_context)
    progress = _resume(scratch, key, model, optim, dist_context)
    steps = cfg.steps or max(1, round(cfg.epochs * sampler.steps_per_epoch))
    draws = Draws(cfg, train, sampler, steps, _guided(cfg, model))
    read = _share_reader(draws, dist_context.local_slice(sampler.size), on_gpu)
    if cfg.compile:
        model.backbone.compile_layers()
    model.backbone.recomputes = cfg.recompute
    return TrainState(
        cfg=cfg,
        dist_context=dist_context,
        out=out,
        key=key,
        steps=steps,
        model=model,
        optim=optim,
        progress=progress,
        train=train,
        val=val[0] if val else None,
        sampler=sampler,
        prefetcher=Prefetcher(read, steps, train.frames.reads_ahead),
        text_features_NE=None if cfg.train_text else _encode_all(model, train.texts.tokens, dist_context),
        order_features_ME=_encode_events(cfg, model, train.order, dist_context),
        drops=_seed_drop_path(model),
        conflict=_conflict_means(cfg, model, train, progress),
        truth=_truth(cfg, train),
        logs=Logs(out, progress, open_trackers(cfg, out, progress.step)) if dist_context.is_main else None,
        decoders=decoders,
        started_s=started_s,
        tokenise_s=store.seconds,
        cache_bytes=cache_bytes,
    )


def _refuse_unusable(cfg: AdaptConfig, source: PairSource) -> None:
    if source.num_clips < 2:
        raise M2raapError(f"adapt needs at least 2 clips with frames and texts, and the data has {source.num_clips}")
    objective_of(cfg.objective)


def _refuse_captions_of_other_frames(cfg: AdaptConfig, model: VideoCLIP) -> None:
    """Of an interaction from outside only the module tells that it reads captions; the settings refuse all other cases."""
    if cfg.input == "video" and _reads_captions(cfg, model):
        raise M2raapError(
            "adapt.interaction reads the captions of stored key-frames, and adapt.input=video reads other frames in every "
            "epoch: set adapt.input to keyframes"
        )


def training_device(cfg: AdaptConfig, dist_context: DistContext) -> str:
    """The torch device on which this process trains. Raises M2raapError where there are fewer GPUs than processes."""
    place = device() if cfg.device == "auto" else cfg.device
    return local_gpu(dist_context) if place == "cuda" or (place != "cpu" and dist_context.world_size > 1) else place


def _load_model(cfg: AdaptConfig, dist_context: DistContext, start: Path | None) -> VideoCLIP:
    """The model on the device of this process, with the temperature of the settings and the choice of what learns.

    The digest of its backbone is that of the weights as they were loaded.
    """
    place = training_device(cfg, dist_context)
    model = VideoCLIP(load_backbone(cfg.backbone), cfg.temporal, cfg.acg, cfg.interaction, seed=cfg.seed)
    if start is not None:
        _start_from(model, start)
    _ = model.backbone.digest  # computed and kept before any weight changes
    if cfg.temperature is not None:
        model.backbone.logit_scale.data.fill_(math.log(1 / cfg.temperature))
    model.backbone.expect_text_length(cfg.text_length, "adapt.text_length")
    model.to(place)
    choose_trained(model, cfg)
    return model


def _start_from(model: VideoCLIP, start: Path) -> None:
    """Gives the model the weights of a model folder, but for modules that only one of the two has.

    Raises M2raapError where the folder's model has another backbone or temporal module.
    """
    other = VideoCLIP.load(start)
    for what, ours, theirs in (
        ("backbone", model.backbone.description, other.backbone.description),
        ("temporal", model.temporal_cfg, other.temporal_cfg),
    ):
        if ours != theirs:
            raise M2raapError(
                f"{start}: starts from a model with another {what} than adapt has: give both the same settings"
            )
    weights = {name: value for name, value in other.state_dict().items() if name.startswith(("backbone.", "temporal."))}
    model.load_state_dict(weights, strict=False)


def _videos_digest(source: PairSource) -> str:
    assert isinstance(source, VideoSource)
    return videos_digest(source)


def _key(
    cfg: AdaptConfig, model: VideoCLIP, sources: list[PairSource], frames_digests: list[str], start: Path | None
) -> str:
    """The digest of all that decides what the run learns."""
    data = [[source.digest, frames] for source, frames in zip(sources, frames_digests, strict=True)]
    return digest([result_settings(cfg), data, model.backbone.digest, *([model.digest] if start else [])])


def _reads_captions(cfg: AdaptConfig, model: VideoCLIP) -> bool:
    """Whether training reads the captions of frames, also by an interaction from outside of the package."""
    return cfg.wants_captions or (model.interaction is not None and "captions" in model.interaction.needs)


def _splits(
    cfg: AdaptConfig,
    model: VideoCLIP,
    sources: list[PairSource],
    frames_digests: list[str],
    open_frames: Callable[..., FrameReader],
    store: TokenStore,
) -> list[Split]:
    """The training clips, then the validation clips where there are any."""
    needs = model.interaction.needs if model.interaction is not None else frozenset()
    augment = Augmentation(cfg.augment, cfg.seed)
    tokenizer = model.backbone.tokenizer
    splits: list[Split] = []
    for source, digest_of_frames in zip(sources, frames_digests, strict=True):
        training = not splits
        name = "train" if training else "val"
        frames = open_frames(source, digest_of_frames, training)
        odds = (cfg.langs, cfg.lang_odds, cfg.origin_odds)
        texts = text_table(source, tokenizer, *odds, cfg.text_length, store, f"{name}-texts")
        # Validation has no frame-caption loss, and the interaction's scores only where nothing else is learnt.
        scores = training or cfg.keeps_by_interaction
        reads = _reads_captions(cfg, model) if training else cfg.acg is not None or (scores and "captions" in needs)
        captions = None
        if reads:
            captions = caption_table(source, model, cfg.num_frames, augment, cfg.text_length, store, f"{name}-captions")
        spans = _spans(cfg, model, texts, store, f"{name}-phrases") if scores and "phrases" in needs else None
        order = senses = None
        if training:
            _warn_of_chinese(cfg, model, texts)
            order = _order_texts(cfg, model, texts, store)
            if cfg.loss.clip_sound.weight:
                senses = source.senses if isinstance(source, SensedSource) else None
                assert senses is not None, "the caller reads the senses for such a loss"
        splits.append(Split(source.num_clips, frames, texts, captions, order, spans, senses))
    return splits


def _spans(cfg: AdaptConfig, model: VideoCLIP, texts: TextTable, store: TokenStore, name: str) -> Tensor:
    """The spans (N, X, 2) of the tokens of the phrases of all texts, made once as the tokens are."""

    def make() -> Tokens:
        tokenize = partial(model.backbone.tokenizer.tokenize, text_length=cfg.text_length)
        return Tokens(token_spans(list(texts.texts), tokenize).flatten(1).numpy().astype(np.int32), 0)

    ids_NL = store.kept(name, cfg.text_length, make).ids_NL
    return torch.from_numpy(ids_NL.astype(np.int64)).unflatten(1, (-1, 2))


def _order_texts(cfg: AdaptConfig, model: VideoCLIP, texts: TextTable, store: TokenStore) -> OrderTexts | None:
    if not cfg.loss.wants_order:
        return None
    order = order_texts(texts.texts, model.backbone.tokenizer, cfg.text_length, store)
    warning = "" if order.num_split else "warning: "
    talk.log(
        f"adapt: {warning}{order.num_split} of {len(texts.texts)} texts say which of two events comes first; adapt.loss.clauses "
        "and adapt.loss.event_order learn from these alone"
    )
    return order


def _warn_of_few_frames(cfg: AdaptConfig, source: PairSource) -> None:
    """Says so where frame_jitter has nothing to choose from, because no clip has more frames than are read of it."""
    if not cfg.augment.frame_jitter or cfg.input == "video" or not isinstance(source, CaptionedSource):
        return
    if int(source.num_frames_C.max(initial=0)) <= cfg.num_frames:
        talk.log(
            f"adapt: warning: adapt.augment.frame_jitter changes nothing, because no clip has more than adapt.num_frames "
            f"({cfg.num_frames}) stored frames: store more of them (keyframes.k)"
        )


def _warn_of_chinese(cfg: AdaptConfig, model: VideoCLIP, texts: TextTable) -> None:
    chinese = len(texts.queries_of("zh")[0])
    if chinese and model.backbone.english_only:
        talk.log(
            f"adapt: warning: {chinese} clips have Chinese texts, but the tokenizer of {cfg.backbone.model} is for English only: "
            "it gives for Chinese unknown tokens or parts of characters. Take a backbone that reads Chinese (Chinese-CLIP, "
            "AltCLIP, SigLIP2, or a multilingual one such as xlm-roberta-base-ViT-B-32), or set adapt.langs to [en]"
        )


def _make_sampler(
    cfg: AdaptConfig, model: VideoCLIP, train: Split, source: PairSource, dist_context: DistContext
) -> BatchSampler:
    looks_NE = None
    if cfg.group_size > 1:
        looks = encode_clips(model, train.frames, train.num_clips, dist_context=dist_context)
        looks_NE = dist_context.broadcast(looks).cpu().numpy()
    reads_jpegs = isinstance(train.frames, JpegFrames)  # else the order of the clips costs nothing
    where = (source.read_groups, source.shuffle_window) if reads_jpegs else (None, None)
    size = train.num_clips if cfg.full_batch else cfg.batch_size
    return BatchSampler(train.num_clips, size, cfg.seed, cfg.group_size, looks_NE, *where)


def _guided(cfg: AdaptConfig, model: VideoCLIP) -> bool:
    """Whether ACG or the interaction reads captions."""
    return cfg.acg is not None or (model.interaction is not None and "captions" in model.interaction.needs)


def _make_optim(cfg: AdaptConfig, model: VideoCLIP, dist_context: DistContext) -> Optim:
    """The optimiser over the weights that learn. Adds LoRA's updates to the model, where the settings ask for them."""
    backbone = model.backbone
    device = backbone.device
    max_logit_scale = max(math.log(MAX_LOGIT_SCALE), float(backbone.logit_scale.detach()))
    if cfg.lora is not None:
        add_lora(model, cfg.lora, cfg.seed)
        model.to(device)
    bias = bias_of(cfg, getattr(backbone.clip, "logit_bias", None))
    if bias is not None:
        bias.data = bias.data.to(device)
    modules = LossModules(cfg.loss, backbone.embed_dim, cfg.seed).to(device)
    optimiser = make_optimiser(model, cfg, bias, modules)
    learning = [p for group in optimiser.param_groups for p in group["params"]]
    of_loss = [backbone.logit_scale, *([bias] if bias is not None else []), *modules.parameters()]
    of_loss += model.interaction.parameters() if model.interaction is not None else []
    micro = cfg.micro_batch or (cfg.batch_size if cfg.full_batch else None)
    grad_cache = GradCache(learning, of_loss, dist_context, micro)
    scaler = torch.amp.GradScaler(device.type) if cfg.precision == "fp16" else None
    return Optim(optimiser, grad_cache, bias, modules, scaler, max_logit_scale)


def _seed_drop_path(model: VideoCLIP) -> DropPathRng:
    """Every drop path of the model draws from the returned generator."""
    drops = DropPathRng()
    for module in model.modules():
        if isinstance(module, DropPath):
            module.draws = drops
    return drops


def _resume(scratch: Path, key: str, model: VideoCLIP, optim: Optim, dist_context: DistContext) -> Progress:
    """Puts back what the checkpoint holds of the model and of `optim`; a new Progress where there is no checkpoint.

    Raises M2raapError where the processes have different settings, data or checkpoints.
    """
    progress = load_checkpoint(scratch, key, model, optim.optimiser) or Progress()
    if optim.scaler is not None and progress.loss_scale:
        optim.scaler.load_state_dict(progress.loss_scale)
    if optim.bias is not None and progress.bias is not None:
        optim.bias.data.fill_(progress.bias)
    if progress.loss_modules:
        put_weights(optim.modules, progress.loss_modules)
    optim.grad_cache.micro = progress.micro_batch or optim.grad_cache.micro
    dist_context.assert_same("data, settings or checkpoints", digest([key, progress.step]))
    return progress


def _share_reader(draws: Draws, share: tuple[int, int], on_gpu: bool) -> Callable[[int], Share]:
    """What reads the clips `share` of the batch of a step; for a GPU into memory from which it copies by itself."""

    def read(number: int) -> Share:
        read_share = draws.share(number, *share)
        inputs = read_share.inputs
        if inputs is None or not on_gpu or inputs.is_pinned():
            return read_share
        return replace(read_share, inputs=inputs.pin_memory())

    return read


def _encode_all(model: VideoCLIP, tokens: Tokens, dist_context: DistContext) -> Tensor:
    with torch.no_grad():
        return encode_texts(model, tokens, np.arange(len(tokens.ids_NL)), dist_context)


def _encode_events(
    cfg: AdaptConfig, model: VideoCLIP, order: OrderTexts | None, dist_context: DistContext
) -> Tensor | None:
    """Features of the events of all texts where they never change; None where they do, and where no text has any."""
    if order is None or cfg.train_text or not len(order.texts):
        return None
    return _encode_all(model, order.tokens, dist_context)


def _conflict_means(cfg: AdaptConfig, model: VideoCLIP, train: Split, progress: Progress) -> ConflictMeans | None:
    if cfg.harmonize is None:
        return None
    means = ConflictMeans(len(train.texts.texts), model.backbone.device)
    if progress.conflict:
        means.load(progress.conflict)
    return means


def _truth(cfg: AdaptConfig, train: Split) -> Truth | None:
    if cfg.harmonize is None or cfg.harmonize.truth is None:
        return None
    texts = train.texts
    return Truth(Path(cfg.harmonize.truth), texts.raw_ids, [texts.names[lang] for lang in texts.lang_N.tolist()])
