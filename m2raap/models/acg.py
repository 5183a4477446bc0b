"""Auxiliary-caption-guided (ACG) enhancement: weights over the frames of a clip, from what its frame captions say.

The formula of M2-RAAP (SIGIR 2024) is not published. What is known in words: inter-modal and intra-modal consistency
raise frames that agree and lower those that do not, and a frame-caption contrastive loss keeps the image-text
knowledge. THIS IS OUR DESIGN, not the paper's:

    inter_i = <v_i, c_i>                            frame with its own caption
    intra_i = mean over j != i of <v_i, v_j>        frame with the other frames
    words_i = mean over j != i of <c_i, c_j>        caption with the other captions
    w = softmax over i of (a inter_i + b intra_i + c words_i) / tau
    v = unit( sum over i of w_i (v_i + beta c_i) )

a, b, c and beta are learnt and start at 0: mean pooling, so the start is zero-shot safe. A frame without a caption takes
the mean of the others' terms; a clip without captions has the `intra` term alone, so one model serves with and without.
B videos, T frames, E size of the common space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.models.config import AcgConfig

Captions = tuple[Tensor, Tensor]  # unit caption features (B, T, E), and where there is one (B, T)


class Acg(nn.Module):
    """From frame vectors and the features of their captions to one unit vector a clip."""

    def __init__(self, cfg: AcgConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.inter_gate = nn.Parameter(torch.zeros(()))
        self.intra_gate = nn.Parameter(torch.zeros(()))
        self.words_gate = nn.Parameter(torch.zeros(()))
        if cfg.mix:
            self.mix_gate = nn.Parameter(torch.zeros(()))

    def forward(self, frames_BTE: Tensor, mask_BT: Tensor, captions: Captions | None) -> Tensor:
        """Unit video vectors (B, E). frames_BTE need not be unit vectors."""
        unit_BTE = F.normalize(frames_BTE, dim=-1)
        weight_BT = self.weights(unit_BTE, mask_BT, captions)
        if captions is not None and self.cfg.mix:
            caption_BTE, there_BT = captions
            unit_BTE = unit_BTE + self.mix_gate * caption_BTE * there_BT[..., None]
        return F.normalize((weight_BT[..., None] * unit_BTE).sum(1), dim=-1)

    def weights(self, unit_BTE: Tensor, mask_BT: Tensor, captions: Captions | None) -> Tensor:
        """How much each frame counts (B, T); they sum to 1 over the frames that are there."""
        score_BT = self.intra_gate * agreement(unit_BTE, mask_BT)
        if captions is not None:
            caption_BTE, there_BT = captions
            there_BT = there_BT & mask_BT
            inter_BT = _fill((unit_BTE * caption_BTE).sum(-1), there_BT)
            words_BT = _fill(agreement(caption_BTE, there_BT), there_BT)
            score_BT = score_BT + self.inter_gate * inter_BT + self.words_gate * words_BT
        return (score_BT / self.cfg.tau).masked_fill(~mask_BT, float("-inf")).softmax(-1)

    def gates(self) -> dict[str, float]:
        """How far it has left mean pooling, for the log."""
        return {name: float(p.detach()) for name, p in self.named_parameters()}


def agreement(unit_BTE: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean cosine (B, T) of each vector with the other frames of its clip that are no padding; 0 where there is no other."""
    present_BT = mask_BT.to(unit_BTE.dtype)
    similar_BTT = (unit_BTE @ unit_BTE.transpose(1, 2)) * present_BT[:, None, :]
    own_BT = torch.diagonal(similar_BTT, dim1=1, dim2=2)
    return (similar_BTT.sum(-1) - own_BT) / (present_BT.sum(1, keepdim=True) - present_BT).clamp(min=1)


def _fill(values_BT: Tensor, there_BT: Tensor) -> Tensor:
    """Where there is none: the mean of those that are, or 0. A missing caption neither raises nor lowers its frame."""
    count_B1 = there_BT.sum(1, keepdim=True)
    mean_B1 = (values_BT * there_BT).sum(1, keepdim=True) / count_B1.clamp(min=1)
    return torch.where(there_BT, values_BT, mean_B1.expand_as(values_BT))


def frame_caption_loss(
    frames_BTE: Tensor, captions: Captions, mask_BT: Tensor, scale: Tensor | float, texts: list[list[str]] | None = None
) -> Tensor:
    """Symmetric InfoNCE over the frame-caption pairs of the batch: the image-text task that the backbone came with.

    Other frames and captions of the same clip are no negatives; nor are captions of the same words, where `texts`
    (B lists of T) are given: captioners repeat themselves. 0 where no frame of the batch has a caption.
    """
    caption_BTE, there_BT = captions
    there_BT = there_BT & mask_BT
    if not bool(there_BT.any()):
        return frames_BTE.sum() * 0.0
    clip_N = there_BT.nonzero()[:, 0]
    with torch.autocast(frames_BTE.device.type, enabled=False):
        image_NE = F.normalize(frames_BTE[there_BT].float(), dim=-1)
        logits_NN = scale * image_NE @ caption_BTE[there_BT].float().T
    same_NN = clip_N[:, None] == clip_N[None, :]
    if texts is not None:
        numbers: dict[str, int] = {}
        flat = [numbers.setdefault(texts[b][t], len(numbers)) for b, t in there_BT.nonzero().tolist()]
        word_N = torch.tensor(flat, device=same_NN.device)
        same_NN = same_NN | (word_N[:, None] == word_N[None, :])
    same_NN.fill_diagonal_(False)
    logits_NN = logits_NN.masked_fill(same_NN, float("-inf"))
    target_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, target_N) + F.cross_entropy(logits_NN.T, target_N)) / 2
