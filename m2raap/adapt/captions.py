"""Auxiliary captions of the frames that training reads, as features: for ACG, interactions and the frame-caption loss.

B clips, K stored frames, T frames that training reads, N captions, L text tokens, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.augment import NO_AUGMENTATION, Augmentation
from m2raap.adapt.sources import CaptionedSource, PairSource
from m2raap.adapt.texts import encode_rows
from m2raap.adapt.tokens import Tokens, TokenStore, tokens_of
from m2raap.core.errors import M2raapError
from m2raap.core.strings import Strings
from m2raap.models.acg import Captions
from m2raap.models.video_clip import VideoCLIP


@dataclass
class CaptionTable:
    """Every distinct caption, tokenised once.

    `rows_CK` (clips, K) is the caption of each stored frame; -1 where it has none. `counts_C`: how many frames a clip has.
    """

    texts: Strings
    tokens: Tokens
    rows_CK: np.ndarray
    counts_C: np.ndarray
    clip_ids: Strings | Sequence[str]
    num_frames: int
    augment: Augmentation

    def rows(self, clips: np.ndarray, epoch: int | None = None) -> np.ndarray:
        """(B, T) the captions of the frames that are read of these clips; -1 for a frame without one, and for padding."""
        rows_BT = np.full((len(clips), self.num_frames), -1, np.int64)
        for place, clip in enumerate(clips):
            frames = self.augment.frames(self.clip_ids[int(clip)], epoch, int(self.counts_C[clip]), self.num_frames)
            rows_BT[place, : len(frames)] = self.rows_CK[clip, frames]
        return rows_BT

    def encode(self, model: VideoCLIP, clips: np.ndarray, epoch: int | None = None) -> Captions:
        """Features (B, T, E) of the captions of these clips' frames, 0 for a frame without one, and which have one (B, T)."""
        rows_BT = self.rows(clips, epoch)
        captioned_BT = torch.from_numpy(rows_BT >= 0).to(model.backbone.device)
        return encode_rows(model, self.tokens, rows_BT), captioned_BT


def caption_table(
    source: PairSource,
    model: VideoCLIP,
    num_frames: int,
    augment: Augmentation = NO_AUGMENTATION,
    text_length: int | None = None,
    store: TokenStore | None = None,
    name: str = "captions",
) -> CaptionTable:
    """The captions of the stored frames, of which training reads `num_frames` per clip, those that `augment` draws.

    `text_length`: number of tokens to which captions are cut; None: the model's own. `store`: keeps the tokens under `name`;
    None: in memory. Raises M2raapError where no frame of the source has a caption, which is when the recipe lacks the stage
    `caption`.
    """
    if not isinstance(source, CaptionedSource):
        raise M2raapError(
            "adapt.acg, adapt.loss.frame_caption and adapt.interaction caption_guided_mug need captions of frames, which this "
            "source cannot have: leave them out"
        )
    columns = source.caption_columns()
    if not len(columns.texts):
        raise M2raapError(
            "adapt.acg, adapt.loss.frame_caption and adapt.interaction caption_guided_mug need auxiliary captions, and no frame "
            "has one: run the stage 'caption' before adapt"
        )
    number_M, texts = columns.texts.distinct()
    counts_C = source.num_frames_C
    rows_CK = np.full((source.num_clips, int(counts_C.max(initial=0))), -1, np.int32)
    rows_CK[columns.clip_M, columns.frame_M] = number_M
    tokens = tokens_of(model.backbone.tokenizer, texts, text_length, store, name)
    return CaptionTable(texts, tokens, rows_CK, counts_C, source.clip_ids, num_frames, augment)


def caption_keep(count: int, share: float, seed: int, step: int) -> Tensor:
    """(count,) bool: False for a random `share` (0..1) of a step's clips.

    ACG and the interaction do not read the captions of those clips, so that they also learn to weight clips without captions.
    """
    return torch.from_numpy(np.random.default_rng([seed, 4, step]).random(count) >= share)
