"""Temporal modules: from the layer tokens and frame vectors of a clip to frame vectors that depend on all its frames.

Each is an nn.Module with
  layers_used: how many last vision layers it reads, or passes through,
  compact(tokens (B, T, 1+P, D)) -> (B, T, S', D): the part of a layer's output that it reads, CLS first; without weights,
  forward(levels, frame_features_BTE, mask_BT) -> (B, T, E): a compact tensor per layer, projected frame vectors (neither
    is unit); VideoCLIP pools the result,
  gates(): values that are 0 in a new module, for the log.
A module whose output passes a matrix or a gate that is 0 in a new one has, as forward, `inner`: (B, inner_size), what a clip is
  before it. It can learn while the output, and so the place of the video vectors among the texts, stays.
A module that works inside the vision blocks (m2raap.models.wrapped) has `through` as well.
B videos, T frames, P patches, D vision width, E size of the common space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from m2raap.core.config import build
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.extension import create, load
from m2raap.models.backbone import Backbone
from m2raap.models.config import (
    AdapterConfig,
    AnyTemporal,
    ExtensionTemporalConfig,
    MeanConfig,
    MessageConfig,
    SeqTransfConfig,
    StanConfig,
)
from m2raap.models.pooling import masked_mean
from m2raap.models.stan import Stan
from m2raap.models.wrapped import MessageToken, StAdapter
from m2raap.models.zero import zero_linear


class MeanPool(nn.Module):
    """Leaves the frame vectors unchanged: mean pooling, without weights and whatever the order of the frames."""

    layers_used = 1

    def __init__(self, cfg: MeanConfig, backbone: Backbone) -> None:
        super().__init__()

    def compact(self, tokens: Tensor) -> Tensor:
        return tokens[:, :, :1]

    def forward(self, levels: list[Tensor], frame_features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        return frame_features_BTE

    def gates(self) -> dict[str, float | Tensor]:
        return {}


class SeqTransf(nn.Module):
    """CLIP4Clip's seqTransf (ArrowLuo/CLIP4Clip modules/modeling.py): f + out(Transformer(f + position)), then mean.

    `out` is ours: a matrix that starts at zero, so that the start is mean pooling.
    """

    layers_used = 1

    def __init__(self, cfg: SeqTransfConfig, backbone: Backbone) -> None:
        super().__init__()
        size, text = backbone.embed_dim, backbone.text.tower
        self.inner_size = size
        blocks: Any = getattr(getattr(text, "transformer", None), "resblocks", None)
        fits = blocks is not None and len(blocks) >= cfg.layers and blocks[0].attn.embed_dim == size
        self.position = nn.Parameter(torch.randn(cfg.max_frames, size) * 0.01)
        if cfg.from_text and blocks is not None and fits:
            self.blocks: Any = nn.ModuleList(copy.deepcopy(block) for block in blocks[: cfg.layers]).requires_grad_(
                True
            )
            known = text.positional_embedding.detach()[: cfg.max_frames]
            self.position.data[: len(known)] = known
        else:
            from open_clip.transformer import ResidualAttentionBlock

            heads = max(1, size // 64)
            self.blocks = nn.ModuleList(ResidualAttentionBlock(size, heads) for _ in range(cfg.layers))
        self.out = zero_linear(size, size)

    def compact(self, tokens: Tensor) -> Tensor:
        return tokens[:, :, :1]

    def forward(self, levels: list[Tensor], frame_features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        return frame_features_BTE + self.out(self._mixed(frame_features_BTE, mask_BT))

    def inner(self, levels: list[Tensor], frame_features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """(B, E): the mean over the frames of what the blocks give, before the matrix."""
        return masked_mean(self._mixed(frame_features_BTE, mask_BT), mask_BT)

    def _mixed(self, frame_features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        num_frames = mask_BT.shape[1]
        if num_frames > len(self.position):
            raise M2raapError(
                f"seqtransf takes {len(self.position)} frames at most, this clip has {num_frames}; take fewer frames, or adapt "
                "with a larger adapt.temporal.max_frames"
            )
        x_BTE = frame_features_BTE + self.position[:num_frames]
        for block in self.blocks:
            normed = block.ln_1(x_BTE)
            mixed = block.attn(normed, normed, normed, key_padding_mask=~mask_BT, need_weights=False)[0]
            x_BTE = x_BTE + block.ls_1(mixed)
            x_BTE = x_BTE + block.ls_2(block.mlp(block.ln_2(x_BTE)))
        return x_BTE

    def gates(self) -> dict[str, float | Tensor]:
        return {"out": self.out.weight.detach().norm()}


# To add a module: a config with a `name` in models/config.py (and in the union AnyTemporal), a module here.
TEMPORAL: dict[str, Callable[[Any, Backbone], nn.Module]] = {
    "mean": MeanPool,
    "seqtransf": SeqTransf,
    "stan": Stan,
    "adapter": StAdapter,
    "message": MessageToken,
}


def build_temporal(cfg: AnyTemporal, backbone: Backbone) -> nn.Module:
    """The module that `cfg` describes, fitted to the backbone. Raises M2raapError where they do not fit."""
    if isinstance(cfg, ExtensionTemporalConfig):
        return _from_outside(cfg, backbone)
    reads_layers = isinstance(cfg, StanConfig | AdapterConfig | MessageConfig)
    if reads_layers and not backbone.vision.layered:
        raise M2raapError(
            f"adapt.temporal.name {cfg.name} reads the layers of a vision transformer, and {backbone.vision.why_not_layered}: "
            "set it to mean or seqtransf"
        )
    if reads_layers and cfg.layers > backbone.num_layers:
        raise M2raapError(
            f"adapt.temporal.layers is {cfg.layers}, and the backbone has {backbone.num_layers} vision layers: lower it"
        )
    return TEMPORAL[cfg.name](cfg, backbone)


def _from_outside(cfg: ExtensionTemporalConfig, backbone: Backbone) -> nn.Module:
    """A module outside of the package: its class is given its Config, where it has one, or else the options as a mapping."""
    key = "adapt.temporal.name"
    cls = load(cfg.name, key)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):  # a saved model may name it: nothing else is called
        raise UsageError(f"{key}: {cfg.name} is no class of torch.nn.Module")
    config = getattr(cls, "Config", None)
    options = build(config, cfg.options, "adapt.temporal.options") if config else cfg.options
    module = create(cfg.name, key, ("layers_used", "compact", "forward", "gates"), options, backbone)
    most = backbone.num_layers if backbone.vision.layered else 1
    if not 1 <= int(module.layers_used) <= most:  # type: ignore[arg-type]
        raise M2raapError(
            f"{key}: {cfg.name} reads {module.layers_used} vision layers, and the backbone gives 1 to {most}"
        )
    return module
