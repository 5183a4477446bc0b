"""Auxiliary-caption-guided (ACG) enhancement without the query: weights over the frames of a clip, from their captions.

The formula of M2-RAAP (SIGIR 2024) is not published. The paper says in words: frames that are consistent with
their captions and with each other get more weight, others less, and a frame-caption contrastive loss keeps the image-text
knowledge. Its Figure 1 gives ACG the text, too (m2raap.models.interaction.caption_guided); here a clip has one vector, which
can be indexed. THIS IS OUR DESIGN, not the paper's:

    inter_i = <v_i, c_i>                            frame with its own caption
    intra_i = mean over j != i of <v_i, v_j>        frame with the other frames
    words_i = mean over j != i of <c_i, c_j>        caption with the other captions
    w = softmax over i of (a inter_i + b intra_i + c words_i) / tau
    v = unit( sum over i of w_i (v_i + beta c_i) )

a, b, c and beta are learnt and start at 0, so that a new model equals mean pooling. A frame without a caption takes the
mean of the terms of frames with one; a clip without captions has the `intra` term alone, so that one model serves both.
B videos, T frames, E size of the common space.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.models.config import AcgConfig
from m2raap.models.shared_rows import SharedRows, every_row

Captions = tuple[Tensor, Tensor]  # unit caption features (B, T, E); bool (B, T): which frames have a caption


class Acg(nn.Module):
    """From frame vectors and the features of their captions to one unit vector per clip."""

    def __init__(self, cfg: AcgConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.inter_gate = nn.Parameter(torch.zeros(()))
        self.intra_gate = nn.Parameter(torch.zeros(()))
        self.words_gate = nn.Parameter(torch.zeros(()))
        if cfg.mix:
            self.mix_gate = nn.Parameter(torch.zeros(()))

    def forward(self, frames_BTE: Tensor, mask_BT: Tensor, captions: Captions | None) -> Tensor:
        """Unit video vectors (B, E). frames_BTE need not be unit vectors. The captions get no gradient."""
        if captions is not None:  # the loss would match the text of a clip with its captions, and no frame be looked at
            captions = (captions[0].detach(), captions[1])
        unit_BTE = F.normalize(frames_BTE, dim=-1)
        weight_BT = self.weights(unit_BTE, mask_BT, captions)
        if captions is not None and self.cfg.mix:
            caption_BTE, captioned_BT = captions
            unit_BTE = unit_BTE + self.mix_gate * caption_BTE * captioned_BT[..., None]
        return F.normalize((weight_BT[..., None] * unit_BTE).sum(1), dim=-1)

    def weights(self, unit_BTE: Tensor, mask_BT: Tensor, captions: Captions | None) -> Tensor:
        """Weight of each frame (B, T); the weights of a clip sum to 1, and padding has weight 0."""
        score_BT = self.intra_gate * agreement(unit_BTE, mask_BT)
        if captions is not None:
            caption_BTE, captioned_BT = captions
            captioned_BT = captioned_BT & mask_BT
            inter_BT = fill_missing((unit_BTE * caption_BTE).sum(-1), captioned_BT)
            words_BT = fill_missing(agreement(caption_BTE, captioned_BT), captioned_BT)
            score_BT = score_BT + self.inter_gate * inter_BT + self.words_gate * words_BT
        return (score_BT / self.cfg.tau).masked_fill(~mask_BT, float("-inf")).softmax(-1)

    def gates(self) -> dict[str, float | Tensor]:
        """The gates by name, for the log. With all of them at 0 the model equals mean pooling."""
        return {name: p.detach() for name, p in self.named_parameters()}


def agreement(unit_BTE: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean cosine (B, T) of each vector with the other frames of its clip, without padding; 0 where a clip has one frame."""
    present_BT = mask_BT.to(unit_BTE.dtype)
    similar_BTT = (unit_BTE @ unit_BTE.transpose(1, 2)) * present_BT[:, None, :]
    itself_BT = torch.diagonal(similar_BTT, dim1=1, dim2=2)
    return (similar_BTT.sum(-1) - itself_BT) / (present_BT.sum(1, keepdim=True) - present_BT).clamp(min=1)


def fill_missing(values_T: Tensor, captioned_T: Tensor) -> Tensor:
    """Values (..., T) of frames without a caption become the mean of the others of the clip, or 0 where no frame has a caption.

    So a missing caption neither raises nor lowers the weight of its frame. captioned_T broadcasts to the values.
    """
    count = captioned_T.sum(-1, keepdim=True)
    mean = (values_T * captioned_T).sum(-1, keepdim=True) / count.clamp(min=1)
    return torch.where(captioned_T, values_T, mean.expand_as(values_T))


def frame_caption_loss(
    frames_BTE: Tensor,
    caption_BTE: Tensor,
    caption_BT: np.ndarray,
    scale: Tensor | float,
    shared_rows: SharedRows = every_row,
) -> Tensor:
    """Symmetric InfoNCE over the frame-caption pairs of the batch: the image-text task that the backbone came with.

    A loss for every clip (B,), whose mean is the mean over all pairs. `caption_BT`, on the CPU so that nobody waits for the
    device: which caption a frame has, a number that equal captions share; -1 for a frame without one, and for padding.

    Left out of the negatives are the other frames and captions of the same clip, and equal captions, because captioners
    repeat themselves. 0 where no frame of the batch has a caption. The losses of the pairs, in both directions, are the rows
    that `shared_rows` shares among processes.
    """
    clips, places = np.nonzero(caption_BT >= 0)
    if not len(clips):
        return frames_BTE.sum((1, 2)) * 0.0
    device, count, every = frames_BTE.device, len(clips), slice(0, len(clips))
    numbers = torch.from_numpy(np.stack([clips, places, caption_BT[clips, places]]))
    clip_N, place_N, text_N = numbers.to(device, non_blocking=True)
    pair_N = torch.arange(count, device=device)
    with torch.autocast(device.type, enabled=False):
        image_NE = F.normalize(frames_BTE[clip_N, place_N].float(), dim=-1)
        caption_NE = caption_BTE[clip_N, place_N].float()

        def logits(images: slice, captions: slice) -> Tensor:
            """Those of these images with these captions; -inf for pairs that are no negatives."""
            part = scale * image_NE[images] @ caption_NE[captions].T
            left_out = clip_N[images, None] == clip_N[None, captions]
            left_out = left_out | (text_N[images, None] == text_N[None, captions])
            return part.masked_fill(left_out & (pair_N[images, None] != pair_N[None, captions]), float("-inf"))

        def losses(part: slice) -> Tensor:
            """InfoNCE of the pairs of a slice, the sum of both directions."""
            to_captions = logits(part, every)
            to_images = (to_captions if part == every else logits(every, part)).T
            rows, columns = (F.cross_entropy(both, pair_N[part], reduction="none") for both in (to_captions, to_images))
            return rows + columns

        both_N = shared_rows(count, losses)
    num_clips = len(caption_BT)
    return both_N.new_zeros(num_clips).index_add(0, clip_N, num_clips / count * both_N / 2)
