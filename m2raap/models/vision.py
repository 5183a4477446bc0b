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

from m2raap.core.errors import M2raapError


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


class OpenClipVit(VisionTower):
    """open_clip's own vision transformer with a class token."""

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

    def feed(self, block: Any, x: Tensor) -> Tensor:
        return block.ls_2(block.mlp(block.ln_2(x)))

    def class_token(self) -> Tensor:
        return self.visual.class_embedding

    def positions(self) -> Tensor:
        return self.visual.positional_embedding

    def tail(self) -> list[nn.Module | nn.Parameter]:
        return [self.visual.ln_post, self.visual.proj]


class TimmVit(VisionTower):
    """A timm trunk in open_clip: SigLIP and SigLIP2 (no class token, attention pooling), EVA (rotary positions), DINO-like."""

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        trunk = visual.trunk
        self.num_layers, self.width = len(trunk.blocks), trunk.embed_dim
        self.num_prefix = trunk.num_prefix_tokens
        self.num_patches = trunk.patch_embed.num_patches
        self.heads = trunk.blocks[0].attn.num_heads
        self.has_class = trunk.cls_token is not None and trunk.attn_pool is None and trunk.global_pool == "token"
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
        found = trunk._pos_embed(trunk.patch_embed(images_NCHW))
        return trunk.norm_pre(found[0] if isinstance(found, tuple) else found)

    def _rope(self) -> dict[str, Tensor]:
        """EVA's blocks want the rotary embedding as an argument."""
        rope = getattr(self.visual.trunk, "rope", None)
        if rope is None:
            return {}
        grid = {} if hasattr(rope, "feat_shape") else {"shape": self.visual.trunk.patch_embed.grid_size}
        return {"rope": rope.get_embed(**grid)}

    def run(self, index: int, tokens_NSD: Tensor) -> Tensor:
        return self.blocks[index](tokens_NSD, **self._rope())

    def outward(self, tokens_NSD: Tensor, last: bool) -> Tensor:
        trunk, patches = self.visual.trunk, tokens_NSD[:, self.num_prefix :]
        if self.has_class:
            first = tokens_NSD[:, :1]
        elif last:
            first = trunk.fc_norm(trunk.pool(trunk.norm(tokens_NSD)))[:, None]
        else:
            first = patches.mean(1, keepdim=True)
        if first.shape[-1] != self.width:
            raise M2raapError("the pooling of this timm tower changes the width: take mean or seqtransf")
        return torch.cat([first, patches], 1)

    def project(self, first: Tensor) -> Tensor:
        trunk = self.visual.trunk
        if self.has_class:
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

    def feed(self, block: Any, x: Tensor) -> Tensor:
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
        behind = [trunk.norm, trunk.fc_norm, trunk.head, self.visual.head, trunk.attn_pool]
        return [module for module in behind if module is not None]


def _scaled(block: Any, layer_scale: str, gamma: str, added: Tensor) -> Tensor:
    """timm's Block scales by a module, EvaBlock by a parameter that may be absent."""
    if hasattr(block, layer_scale):
        return getattr(block, layer_scale)(added)
    scale = getattr(block, gamma, None)
    return added if scale is None else scale * added


class WholeTower(VisionTower):
    """A tower that gives no layer tokens (ResNet, CoCa, ConvNeXt ...): one image, one vector, in one piece.

    Its one 'layer' is nothing, and its one token is the finished feature.
    """

    layered = False
    num_layers = 1
    num_patches = 0
    heads = 1

    def __init__(self, visual: nn.Module, embed_dim: int) -> None:
        super().__init__(visual)
        self.width = self.embed_dim = embed_dim
        self.why_not = f"{type(visual).__name__} gives no layer tokens"

    @property
    def blocks(self) -> list[Any]:
        return [nn.Identity()]

    def embed(self, images_NCHW: Tensor) -> Tensor:
        found = self.visual(images_NCHW)
        return (found[0] if isinstance(found, tuple) else found)[:, None]

    def project(self, first: Tensor) -> Tensor:
        return first

    def tail(self) -> list[nn.Module | nn.Parameter]:
        return []


class TransformersVit(VisionTower):
    """The vision model of a transformers CLIP family: AltCLIP, Chinese-CLIP (class token), SigLIP, SigLIP2 (none)."""

    def __init__(self, model: Any, image_size: int) -> None:
        super().__init__(model.vision_model)
        self._whole = (model,)
        config = model.config.vision_config
        self.num_layers, self.width, self.heads = (
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
        )
        self.patch_px = config.patch_size
        self.num_patches = (image_size // self.patch_px) ** 2
        self.has_class = hasattr(self.visual.embeddings, "class_embedding")
        self.num_prefix = int(self.has_class)
        projection = getattr(model, "visual_projection", None)
        self.embed_dim = self.width if projection is None else projection.out_features
        self.flat = not isinstance(self.visual.embeddings.patch_embedding, nn.Conv2d)  # SigLIP2 NaFlex takes patches

    @property
    def blocks(self) -> list[Any]:
        return list(self.visual.encoder.layers)

    def embed(self, images_NCHW: Tensor) -> Tensor:
        if not self.flat:
            tokens = self.visual.embeddings(images_NCHW)
            return self.visual.pre_layrnorm(tokens) if hasattr(self.visual, "pre_layrnorm") else tokens
        side = images_NCHW.shape[-1] // self.patch_px
        # (N, C, h, p, w, p) -> (N, h w, p p C), the order of transformers' convert_image_to_patches.
        cut = images_NCHW.unflatten(3, (side, self.patch_px)).unflatten(2, (side, self.patch_px))
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.full((len(images_NCHW), 2), side, dtype=torch.long)
        return self.visual.embeddings(patches, shapes)

    def run(self, index: int, tokens_NSD: Tensor) -> Tensor:
        return self.blocks[index](tokens_NSD, attention_mask=None)

    def outward(self, tokens_NSD: Tensor, last: bool) -> Tensor:
        if self.has_class:
            return tokens_NSD
        pooled = self.visual.head(self.visual.post_layernorm(tokens_NSD)) if last else tokens_NSD.mean(1)
        return torch.cat([pooled[:, None], tokens_NSD], 1)

    def project(self, first: Tensor) -> Tensor:
        if self.has_class:
            first = self.visual.post_layernorm(first)
        projection = getattr(self._whole[0], "visual_projection", None)
        return first if projection is None else projection(first)

    def attend(self, block: Any, x_NSD: Tensor) -> Tensor:
        return block.self_attn(hidden_states=block.layer_norm1(x_NSD), attention_mask=None)[0]

    def feed(self, block: Any, x: Tensor) -> Tensor:
        return block.mlp(block.layer_norm2(x))

    def class_token(self) -> Tensor:
        return self.visual.embeddings.class_embedding if self.has_class else super().class_token()

    def positions(self) -> Tensor:
        known = self.visual.embeddings.position_embedding.weight
        if self.has_class:
            return known
        if len(known) != self.num_patches:
            return super().positions()
        return torch.cat([torch.zeros_like(known[:1]), known])

    def tail(self) -> list[nn.Module | nn.Parameter]:
        behind = [self.visual.post_layernorm, getattr(self.visual, "head", None)]
        behind.append(getattr(self._whole[0], "visual_projection", None))
        return [module for module in behind if module is not None]


def open_clip_tower(clip: Any, embed_dim: int) -> VisionTower:
    """The view that fits the vision tower of an open_clip model."""
    visual = clip.visual
    if OpenClipVit.fits(visual):
        return OpenClipVit(visual)
    if TimmVit.fits(visual):
        return TimmVit(visual)
    return WholeTower(visual, embed_dim)
