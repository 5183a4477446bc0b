"""One step: what is drawn for it, and what the towers say of any run of its clips.

What is drawn is a function of (seed, step, place in the batch), so that chunks of a batch and shares of several processes
are encoded as the whole batch would be. B clips, T frames, K texts a clip, E size of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.batches import reverse_frames
from m2raap.adapt.captions import heard_clips
from m2raap.adapt.objective import Features, Words, step_loss
from m2raap.adapt.run import Run
from m2raap.core.errors import M2raapError

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    number: int
    clips: np.ndarray  # (B,)
    rows_KB: np.ndarray  # of the text table
    heard_B: Tensor | None  # whose captions ACG sees
    words: Words


def draw_step(run: Run, number: int) -> Step:
    cfg = run.cfg
    clips = run.plan.clips(number)
    rows_KB = run.table.draw(clips, cfg.texts_per_clip, cfg.seed, number)
    texts = [[run.table.texts[row] for row in rows] for rows in rows_KB]
    heard_B = heard_clips(len(clips), cfg.caption_dropout, cfg.seed, number) if cfg.enhance else None
    words = Words(
        texts, run.table.owners(clips), run.captions.words(clips) if run.captions and cfg.fcc_weight else None
    )
    return Step(number, clips, rows_KB, heard_B, words)


def gradients(run: Run, step: Step) -> float:
    """Puts the gradients of the step's loss into `.grad`. The loss; M2raapError where it is not finite."""
    scale = run.model.backbone.logit_scale

    def loss_of(found: Features) -> Tensor:
        loss = step_loss(run.cfg, found, step.words, scale.exp(), run.bias)
        if not bool(torch.isfinite(loss)):
            raise M2raapError(
                f"the loss at step {step.number} is {float(loss.detach())}: lower adapt.lr, lr_new or lr_gate, or use fp32"
            )
        return loss

    return run.backward(len(step.clips), partial(encode, run, step), loss_of, run.scaler.scale if run.scaler else None)


def encode(run: Run, step: Step, start: int, stop: int, then: tuple[int, int] | None = None) -> Features:
    """The features of clips start .. stop of the batch, with a graph where gradients are enabled.

    `then` is the run of clips that is wanted next, so that it is read meanwhile; None: the next step's first.
    """
    cfg, model = run.cfg, run.model
    device = model.backbone.device
    clips, rows_KB = step.clips[start:stop], step.rows_KB[:, start:stop]
    inputs, mask_BT = run.ahead.get((step.number, start, stop), run.after(step.number, then))
    run.drops.begin([cfg.seed, 2, step.number], len(step.clips), start, stop)
    model.temporal.train()
    vectors_wanted = bool(cfg.mug_weight or cfg.fcc_weight)
    with torch.autocast(device.type, dtype=PRECISION[cfg.precision], enabled=cfg.precision != "fp32"):
        said = run.captions.encode(model, clips) if run.captions else None
        heard = None
        if said is not None and step.heard_B is not None:
            heard = (said[0], said[1] & step.heard_B[start:stop].to(device)[:, None])
        there_BT = mask_BT.to(device)
        vectors_BTE = run.data.frame_vectors(model, inputs.to(device), there_BT)
        video_BE = model.pool(vectors_BTE, there_BT, heard)
        reversed_BE = None
        if cfg.order_weight:
            backwards = reverse_frames(inputs, mask_BT, run.data.time_dim).to(device)
            if heard is not None:
                heard = (reverse_frames(heard[0], there_BT, 1), reverse_frames(heard[1], there_BT, 1))
            reversed_BE = model.pool(run.data.frame_vectors(model, backwards, there_BT), there_BT, heard)
        rows = torch.from_numpy(rows_KB.ravel())
        tokens: list[Tensor] = []
        if cfg.mug_weight:
            text_RE, *tokens = model.encode_text_tokens(run.table.tokens_NL[rows].to(device))
        elif run.text_features_NE is not None:
            text_RE = run.text_features_NE[rows.to(device)]
        else:
            text_RE = model.encode_text(run.table.tokens_NL[rows].to(device))
    by_clip = [part.unflatten(0, rows_KB.shape).transpose(0, 1) for part in (text_RE, *tokens)]
    return Features(
        mask_BT=there_BT,
        video_BE=video_BE,
        text_BKE=by_clip[0],
        vectors_BTE=vectors_BTE if vectors_wanted else None,
        reversed_BE=reversed_BE,
        token_BKLE=by_clip[1] if tokens else None,
        token_mask_BKL=by_clip[2] if tokens else None,
        caption_BTE=said[0] if said and cfg.fcc_weight else None,
        captioned_BT=said[1] if said and cfg.fcc_weight else None,
    )
