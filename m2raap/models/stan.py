"""STAN, the spatial-temporal branch beside the last layers of CLIP; frames exchange information by attention or convolution.

Paper arXiv 2301.11116; code farewellthree/STAN @ c9dc7b6, mmaction/models/backbones/clip_stan_hf.py. With start open and
pool raw the arithmetic is that of the code, and its released weights give its vectors. What departs from it:
- `start`: the code has open, with which a new model differs from mean pooling. With matrix, the default, the branch ends in
  a matrix of zeros, and the matrix behind each temporal attention (the code's temporal_fc, zero there) starts at random,
  because two zero factors would get no gradient. With gate it is zero as in the code.
- q, k and v of the temporal attention start as torch's MultiheadAttention does: by Xavier's rule over the three together,
  biases 0. The code has three linear layers with torch's default: weights and biases uniform within 1 / sqrt(D).
- Weight decay (m2raap.adapt.optim): norms and biases have none. In the code every weight of the branch has it, norms, biases
  and time embedding included, because its optimiser's key for the branch overrules its rules for norms and biases.
- Ours: masks for clips with fewer frames, `patch_pool`, `inputs`, `class_token: frame`, unit pooling, `across: conv` (the code
  has none).
The class and position embeddings are the backbone's, as in the code.
B videos, T frames, P patches, D width, K branch layers, C class tokens of the branch, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import StanConfig
from m2raap.models.mask import is_full
from m2raap.models.pooling import masked_mean
from m2raap.models.vision import VisionTower
from m2raap.models.zero import zero_linear

RunLayer = Callable[..., Tensor]  # (layer, its inputs) -> its output, as Backbone.run_layer


def at_once(layer: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Runs a layer and keeps what its backward pass needs."""
    return layer(*inputs)


class DropPath(nn.Module):
    """Leaves out the whole branch of a row with probability `share`, and scales the rest. Identity in eval mode."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        # Training sets a generator here, so that a resumed run draws the same.
        self.draws: Callable[[int], Tensor] = torch.rand

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0.0:
            return x
        draw = self.draws(x.shape[0]).to(x.device) >= self.share
        return x * (draw.to(x.dtype) / (1 - self.share)).reshape(-1, *[1] * (x.dim() - 1))


class TemporalBlock(nn.Module):
    """x <- x + W0 DropPath(MHSA(LN(x))) over the T frames of one patch. In STAN W0 starts at zero: the identity.

    `zero_start` is False where the branch ends in a matrix of zeros: with two zero factors neither would get a gradient.
    """

    def __init__(self, width: int, heads: int, drop_path: float, zero_start: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.out = (zero_linear if zero_start else nn.Linear)(width, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BPTD: Tensor, mask_BT: Tensor, run_layer: RunLayer = at_once) -> Tensor:
        # Without a mask attention is faster. An exported graph has to serve all masks, and cannot branch.
        full = not torch.compiler.is_exporting() and is_full(mask_BT)
        hidden = None if full else (~mask_BT).repeat_interleave(x_BPTD.shape[1], 0)
        mixed = run_layer(self._attend, x_BPTD, hidden)
        return x_BPTD + self.out(self.drop_path(mixed)).reshape(x_BPTD.shape)

    def _attend(self, x_BPTD: Tensor, hidden: Tensor | None) -> Tensor:
        normed = self.norm(x_BPTD).flatten(0, 1)
        return self.attn(normed, normed, normed, key_padding_mask=hidden, need_weights=False)[0]


class ConvBlock(nn.Module):
    """STAN's other way across time (eq. 9): 1x1 down to D/8, (3, 1, 1) convolution, GELU, 1x1 up, added.

    Written from the paper: the released code refers to it and does not define it. `out` starts at zero as above.
    """

    def __init__(self, width: int, drop_path: float, zero_start: bool) -> None:
        super().__init__()
        narrow = max(1, width // 8)
        self.down = nn.Linear(width, narrow)
        self.conv = nn.Conv1d(narrow, narrow, 3, padding=1)
        self.out = (zero_linear if zero_start else nn.Linear)(narrow, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BPTD: Tensor, mask_BT: Tensor, run_layer: RunLayer = at_once) -> Tensor:
        batch, patches, frames, _ = x_BPTD.shape
        narrow = self.down(x_BPTD) * mask_BT[:, None, :, None]  # a masked frame is zero padding, as beyond the borders
        mixed = self.conv(narrow.reshape(batch * patches, frames, -1).transpose(1, 2)).transpose(1, 2)
        return x_BPTD + self.out(self.drop_path(F.gelu(mixed))).reshape(x_BPTD.shape)


class SpatialBlock(nn.Module):
    """One vision layer over [CLS ; patches of a frame].

    The class token of a clip takes the mean of its T updates; with `frame_tokens` each frame has its own, and its own update.
    """

    def __init__(self, tower: VisionTower, index: int, drop_path: float, frame_tokens: bool) -> None:
        super().__init__()
        self.tower = tower
        self.block: Any = tower.branch_block(index)
        self.drop_path = DropPath(drop_path)
        self.frame_tokens = frame_tokens

    def forward(
        self, cls_BCD: Tensor, x_BPTD: Tensor, mask_BT: Tensor, run_layer: RunLayer = at_once
    ) -> tuple[Tensor, Tensor]:
        batch, patches, frames, width = x_BPTD.shape
        tower = self.tower
        frames_BTPD = x_BPTD.transpose(1, 2)
        u = torch.cat([cls_BCD.expand(-1, frames, -1)[:, :, None], frames_BTPD], 2)
        mixed = run_layer(tower.attend, self.block, u.reshape(batch * frames, 1 + patches, width))
        r = self.drop_path(mixed).reshape(batch, frames, 1 + patches, width)
        cls_BCD = cls_BCD + (r[:, :, 0] if self.frame_tokens else masked_mean(r[:, :, 0], mask_BT)[:, None])
        y = torch.cat([cls_BCD, (frames_BTPD + r[:, :, 1:]).flatten(1, 2)], 1)
        y = y + run_layer(tower.feed_forward, self.block, y)
        count = cls_BCD.shape[1]
        return y[:, :count], y[:, count:].reshape(batch, frames, patches, width).transpose(1, 2)


class Stan(nn.Module):
    """K pairs of temporal and spatial blocks fed by the last K vision layers, fused into the CLS of every frame."""

    def __init__(self, cfg: StanConfig, backbone: Backbone) -> None:
        super().__init__()
        self.cfg = cfg
        self.layers_used = cfg.layers
        self.inner_size = backbone.width
        # In a tuple, so that the backbone's weights are not registered (and saved) a second time.
        self._backbone = (backbone,)
        tower, width, heads = backbone.vision, backbone.width, backbone.vision.heads
        first = tower.num_layers - cfg.layers
        drops = torch.linspace(0, cfg.drop_path, cfg.layers).tolist()
        zero = cfg.start != "matrix"
        self.temporal: Any = nn.ModuleList(
            ConvBlock(width, drop, zero) if cfg.across == "conv" else TemporalBlock(width, heads, drop, zero)
            for drop in drops
        )
        self.spatial: Any = nn.ModuleList(
            SpatialBlock(tower, first + k, drop, cfg.class_token == "frame") for k, drop in enumerate(drops)
        )
        self.time = nn.Parameter(torch.randn(cfg.max_frames, width) * cfg.time_std)
        if cfg.start == "gate":
            self.gate = nn.Parameter(torch.zeros(()))
        elif cfg.start == "matrix":
            self.out = zero_linear(width, width)

    @property
    def backbone(self) -> Backbone:
        """The image-text model whose layers feed the branch."""
        return self._backbone[0]

    def compact(self, tokens: Tensor) -> Tensor:
        """(B, T, 1+P, D) -> (B, T, 1+P', D), P' = P / patch_pool^2: means of squares of patches."""
        square = self.cfg.patch_pool
        if square == 1:
            return tokens
        side = round((tokens.shape[2] - 1) ** 0.5)
        if side * side != tokens.shape[2] - 1 or side % square:
            raise M2raapError(
                f"adapt.temporal.patch_pool {square} does not divide the {side} x {side} patches of this backbone; set it to 1, "
                f"or to a divisor of {side}"
            )
        grid = tokens[:, :, 1:].flatten(0, 1).unflatten(1, (side, side)).permute(0, 3, 1, 2)
        pooled = F.avg_pool2d(grid, square).flatten(2).transpose(1, 2).unflatten(0, tokens.shape[:2])
        return torch.cat([tokens[:, :, :1], pooled], 2)

    def forward(self, levels: list[Tensor], frame_features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        cls_BCD = self.branch(levels, mask_BT)
        if self.cfg.start == "gate":
            cls_BCD = self.gate * cls_BCD
        elif self.cfg.start == "matrix":
            cls_BCD = self.out(cls_BCD)
        return self.backbone.image_feature_from_cls(levels[-1][:, :, 0] + cls_BCD)

    def inner(self, levels: list[Tensor], frame_features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """STAN_cls (B, D), before gate or matrix; of several class tokens the mean."""
        cls_BCD = self.branch(levels, mask_BT)
        return cls_BCD[:, 0] if cls_BCD.shape[1] == 1 else masked_mean(cls_BCD, mask_BT)

    def enter(self, tokens: Tensor) -> Tensor:
        """Tokens or positions (..., D) as they enter the branch: unchanged, or layer-normed."""
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.cfg.inputs == "normed" else tokens

    def branch(self, levels: list[Tensor], mask_BT: Tensor) -> Tensor:
        """STAN_cls (B, C, D), before gate or matrix. C is 1, or T with a class token for each frame."""
        assert len(levels) == self.layers_used, f"{len(levels)} layers given, {self.layers_used} expected"
        num_frames = mask_BT.shape[1]
        if num_frames > len(self.time):
            raise M2raapError(
                f"stan takes {len(self.time)} frames at most, this clip has {num_frames}; take fewer frames, or adapt with a "
                "larger adapt.temporal.max_frames"
            )
        tower = self.backbone.vision
        position_SD = self.enter(self.compact(tower.positions()[None, None])[0, 0])
        first = self.enter(levels[0])
        cls_BCD = (self._of_clip(first[:, :, 0], mask_BT) + tower.class_token() + position_SD[0]) / 2
        x_BTPD = first[:, :, 1:] + position_SD[1:] + self.time[:num_frames, None]
        x_BPTD = x_BTPD.transpose(1, 2)
        for k, level in enumerate(levels):
            if k > 0:
                entering = self.enter(level)
                cls_BCD = cls_BCD + self._of_clip(entering[:, :, 0], mask_BT)
                x_BPTD = x_BPTD + entering[:, :, 1:].transpose(1, 2)
            x_BPTD = self.temporal[k](x_BPTD, mask_BT, self.backbone.run_layer)
            cls_BCD, x_BPTD = self.spatial[k](cls_BCD, x_BPTD, mask_BT, self.backbone.run_layer)
        return cls_BCD

    def _of_clip(self, cls_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Class tokens of a layer as they enter the branch (B, C, D): their mean over the frames, or each of them."""
        return cls_BTD if self.cfg.class_token == "frame" else masked_mean(cls_BTD, mask_BT)[:, None]

    def gates(self) -> dict[str, float | Tensor]:
        """The gate and the norms of the output matrices, for the log."""
        values = {f"temporal{k}": block.out.weight.detach().norm() for k, block in enumerate(self.temporal)}
        if self.cfg.start == "gate":
            values["gate"] = self.gate.detach()
        elif self.cfg.start == "matrix":
            values["out"] = self.out.weight.detach().norm()
        return values
