"""The random choices for a step: functions of (seed, step, place in the batch), the same in every process.

B clips, K texts per clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from m2raap.adapt.captions import caption_keep
from m2raap.adapt.clip_sound import BatchSound
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.objective import OF_CAPTIONS, BatchTexts
from m2raap.adapt.order_texts import FIRST, SECOND, SWAPPED
from m2raap.adapt.sampler import BatchSampler

if TYPE_CHECKING:
    from m2raap.adapt.state import Split


@dataclass(frozen=True)
class Step:
    """The random choices of a step (from 1). `rows_KB` are rows of the text table.

    `loss_weights`: of the terms of the loss that count in this step.
    `caption_keep_B`: the clips whose captions ACG and the interaction read; None where neither reads any.
    """

    number: int
    clips_B: np.ndarray
    rows_KB: np.ndarray
    loss_weights: dict[str, float]
    caption_keep_B: Tensor | None
    batch_texts: BatchTexts

    @property
    def order_parts(self) -> list[int]:
        """The columns of OrderTexts that this step reads; empty where no caption of the batch says an order."""
        order_KB3, weights = self.batch_texts.order_KB3, self.loss_weights
        if order_KB3 is None:
            return []
        parts = [FIRST, SECOND] if "clauses" in weights else []
        parts += [SWAPPED] if "event_order" in weights else []
        return [part for part in parts if (order_KB3[..., part] >= 0).any()]


@dataclass(frozen=True)
class Share:
    """What a process reads for a step: the choices for the whole batch, and the inputs of its own clips, from `start` on.

    `inputs`: what the reader of frames gives for these clips; `mask_BT`: which frames they have. None: they are read chunk by
    chunk, because a batch of all clips does not fit into memory.
    """

    step: Step
    start: int
    inputs: Tensor | None
    mask_BT: Tensor | None
    read: Callable[[np.ndarray], tuple[Tensor, Tensor]]

    def chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and mask of clips start .. stop of the batch."""
        if self.inputs is None or self.mask_BT is None:
            return self.read(self.step.clips_B[start:stop])
        places = slice(start - self.start, stop - self.start)
        return self.inputs[places], self.mask_BT[places]


class Draws:
    """Draws the steps of a run of `steps` steps. `guided`: whether ACG or the interaction reads captions."""

    def __init__(self, cfg: AdaptConfig, train: Split, sampler: BatchSampler, steps: int, guided: bool) -> None:
        self.cfg, self.train, self.sampler, self.steps, self.guided = cfg, train, sampler, steps, guided

    def step(self, number: int) -> Step:
        """The clips, texts and kept captions of step `number` (from 1), the same in every process; with full_batch those of the
        first step, with the terms of the loss that count at the end."""
        cfg, train = self.cfg, self.train
        number = 1 if cfg.full_batch else number
        clips = self.sampler.clips(number)
        rows_KB = train.texts.draw(clips, cfg.texts_per_clip, cfg.seed, number)
        texts = [train.texts.texts.take(rows) for rows in rows_KB]
        caption_keep_B = caption_keep(len(clips), cfg.caption_dropout, cfg.seed, number) if self.guided else None
        weights = cfg.loss.weights_at(1.0 if cfg.full_batch else (number - 1) / self.steps)
        epoch = self.sampler.epoch(number)
        captions = train.captions.rows(clips, epoch) if train.captions and not OF_CAPTIONS.isdisjoint(weights) else None
        order = train.order if "clauses" in weights or "event_order" in weights else None
        order_KB3 = order.rows_N3[rows_KB] if order is not None else None
        sound = BatchSound.read(train.senses, clips) if train.senses is not None and "clip_sound" in weights else None
        batch_texts = BatchTexts(texts, train.texts.owners(clips), captions, order_KB3, sound)
        return Step(number, clips, rows_KB, weights, caption_keep_B, batch_texts)

    def share(self, number: int, start: int, stop: int) -> Share:
        """Step `number`, with the inputs of clips start .. stop of its batch. Raises M2raapError as the reader of frames."""
        step, frames = self.step(number), self.train.frames
        read = partial(frames.batch, epoch=self.sampler.epoch(step.number))
        inputs, mask_BT = (None, None) if self.cfg.full_batch else read(step.clips_B[start:stop])
        return Share(step, start, inputs, mask_BT, read)
