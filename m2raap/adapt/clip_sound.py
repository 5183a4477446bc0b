"""Clips against their sound: a contrastive loss, by a small tower that leaves after training.

It is the video-audio loss of VATT (Akbari et al. 2021, arXiv 2104.11178), in which every pair is right by itself. B clips, M of
them with sound, S segments, F bands, E size of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from m2raap.adapt.clip_captions import rows_of_batch
from m2raap.adapt.modalities import Modalities
from m2raap.models.losses import cosine_logits, info_nce


@dataclass(frozen=True)
class BatchSound:
    """The sound (M, S, F) of the clips of a batch that have some, and their places (M,) in it."""

    clip_M: np.ndarray
    db_MSF: Tensor

    @classmethod
    def read(cls, modalities: Modalities, clips: np.ndarray) -> BatchSound:
        clip_M = np.flatnonzero(modalities.present("sound", clips))
        return cls(clip_M, modalities.batch("sound", clips[clip_M]))

    def encode(self, tower: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
        """The places (M,) and the unit vectors (M, E), in fp32."""
        with torch.autocast(device.type, enabled=False):
            vector_ME = tower(self.db_MSF.to(device, non_blocking=True))
        return torch.from_numpy(self.clip_M).to(device, non_blocking=True), vector_ME


def clip_sound_loss(video_BE: Tensor, clip_M: Tensor, sound_ME: Tensor, scale: Tensor | float) -> Tensor:
    """InfoNCE (B,) of the clips with their sound; its mean over the batch is that over the clips that have some.

    0 for the other clips, and where no clip has sound.
    """
    if not len(clip_M):
        return video_BE.sum(1) * 0.0
    alone_MM = torch.eye(len(clip_M), dtype=torch.bool, device=clip_M.device)
    loss_M = info_nce(cosine_logits(video_BE[clip_M], sound_ME, scale), alone_MM)
    return rows_of_batch(loss_M, clip_M, len(video_BE))
