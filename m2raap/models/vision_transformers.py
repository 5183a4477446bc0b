"""The vision towers of transformers: AltCLIP, Chinese-CLIP, MetaCLIP 2, SigLIP2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from m2raap.models.vision import VisionTower


class TransformersVit(VisionTower):
    """The vision model of a transformers CLIP family.

    AltCLIP, Chinese-CLIP and MetaCLIP 2 have a class token; SigLIP and SigLIP2 have none.
    """

    def __init__(self, model: Any, image_size: int) -> None:
        super().__init__(model.vision_model)
        self.model = model
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

    def layer_output(self, tokens_NSD: Tensor, last: bool) -> Tensor:
        if self.has_class:
            return tokens_NSD
        pooled = self.visual.head(self.visual.post_layernorm(tokens_NSD)) if last else tokens_NSD.mean(1)
        return torch.cat([pooled[:, None], tokens_NSD], 1)

    def project(self, first: Tensor) -> Tensor:
        if self.has_class:
            first = self.visual.post_layernorm(first)
        projection = getattr(self.model, "visual_projection", None)
        return first if projection is None else projection(first)

    def attend(self, block: Any, x_NSD: Tensor) -> Tensor:
        return block.self_attn(hidden_states=block.layer_norm1(x_NSD), attention_mask=None)[0]

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
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
        modules = [self.visual.post_layernorm, getattr(self.visual, "head", None)]
        modules.append(getattr(self.model, "visual_projection", None))
        return [module for module in modules if module is not None]
