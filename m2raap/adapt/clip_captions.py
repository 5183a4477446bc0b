"""Clips against the captions of their frames: a contrastive loss, and its gradient at the video vector.

B clips, T frames, M clips that have a caption, E size of the common space.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2raap.models.losses import cosine_logits, info_nce


def captioned_clips(caption_BT: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """The clips (M,) that have a caption, and their twins (M, M): clips whose captions are the same, in whatever order.

    `caption_BT`: number of the caption of every frame, -1 without one.
    """
    clips = np.flatnonzero((caption_BT >= 0).any(1))
    captions = [tuple(sorted(row[row >= 0].tolist())) for row in caption_BT[clips]]
    numbers: dict[tuple[int, ...], int] = {}
    number_M = np.array([numbers.setdefault(caption, len(numbers)) for caption in captions], np.int64)
    clip_M, number_M = (torch.from_numpy(array).to(device, non_blocking=True) for array in (clips, number_M))
    return clip_M, number_M[:, None] == number_M[None]


def caption_vectors(caption_BTE: Tensor) -> Tensor:
    """Unit vectors (B, E): the mean of the captions of the frames of a clip; 0 for a clip without any."""
    return F.normalize(caption_BTE.float().sum(1), dim=-1)


def clip_caption_loss(video_BE: Tensor, caption_BTE: Tensor, caption_BT: np.ndarray, scale: Tensor | float) -> Tensor:
    """InfoNCE (B,) of the clips that have a caption with the mean of their captions; its mean over the batch is that over them.

    `caption_BTE`: vectors of captions, 0 for a frame without one. 0 for the other clips, and where no clip has a caption.
    """
    clip_M, twins_MM = captioned_clips(caption_BT, video_BE.device)
    if not len(clip_M):
        return video_BE.sum(1) * 0.0
    loss_M = info_nce(cosine_logits(video_BE[clip_M], caption_vectors(caption_BTE)[clip_M], scale), twins_MM)
    return rows_of_batch(loss_M, clip_M, len(video_BE))


def rows_of_batch(loss_M: Tensor, clip_M: Tensor, num_clips: int) -> Tensor:
    """(B,) the losses at their places in the batch, 0 elsewhere, scaled so that the mean over the batch is theirs."""
    return loss_M.new_zeros(num_clips).index_add(0, clip_M, loss_M * (num_clips / len(clip_M)))
