"""Temporal modules that work inside the last vision blocks, which they call one by one: no transformer is copied.

`through(tokens_BTSD, mask_BT)` runs the last `layers` blocks: from the tokens that enter them to [CLS ; patches] of the last.
B videos, T frames, S = 1 + P tokens, P patches, D vision width, H heads, C width of a bottleneck, N = B T frames.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import AdapterConfig, MessageConfig
from m2raap.models.vision_open_clip import OpenClipVit
from m2raap.models.zero import zero_linear


class _Wrapped(nn.Module):
    """The base of both modules: of the output only CLS is read, and the frame vectors are the backbone's."""

    def __init__(self, layers: int, backbone: Backbone) -> None:
        super().__init__()
        self.layers_used = layers
        # In a tuple, so that the backbone's weights are not registered (and saved) a second time.
        self._backbone = (backbone,)

    def compact(self, tokens: Tensor) -> Tensor:
        return tokens[:, :, :1]

    def forward(self, levels: list[Tensor], frame_features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        return frame_features_BTE


class _Bottleneck(nn.Module):
    """A linear layer from D to C, a convolution over time per channel, and one back to D, which starts at zero; added."""

    def __init__(self, width: int, narrow: int, kernel_frames: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, narrow)
        self.conv = nn.Conv1d(narrow, narrow, kernel_frames, padding=kernel_frames // 2, groups=narrow)
        self.out = zero_linear(narrow, width)

    def forward(self, x_BTPD: Tensor, mask_BT: Tensor) -> Tensor:
        batch, frames, patches, _ = x_BTPD.shape
        narrow = self.down(x_BTPD) * mask_BT[:, :, None, None]
        by_patch = narrow.permute(0, 2, 3, 1).reshape(batch * patches, -1, frames)
        mixed = self.conv(by_patch).reshape(batch, patches, -1, frames).permute(0, 3, 1, 2)
        return x_BTPD + self.out(mixed)


class StAdapter(_Wrapped):
    """ST-Adapter (Pan et al., NeurIPS 2022, arXiv 2206.13559, eq. 3) with a (k, 1, 1) kernel; not on the CLS token."""

    def __init__(self, cfg: AdapterConfig, backbone: Backbone) -> None:
        super().__init__(cfg.layers, backbone)
        width = backbone.width
        self.adapters: Any = nn.ModuleList(
            _Bottleneck(width, cfg.width or max(1, width // 2), cfg.kernel_frames) for _ in range(cfg.layers)
        )

    def through(self, tokens_BTSD: Tensor, mask_BT: Tensor) -> Tensor:
        vision = self._backbone[0].vision
        first, prefix = vision.num_layers - self.layers_used, vision.num_prefix
        for k, adapter in enumerate(self.adapters):
            parts = [tokens_BTSD[:, :, :prefix], adapter(tokens_BTSD[:, :, prefix:], mask_BT)]
            tokens = vision.run(first + k, torch.cat(parts, 2).flatten(0, 1))
            tokens_BTSD = tokens.unflatten(0, mask_BT.shape)
        return vision.layer_output(tokens_BTSD.flatten(0, 1), last=True).unflatten(0, mask_BT.shape)

    def gates(self) -> dict[str, float | Tensor]:
        return {f"out{k}": adapter.out.weight.detach().norm() for k, adapter in enumerate(self.adapters)}


class _Message(nn.Module):
    """The messages of one block: CLS through a matrix, then self-attention among the frames of the clip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.make = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, cls_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        message_BTD = self.make(cls_BTD)
        normed = self.norm(message_BTD)
        return message_BTD + self.attn(normed, normed, normed, key_padding_mask=~mask_BT, need_weights=False)[0]


class MessageToken(_Wrapped):
    """X-CLIP's cross-frame attention (Ni et al., ECCV 2022, arXiv 2208.02816, eq. 5-8): one more key and value per frame.

    The gate is ours: with p the weight of the message, attention over tokens and message is (1 - p) old + p message in
    X-CLIP; here it is old + gate p (message - old). With gate 0 the block is unchanged, with gate 1 it is X-CLIP's.
    """

    def __init__(self, cfg: MessageConfig, backbone: Backbone) -> None:
        super().__init__(cfg.layers, backbone)
        blocks = backbone.vision.blocks[-cfg.layers :]
        if not isinstance(backbone.vision, OpenClipVit):
            raise M2raapError(
                "adapt.temporal.name message needs a vision transformer of open_clip itself: set it to adapter, stan or seqtransf"
            )
        heads = backbone.vision.heads
        self.messages: Any = nn.ModuleList(_Message(backbone.width, heads) for _ in blocks)

    def through(self, tokens_BTSD: Tensor, mask_BT: Tensor) -> Tensor:
        blocks = self._backbone[0].vision.blocks[-self.layers_used :]
        for block, message in zip(blocks, self.messages, strict=True):
            message_ND = message(tokens_BTSD[:, :, 0], mask_BT).flatten(0, 1)
            x_NSD = tokens_BTSD.flatten(0, 1)
            x_NSD = x_NSD + block.ls_1(_attend(block, x_NSD, message_ND, message.gate))
            x_NSD = x_NSD + block.ls_2(block.mlp(block.ln_2(x_NSD)))
            tokens_BTSD = x_NSD.unflatten(0, mask_BT.shape)
        return tokens_BTSD

    def gates(self) -> dict[str, float | Tensor]:
        return {f"gate{k}": message.gate.detach() for k, message in enumerate(self.messages)}


def _attend(block: Any, x_NSD: Tensor, message_ND: Tensor, gate: Tensor) -> Tensor:
    """The block's own attention over S tokens, with the message as one more key and value, whose weight the gate scales."""
    attn: nn.MultiheadAttention = block.attn
    normed = torch.cat([block.ln_1(x_NSD), block.ln_1(message_ND)[:, None]], 1)
    query, key, value = (
        part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
        for part in F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    )
    score_NHSK = query[:, :, :-1] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weight = score_NHSK.softmax(-1)
    old = score_NHSK[..., :-1].softmax(-1) @ value[:, :, :-1]
    mixed = old + gate * weight[..., -1:] * (value[:, :, -1:] - old)
    return attn.out_proj(mixed.transpose(1, 2).flatten(2))
