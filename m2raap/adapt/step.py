"""One step: the random choices for it, and the features of any run of its clips.

The choices are a function of (seed, step, place in the batch), so that chunks of a batch and shares of several processes
are encoded as the whole batch would be. B clips, T frames, K texts per clip, E size of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.batches import reverse_frames
from m2raap.adapt.captions import caption_keep
from m2raap.adapt.objective import BatchTexts, Features, StepLoss, step_loss
from m2raap.adapt.state import TrainState
from m2raap.core.errors import M2raapError
from m2raap.core.extension import code_in_use

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """The random choices of a step (from 1). `rows_KB` are rows of the text table.

    `loss_weights`: of the terms of the loss that count in this step.
    `caption_keep_B`: the clips whose captions ACG reads; None without ACG.
    """

    number: int
    clips_B: np.ndarray
    rows_KB: np.ndarray
    loss_weights: dict[str, float]
    caption_keep_B: Tensor | None
    batch_texts: BatchTexts


def draw_step(state: TrainState, number: int) -> Step:
    """The clips, texts and kept captions of step `number` (from 1), the same in every process."""
    cfg, train = state.cfg, state.train
    clips = state.sampler.clips(number)
    rows_KB = train.texts.draw(clips, cfg.texts_per_clip, cfg.seed, number)
    texts = [[train.texts.texts[row] for row in rows] for rows in rows_KB]
    caption_keep_B = caption_keep(len(clips), cfg.caption_dropout, cfg.seed, number) if cfg.acg else None
    weights = cfg.loss.weights_at((number - 1) / state.steps)
    epoch = state.sampler.epoch(number)
    captions = train.captions.words(clips, epoch) if train.captions and "frame_caption" in weights else None
    batch_texts = BatchTexts(texts, train.texts.owners(clips), captions)
    return Step(number, clips, rows_KB, weights, caption_keep_B, batch_texts)


def gradients(state: TrainState, step: Step) -> StepLoss:
    """Puts the gradients of the step's loss into `.grad` and returns the loss. Raises M2raapError where it is not finite."""
    scale = state.model.backbone.logit_scale

    def loss_of(features: Features) -> StepLoss:
        loss = step_loss(state.cfg, step.loss_weights, features, step.batch_texts, scale.exp(), state.optim.bias)
        if not bool(torch.isfinite(loss.total)):
            terms = ", ".join(f"{name} {value:.4g}" for name, value in loss.detached().floats().items())
            raise M2raapError(
                f"the loss at step {step.number} is {float(loss.total.detach())} ({terms}): lower adapt.lr, adapt.lr_new or "
                f"adapt.lr_gate, or set adapt.precision to fp32{code_in_use()}"
            )
        return loss

    scale_loss = state.optim.scaler.scale if state.optim.scaler else None
    return state.optim.grad_cache(len(step.clips_B), partial(encode, state, step), loss_of, scale_loss)


def encode(state: TrainState, step: Step, start: int, stop: int, then: tuple[int, int] | None = None) -> Features:
    """The features of clips start .. stop of the batch, with a graph where gradients are enabled.

    `then` is the run of clips that is encoded next; it is read meanwhile. None: the first run of the next step.
    """
    cfg, model, train = state.cfg, state.model, state.train
    device = model.backbone.device
    clips, rows_KB = step.clips_B[start:stop], step.rows_KB[:, start:stop]
    inputs, mask_BT = state.prefetcher.get((step.number, start, stop), state.next_place(step.number, then))
    state.drops.begin([cfg.seed, 2, step.number], len(step.clips_B), start, stop)
    model.temporal.train()
    weights = step.loss_weights
    needs_vectors = "interaction" in weights or "frame_caption" in weights
    with torch.autocast(device.type, dtype=PRECISION[cfg.precision], enabled=cfg.precision != "fp32"):
        reads_captions = cfg.acg is not None or "frame_caption" in weights
        epoch = state.sampler.epoch(step.number)
        captions = train.captions.encode(model, clips, epoch) if train.captions and reads_captions else None
        acg_captions = None
        if captions is not None and step.caption_keep_B is not None:
            acg_captions = (captions[0], captions[1] & step.caption_keep_B[start:stop].to(device)[:, None])
        device_mask_BT = mask_BT.to(device)
        vectors_BTE = train.frames.frame_vectors(model, inputs.to(device), device_mask_BT)
        video_BE = model.pool(vectors_BTE, device_mask_BT, acg_captions)
        reversed_BE = None
        if "direction" in weights:
            backwards = reverse_frames(inputs, mask_BT, train.frames.time_dim).to(device)
            if acg_captions is not None:
                acg_captions = (
                    reverse_frames(acg_captions[0], device_mask_BT, 1),
                    reverse_frames(acg_captions[1], device_mask_BT, 1),
                )
            reversed_BE = model.pool(
                train.frames.frame_vectors(model, backwards, device_mask_BT), device_mask_BT, acg_captions
            )
        text_BKE, *tokens = _encode_texts(state, rows_KB, with_tokens="interaction" in weights)
    return Features(
        mask_BT=device_mask_BT,
        video_BE=video_BE,
        text_BKE=text_BKE,
        vectors_BTE=vectors_BTE if needs_vectors else None,
        reversed_BE=reversed_BE,
        token_BKLE=tokens[0] if tokens else None,
        token_mask_BKL=tokens[1] if tokens else None,
        caption_BTE=captions[0] if captions and "frame_caption" in weights else None,
        captioned_BT=captions[1] if captions and "frame_caption" in weights else None,
    )


def _encode_texts(state: TrainState, rows_KB: np.ndarray, with_tokens: bool) -> list[Tensor]:
    """Text features (B, K, E); `with_tokens` also those of the tokens (B, K, L, E), and which tokens count (B, K, L)."""
    model, device = state.model, state.model.backbone.device
    rows = torch.from_numpy(rows_KB.ravel())
    parts: tuple[Tensor, ...]
    if with_tokens:
        parts = model.encode_text_tokens(state.train.texts.tokens_NL[rows].to(device))
    elif state.text_features_NE is not None:
        parts = (state.text_features_NE[rows.to(device)],)
    else:
        parts = (model.encode_text(state.train.texts.tokens_NL[rows].to(device)),)
    return [part.unflatten(0, rows_KB.shape).transpose(0, 1) for part in parts]
