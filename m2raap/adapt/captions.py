"""Auxiliary captions of the frames that training reads, as features: the input of ACG and of the frame-caption loss.

B clips, T frames, N captions, L text tokens, E size of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.batches import PairSource
from m2raap.adapt.texts import encode_rows, tokenised
from m2raap.core.errors import M2raapError
from m2raap.core.spread import spread
from m2raap.models.acg import Captions
from m2raap.models.video_clip import VideoCLIP


@runtime_checkable
class CaptionedSource(PairSource, Protocol):
    """A PairSource whose frames have captions."""

    def captions(self, clip: int) -> list[str | None]:
        """The caption of every stored key-frame of the clip, in order of time; None for a frame without a caption."""
        ...


@dataclass
class CaptionTable:
    """Every distinct caption, tokenised once. `rows_CT` (clips, T) is the caption of each frame; -1 where it has none."""

    texts: list[str]
    tokens_NL: Tensor
    rows_CT: np.ndarray

    def words(self, clips: np.ndarray) -> list[list[str]]:
        """The captions of these clips' frames, T per clip; an empty text for a frame without a caption."""
        return [[self.texts[row] if row >= 0 else "" for row in rows] for rows in self.rows_CT[clips]]

    def encode(self, model: VideoCLIP, clips: np.ndarray) -> Captions:
        """Features (B, T, E) of the captions of these clips' frames, 0 for a frame without one, and which have one (B, T)."""
        rows_BT = self.rows_CT[clips]
        captioned_BT = torch.from_numpy(rows_BT >= 0).to(model.backbone.device)
        return encode_rows(model, self.tokens_NL, rows_BT), captioned_BT


def caption_table(source: PairSource, model: VideoCLIP, num_frames: int) -> CaptionTable:
    """The captions of the frames that training reads: `num_frames` per clip of the source.

    Raises M2raapError where no frame of the source has a caption, which is when the recipe lacks the stage `caption`.
    """
    if not isinstance(source, CaptionedSource):
        raise M2raapError(
            "adapt.acg and adapt.loss.frame_caption need captions of frames, which this source cannot have: set adapt.acg to "
            "null and adapt.loss.frame_caption to 0"
        )
    numbers: dict[str, int] = {}
    rows_CT = np.full((source.num_clips, num_frames), -1, np.int64)
    for clip in range(source.num_clips):
        frame_captions = source.captions(clip)
        for place, frame in enumerate(spread(len(frame_captions), num_frames)):
            if (text := frame_captions[frame]) is not None:
                rows_CT[clip, place] = numbers.setdefault(text, len(numbers))
    if not numbers:
        raise M2raapError(
            "adapt.acg and adapt.loss.frame_caption need auxiliary captions, and no frame has one: run the stage 'caption' "
            "before adapt"
        )
    texts = list(numbers)
    return CaptionTable(texts, tokenised(model.backbone, texts), rows_CT)


def caption_keep(count: int, share: float, seed: int, step: int) -> Tensor:
    """(count,) bool: False for a random `share` (0..1) of a step's clips.

    ACG does not read the captions of those clips, so that it also learns to weight clips without captions.
    """
    return torch.from_numpy(np.random.default_rng([seed, 4, step]).random(count) >= share)
