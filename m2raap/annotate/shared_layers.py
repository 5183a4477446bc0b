"""The layers that all labels share: a layer over frames, a pooling, a context gate.

B clips, K frames, E size of a frame vector, H size of the vector that the heads read.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.annotate.config import FitConfig
from m2raap.annotate.pooling import make_pooling


class ContextGate(nn.Module):
    """x * sigmoid(W x + b): which features count where others are present (Miech et al. 2017, arXiv 1706.06905). It begins
    open for all alike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 2.0)

    def forward(self, x_H: Tensor) -> Tensor:
        return x_H * torch.sigmoid(self.gate(x_H))


class SharedLayers(nn.Module):
    """Frame vectors (B, K, E), mask (B, K) -> (B, H)."""

    def __init__(self, dim: int, cfg: FitConfig) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
            self._make(dim, cfg)

    def _make(self, dim: int, cfg: FitConfig) -> None:
        self.kind = cfg.frame_layer
        self.size = dim if self.kind == "none" else cfg.hidden
        self.linear = nn.Linear(dim, self.size) if self.kind != "none" else None
        self.frame_gate = ContextGate(self.size) if self.kind == "gate" else None
        self.inner = nn.Linear(self.size, self.size) if self.kind == "residual" else None
        self.pooling = make_pooling(cfg.pooling, self.size)
        self.gate = ContextGate(self.size) if cfg.context_gate else nn.Identity()

    def forward(self, x_BKE: Tensor, mask_BK: Tensor) -> Tensor:
        x = x_BKE * x_BKE.shape[-1] ** 0.5  # of a unit vector: numbers of size 1
        if self.linear is not None:
            x = F.relu(self.linear(x))
        if self.frame_gate is not None:
            x = self.frame_gate(x)
        if self.inner is not None:
            x = x + F.relu(self.inner(x))
        return self.gate(self.pooling(x, mask_BK))
