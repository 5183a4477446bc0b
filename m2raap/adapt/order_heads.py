"""Two matrices that read from a vector which event comes first and which second. They serve the loss and leave with it.

A video vector and a text vector go through the same two matrices, so that both have to say the order along the same
directions. B clips, E size of the common space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OrderHeads(nn.Module):
    """W_1 and W_2 (E, E), which start as the identity: then both events are read as the whole vector."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.weight_2EE = nn.Parameter(torch.eye(embed_dim).repeat(2, 1, 1))

    def forward(self, vectors_BE: Tensor) -> Tensor:
        """Unit vectors (B, 2, E): what the vectors say of the first and of the second event. In fp32."""
        with torch.autocast(vectors_BE.device.type, enabled=False):
            return F.normalize(torch.einsum("kfe,be->bkf", self.weight_2EE, vectors_BE.float()), dim=-1)
