"""The vision towers of open_clip: its own transformers, timm trunks, and towers whose layers cannot be read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.models.vision import VisionTower


class OpenClipVit(VisionTower):
    """open_clip's own vision transformer with a class token."""

    has_class = True

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        self.num_layers = len(visual.transformer.resblocks)
        self.width = visual.positional_embedding.shape[1]
        self.num_patches = visual.positional_embedding.shape[0] - 1
        self.embed_dim = visual.proj.shape[1]
        self.heads = visual.transformer.resblocks[0].attn.num_heads

    @staticmethod
    def fits(visual: Any) -> bool:
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
        plain = blocks is not None and all(
            hasattr(b, "ln_1") and isinstance(b.attn, nn.MultiheadAttention) for b in blocks
        )
        return bool(plain and visual.pool_type == "tok" and visual.attn_pool is None and visual.transformer.batch_first)

    @property
    def blocks(self) -> list[Any]:
        return list(self.visual.transformer.resblocks)

    def embed(self, images_NCHW: Tensor) -> Tensor:
        return self.visual._embeds(images_NCHW)

    def project(self, first: Tensor) -> Tensor:
        return self.visual.ln_post(first) @ self.visual.proj

    def attend(self, block: Any, x_NSD: Tensor) -> Tensor:
        normed = block.ln_1(x_NSD)
        return block.ls_1(block.attn(normed, normed, normed, need_weights=False)[0])

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        return block.ls_2(block.mlp(block.ln_2(x)))

    def class_token(self) -> Tensor:
        return self.visual.class_embedding

    def positions(self) -> Tensor:
        return self.visual.positional_embedding

    def tail(self) -> list[nn.Module | nn.Parameter]:
        return [self.visual.ln_post, self.visual.proj]


class TimmVit(VisionTower):
    """A timm trunk in open_clip: SigLIP and SigLIP2 (no class token, attention pooling), EVA (rotary positions), DINO-like.

    PE-Core has a class token, rotary positions and attention pooling over all tokens, whose vector is projected.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        trunk = visual.trunk
        self.num_layers, self.width = len(trunk.blocks), trunk.embed_dim
        self.num_prefix = trunk.num_prefix_tokens
        self.num_patches = trunk.patch_embed.num_patches
        self.heads = trunk.blocks[0].attn.num_heads
        self.projects_class = trunk.cls_token is not None and trunk.attn_pool is None and trunk.global_pool == "token"
        with torch.no_grad():
            probe = self.project(torch.zeros(1, self.width, device=next(visual.parameters()).device))
        self.embed_dim = probe.shape[-1]

    @staticmethod
    def fits(visual: Any) -> bool:
        trunk = getattr(visual, "trunk", None)
        blocks = getattr(trunk, "blocks", None)
        known = blocks is not None and all(type(b).__name__ in ("Block", "EvaBlock") for b in blocks)
        return bool(
            known
            and hasattr(trunk, "_pos_embed")
            and not getattr(trunk, "rope_mixed", False)
            and not getattr(trunk, "dynamic_img_size", False)
        )

    @property
    def blocks(self) -> list[Any]:
        return list(self.visual.trunk.blocks)

    def embed(self, images_NCHW: Tensor) -> Tensor:
        trunk = self.visual.trunk
        embedded = trunk._pos_embed(trunk.patch_embed(images_NCHW))
        return trunk.norm_pre(embedded[0] if isinstance(embedded, tuple) else embedded)

    def _rope(self) -> dict[str, Tensor]:
        """The rotary embedding, which EVA's blocks take as an argument."""
        rope = getattr(self.visual.trunk, "rope", None)
        if rope is None:
            return {}
        grid = {} if hasattr(rope, "feat_shape") else {"shape": self.visual.trunk.patch_embed.grid_size}
        return {"rope": rope.get_embed(**grid)}

    def run(self, index: int, tokens_NSD: Tensor) -> Tensor:
        return self.blocks[index](tokens_NSD, **self._rope())

    def layer_output(self, tokens_NSD: Tensor, last: bool) -> Tensor:
        trunk, patches = self.visual.trunk, tokens_NSD[:, self.num_prefix :]
        if last and not self.projects_class:
            first = trunk.fc_norm(trunk.pool(trunk.norm(tokens_NSD)))[:, None]
        elif trunk.cls_token is not None:
            first = tokens_NSD[:, :1]
        else:
            first = patches.mean(1, keepdim=True)
        if first.shape[-1] != self.width:
            raise M2raapError(
                "the pooling of this timm tower changes the width of the tokens, which is not supported: take another backbone"
            )
        return torch.cat([first, patches], 1)

    def project(self, first: Tensor) -> Tensor:
        trunk = self.visual.trunk
        if self.projects_class:
            first = trunk.fc_norm(trunk.norm(first))
        return self.visual.head(trunk.head(trunk.head_drop(first)))

    def branch_block(self, index: int) -> nn.Module:
        block: Any = super().branch_block(index)
        if hasattr(block.attn, "num_prefix_tokens"):
            block.attn.num_prefix_tokens = 1  # the branch runs [CLS ; patches], without registers
        return block

    def attend(self, block: Any, x_NSD: Tensor) -> Tensor:
        mixed = block.attn(block.norm1(x_NSD), **self._rope())
        return _scaled(block, "ls1", "gamma_1", mixed)

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        return _scaled(block, "ls2", "gamma_2", block.mlp(block.norm2(x)))

    def class_token(self) -> Tensor:
        trunk = self.visual.trunk
        return trunk.cls_token[0, 0] if trunk.cls_token is not None else super().class_token()

    def positions(self) -> Tensor:
        trunk = self.visual.trunk
        if trunk.pos_embed is None:
            return super().positions()
        known = trunk.pos_embed[0]
        first = known[:1] if len(known) > self.num_patches else torch.zeros_like(known[:1])
        return torch.cat([first, known[len(known) - self.num_patches :]])

    def tail(self) -> list[nn.Module | nn.Parameter]:
        trunk = self.visual.trunk
        modules = [trunk.norm, trunk.fc_norm, trunk.head, self.visual.head, trunk.attn_pool]
        return [module for module in modules if module is not None]


def _scaled(block: Any, layer_scale: str, gamma: str, added: Tensor) -> Tensor:
    """timm's Block scales by a module, EvaBlock by a parameter that may be absent."""
    if hasattr(block, layer_scale):
        return getattr(block, layer_scale)(added)
    scale = getattr(block, gamma, None)
    return added if scale is None else scale * added


class WholeTower(VisionTower):
    """A tower whose layers cannot be read (ResNet, CoCa, ConvNeXt ...): it gives one vector per image.

    Its only layer is the identity, and its only token is the projected feature.
    """

    layered = False
    num_layers = 1
    num_patches = 0
    heads = 1

    def __init__(self, visual: nn.Module, embed_dim: int) -> None:
        super().__init__(visual)
        self.width = self.embed_dim = embed_dim
        self.why_not_layered = f"{type(visual).__name__} gives no layer tokens"

    @property
    def blocks(self) -> list[Any]:
        return [nn.Identity()]

    def embed(self, images_NCHW: Tensor) -> Tensor:
        features = self.visual(images_NCHW)
        return (features[0] if isinstance(features, tuple) else features)[:, None]

    def project(self, first: Tensor) -> Tensor:
        return first

    def tail(self) -> list[nn.Module | nn.Parameter]:
        return []


def open_clip_tower(clip: Any, embed_dim: int) -> VisionTower:
    """The view that fits the vision tower of an open_clip model."""
    visual = clip.visual
    if OpenClipVit.fits(visual):
        return OpenClipVit(visual)
    if TimmVit.fits(visual):
        return TimmVit(visual)
    return WholeTower(visual, embed_dim)
