"""From the frame vectors of a clip to one vector.

B clips, K frames, E size of a vector. `mask_BK` is False for padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MeanPooling(nn.Module):
    """The mean of the frames."""

    def forward(self, x_BKE: Tensor, mask_BK: Tensor) -> Tensor:
        mask = mask_BK[..., None].to(x_BKE.dtype)
        return (x_BKE * mask).sum(1) / mask.sum(1).clamp(min=1)


class SwapPooling(nn.Module):
    """Self-weighted average pooling: v = sum_j x_j |x_j| / sum_j |x_j|, for each feature by itself.

    From the patent of 'Large-Scale Training Framework for Video Annotation' (KDD 2019), US 11,295,171.
    """

    def forward(self, x_BKE: Tensor, mask_BK: Tensor) -> Tensor:
        size_BKE = x_BKE.abs() * mask_BK[..., None]
        return (x_BKE * size_BKE).sum(1) / size_BKE.sum(1).clamp(min=1e-9)


class AttentionPooling(nn.Module):
    """The mean of the frames weighted by a softmax over a learnt score of each; it begins as the plain mean."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, x_BKE: Tensor, mask_BK: Tensor) -> Tensor:
        score_BK = self.score(x_BKE)[..., 0].masked_fill(~mask_BK, -torch.inf)
        return torch.einsum("bk,bke->be", score_BK.softmax(1), x_BKE)


def make_pooling(name: str, dim: int) -> nn.Module:
    """mean, swap or attention."""
    return {"mean": MeanPooling, "swap": SwapPooling}[name]() if name != "attention" else AttentionPooling(dim)
