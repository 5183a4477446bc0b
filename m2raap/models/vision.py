"""Vision towers taken apart: embedded patches, one layer after the other, the projected feature. No transformer is forked.

A tower is a view on a module of open_clip, timm or transformers; the weights stay there. Inside a tower the tokens run as
the library has them (N, S, D); outside, every layer reads [CLS ; patches] (N, 1 + P, D). A tower without a class token
puts the mean patch in its place, and behind the last layer the pooled vector: what is projected always comes first.
That is ours: STAN's branch then starts from the mean patch and is added to the pooled vector.
N images, S tokens as they run, P patches, D width, E size of the common space.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class VisionTower:
    """What every tower answers. `layered` is False where there are no layers to read: then `stan` and its like refuse."""

    layered = True
    num_layers: int
    width: int
    embed_dim: int
    num_patches: int
    num_prefix = 1  # class token and registers before the patches, as the tokens run
    heads: int
    why_not = ""

    def __init__(self, visual: nn.Module) -> None:
        # In a tuple: a tower is no owner of the module.
        self._visual = (visual,)

    @property
    def visual(self) -> Any:
        return self._visual[0]

    @property
    def blocks(self) -> list[Any]:
        raise NotImplementedError  # abstract

    def embed(self, images_NCHW: Tensor) -> Tensor:
        """Tokens (N, S, D) that enter the first layer."""
        raise NotImplementedError  # abstract

    def run(self, index: int, tokens_NSD: Tensor) -> Tensor:
        """One layer, 0 the first."""
        return self.blocks[index](tokens_NSD)

    def outward(self, tokens_NSD: Tensor, last: bool) -> Tensor:
        """[CLS ; patches] (N, 1 + P, D) of a layer's output; `last`: of the last layer."""
        return tokens_NSD

    def project(self, first: Tensor) -> Tensor:
        """What `outward` puts first behind the last layer -> feature: (..., D) -> (..., E), not a unit vector."""
        raise NotImplementedError  # abstract

    def branch_block(self, index: int) -> nn.Module:
        """A copy of a layer that may be run on [CLS ; patches] by `attend` and `feed`."""
        return copy.deepcopy(self.blocks[index]).requires_grad_(True)

    def attend(self, block: Any, x_NSD: Tensor) -> Tensor:
        """What the attention half of a layer adds to x."""
        raise NotImplementedError  # abstract

    def feed(self, block: Any, x: Tensor) -> Tensor:
        """What the other half adds to x (..., D)."""
        raise NotImplementedError  # abstract

    def class_token(self) -> Tensor:
        """(D,); zeros where the tower has none."""
        return torch.zeros(self.width, device=next(self.visual.parameters()).device)

    def positions(self) -> Tensor:
        """Learnt positions of [CLS ; patches] (1 + P, D); zeros where the tower has none (rotary)."""
        return torch.zeros(1 + self.num_patches, self.width, device=next(self.visual.parameters()).device)

    def tail(self) -> list[nn.Module | nn.Parameter]:
        """What stands behind the last layer: it learns with the last layers."""
        raise NotImplementedError  # abstract
