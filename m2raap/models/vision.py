"""Vision towers, run step by step: patch embedding, one layer after the other, projection. No transformer is copied.

A tower is a view of a module of open_clip, timm or transformers, which keeps the weights. Inside a tower the tokens are
those of the library (N, S, D); `layer_output` gives [CLS ; patches] (N, 1 + P, D) for every tower. A tower without a class
token has the mean of the patches in its place, and a tower that projects another vector than its class token has that pooled
vector there after the last layer, so that the token that is projected comes first. That is ours: STAN's branch starts from
the class token (PE-Core) or the mean patch (SigLIP), and is added to the pooled vector.
N images, S tokens of the library, P patches, D width, E size of the common space.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class VisionTower:
    """The interface of all towers. Without `layered`, modules that read layers (`stan`, `adapter`, `message`) are refused."""

    layered = True
    num_layers: int
    width: int
    embed_dim: int
    num_patches: int
    num_prefix = 1  # class token and registers before the patches, in the tokens of the library
    heads: int
    why_not_layered = ""
    has_class = False  # whether a class token is projected: the patches of the last layer then are of the same kind

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    @property
    def blocks(self) -> list[Any]:
        raise NotImplementedError  # abstract

    def embed(self, images_NCHW: Tensor) -> Tensor:
        """Tokens (N, S, D) that enter the first layer."""
        raise NotImplementedError  # abstract

    def run(self, index: int, tokens_NSD: Tensor) -> Tensor:
        """Runs layer `index` (from 0) on tokens (N, S, D)."""
        return self.blocks[index](tokens_NSD)

    def layer_output(self, tokens_NSD: Tensor, last: bool) -> Tensor:
        """[CLS ; patches] (N, 1 + P, D) of the tokens that a layer gave; `last`: that was the last layer."""
        return tokens_NSD

    def project(self, first: Tensor) -> Tensor:
        """The first token of the last layer's output to the common space: (..., D) -> (..., E), not a unit vector."""
        raise NotImplementedError  # abstract

    def branch_block(self, index: int) -> nn.Module:
        """A copy of a layer, to be run on [CLS ; patches] by `attend` and `feed_forward`."""
        return copy.deepcopy(self.blocks[index]).requires_grad_(True)

    def attend(self, block: Any, x_NSD: Tensor) -> Tensor:
        """The output (N, S, D) of the attention of a layer, before it is added to x."""
        raise NotImplementedError  # abstract

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        """The output (..., D) of the feed-forward part of a layer, before it is added to x."""
        raise NotImplementedError  # abstract

    def class_token(self) -> Tensor:
        """The learnt class token (D,); zeros where the tower has none."""
        return torch.zeros(self.width, device=next(self.visual.parameters()).device)

    def positions(self) -> Tensor:
        """Learnt positions of [CLS ; patches] (1 + P, D); zeros where the tower has none (rotary)."""
        return torch.zeros(1 + self.num_patches, self.width, device=next(self.visual.parameters()).device)

    def tail(self) -> list[nn.Module | nn.Parameter]:
        """Norms and projections after the last layer, which learn together with the last layers."""
        raise NotImplementedError  # abstract
