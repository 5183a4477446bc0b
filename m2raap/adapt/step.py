"""The features of any run of the clips of a step, and the gradients of its loss.

The choices for a step are a function of (seed, step, place in the batch), so that chunks of a batch and shares of several
processes are encoded as the whole batch would be. B clips, T frames, K texts per clip, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.draw import Share
from m2raap.adapt.frame_order import reverse_frames, swap_halves
from m2raap.adapt.harmonize import REFERENCES, add_projected, gamma_at, kept_pairs, realigned, text_agreement
from m2raap.adapt.objective import (
    OF_CAPTIONS,
    TEXT_FEATURES,
    WITHOUT_TEXT,
    BatchTexts,
    Features,
    StepLoss,
    loss_rows,
    step_loss,
)
from m2raap.adapt.order_texts import FIRST, SWAPPED
from m2raap.adapt.state import TrainState
from m2raap.models.interaction.units import Need, tensors_of
from m2raap.models.mask import on_device

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def gradients(state: TrainState, share: Share) -> StepLoss:
    """Puts the gradients of the step's loss into `.grad` and returns the loss."""
    weights, harmonize = share.step.loss_weights, state.cfg.harmonize
    if harmonize is None or REFERENCES.isdisjoint(weights) or harmonize.level == "vectors" or not harmonize.realigns:
        return _gradients_of(state, share, weights)
    of_texts = weights.keys() - WITHOUT_TEXT
    groups = [
        {name: weights[name] for name in weights if name in some} for some in (OF_CAPTIONS, {"clip_sound"}, of_texts)
    ]
    learning = state.optim.parameters()
    parts = []
    for some in filter(None, groups):
        loss = _gradients_of(state, share, some)
        parts.append((loss, [None if p.grad is None else p.grad.clone() for p in learning]))
    for p, gradient in zip(learning, add_projected([gradients for _, gradients in parts]), strict=True):
        p.grad = gradient
    terms = {name: term for loss, _ in parts for name, term in loss.terms.items()}
    total = torch.stack([loss.total for loss, _ in parts]).sum()
    return replace(parts[-1][0], total=total, terms=terms)


def _gradients_of(state: TrainState, share: Share, weights: dict[str, float]) -> StepLoss:
    """Puts the gradients of some terms into `.grad`, and returns their loss."""
    scale, step, cfg = state.model.backbone.logit_scale, share.step, state.cfg
    harmonize = None if REFERENCES.isdisjoint(step.loss_weights) else cfg.harmonize

    def loss_of(features: Features) -> StepLoss:
        modules, sound = state.optim.modules, None
        if step.batch_texts.sound is not None:
            assert modules.sound_tower is not None
            sound = step.batch_texts.sound.encode(modules.sound_tower, features.video_BE.device)
        of_loss = (state.optim.bias, modules, state.model.interaction)
        batch = (features, step.batch_texts, scale.exp(), *of_loss)
        videos = None
        if harmonize is not None and harmonize.realigns and harmonize.level == "vectors":
            videos = realigned(features.video_BE, weights, len(step.batch_texts.texts))
        rows = loss_rows(cfg, weights, *batch, state.dist_context.shared_rows, videos, sound)
        if harmonize is None:
            return step_loss(weights, rows)
        compared_at = scale.exp().detach() if harmonize.temperature is None else 1 / harmonize.temperature
        agreement_BK = text_agreement(features, step.batch_texts, step.loss_weights, compared_at, sound)
        gamma = gamma_at(harmonize.gamma, (step.number - 1) / state.steps)
        kept_BK = kept_pairs(agreement_BK, gamma) if harmonize.leaves_out else None
        return step_loss(weights, rows, agreement_BK, kept_BK)

    scale_loss = state.optim.scaler.scale if state.optim.scaler else None
    return state.optim.grad_cache(len(step.clips_B), partial(encode, state, share), loss_of, scale_loss)


def encode(state: TrainState, share: Share, start: int, stop: int) -> Features:
    """The features of clips start .. stop of the batch, with a graph where gradients are enabled."""
    cfg, model, train = state.cfg, state.model, state.train
    device, step = model.backbone.device, share.step
    clips, rows_KB = step.clips_B[start:stop], step.rows_KB[:, start:stop]
    inputs, mask_BT = share.chunk(start, stop)
    state.drops.begin([cfg.seed, 2, step.number], len(step.clips_B), start, stop)
    model.temporal.train()
    weights = step.loss_weights
    needs: frozenset[Need] = model.interaction.needs if "interaction" in weights else frozenset()
    scores_captions, learns_captions = "captions" in needs, not OF_CAPTIONS.isdisjoint(weights)
    needs_vectors = "interaction" in weights or "frame_caption" in weights
    with torch.autocast(device.type, dtype=PRECISION[cfg.precision], enabled=cfg.precision != "fp32"):
        captions = None
        if train.captions and (cfg.acg is not None or scores_captions or learns_captions):
            # Only the losses of captions have a gradient of captions.
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns_captions):
                captions = train.captions.encode(model, clips, state.sampler.epoch(step.number))
        guide = None
        if captions is not None and step.caption_keep_B is not None:
            guide = (captions[0], captions[1] & step.caption_keep_B[start:stop].to(device)[:, None])
        acg_captions = guide if cfg.acg is not None else None
        device_mask_BT = on_device(mask_BT, device)
        levels = train.frames.levels(model, inputs.to(device, non_blocking=True), device_mask_BT)
        vectors_BTE = model.frame_vectors(levels, device_mask_BT)
        video_BE = model.pool(vectors_BTE, device_mask_BT, acg_captions)

        def pooled_in(order: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
            """Video vectors (B, E) of the clips, and for ACG the captions of their frames, in another order of frames."""
            if model.inside:
                reordered_inputs = order(inputs, mask_BT, train.frames.time_dim).to(device)
                reordered = train.frames.levels(model, reordered_inputs, device_mask_BT)
            else:  # each frame went through the vision tower alone, so that it need not go again
                reordered = [order(level_BTSD, device_mask_BT, 1) for level_BTSD in levels]
            reordered_captions = None
            if acg_captions is not None:
                reordered_captions = (
                    order(acg_captions[0], device_mask_BT, 1),
                    order(acg_captions[1], device_mask_BT, 1),
                )
            return model.pool(model.frame_vectors(reordered, device_mask_BT), device_mask_BT, reordered_captions)

        reversed_BE = pooled_in(reverse_frames) if "direction" in weights else None
        parts = step.order_parts
        swapped_BE = pooled_in(swap_halves) if SWAPPED in parts else None
        order_BKPE = _encode_order(state, step.batch_texts, parts, start, stop) if parts else None
        texts = _encode_texts(state, rows_KB, needs)
    return Features(
        mask_BT=device_mask_BT,
        video_BE=video_BE,
        vectors_BTE=vectors_BTE if needs_vectors else None,
        patches_BTPE=model.patch_vectors(levels) if "patches" in needs else None,
        reversed_BE=reversed_BE,
        clause_BK2E=order_BKPE[:, :, :2] if order_BKPE is not None and FIRST in parts else None,
        swapped_BE=swapped_BE,
        swapped_text_BKE=order_BKPE[:, :, -1] if order_BKPE is not None and SWAPPED in parts else None,
        caption_BTE=captions[0] if captions and (learns_captions or scores_captions) else None,
        guide_BT=guide[1] if guide and scores_captions else None,
        **texts,
    )


def _encode_order(state: TrainState, batch_texts: BatchTexts, parts: list[int], start: int, stop: int) -> Tensor:
    """Features (B, K, P, E) of the P `parts` of the texts of clips start .. stop, 0 where a text has none."""
    assert state.train.order is not None and batch_texts.order_KB3 is not None
    rows_BKP = batch_texts.order_KB3[:, start:stop, parts].swapaxes(0, 1)
    return state.train.order.encode(state.model, rows_BKP, state.order_features_ME)


def _encode_texts(state: TrainState, rows_KB: np.ndarray, needs: Collection[Need]) -> dict[str, Tensor]:
    """The features of texts, by their names in Features: one vector each, and those of the parts that are needed."""
    model, train, device = state.model, state.train, state.model.backbone.device
    rows = torch.from_numpy(rows_KB.ravel())
    if state.text_features_NE is not None and not {"tokens", "phrases"} & set(needs):
        parts = {"text_BKE": state.text_features_NE[rows.to(device)]}
    else:
        spans_BX2 = train.spans_NX2[rows].to(device) if train.spans_NX2 is not None else None
        units = model.text_units(train.texts.tokens.rows(rows_KB.ravel()).to(device), needs, spans_BX2)
        parts = {TEXT_FEATURES[name]: value for name, value in tensors_of(units).items()}
    return {name: part.unflatten(0, rows_KB.shape).transpose(0, 1) for name, part in parts.items()}
