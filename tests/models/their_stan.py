"""VITCLIPPretrained_STAN and CLIPTextPretrained of farewellthree/STAN @ c9dc7b6 (Apache-2.0), with their names and arithmetic,
on transformers' CLIP: what a released checkpoint is the state of. Without mmaction, mmcv and einops; drop paths left out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention


class Layer(nn.Module):
    """CLIPLayer_Spatial, CLIPLayer_AttnTime: what has weights."""

    def __init__(self, config: Any, time: bool) -> None:
        super().__init__()
        self.self_attn: Any = CLIPAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size)
        if time:
            self.temporal_fc = nn.Linear(config.hidden_size, config.hidden_size)
        else:
            self.mlp = CLIPMLP(config)
            self.layer_norm2 = nn.LayerNorm(config.hidden_size)


class Vision(nn.Module):
    def __init__(self, clip: CLIPModel, depth: int) -> None:
        super().__init__()
        vision: Any = clip.vision_model
        self.class_embedding = vision.embeddings.class_embedding
        self.patch_embedding = vision.embeddings.patch_embedding
        self.position_embedding = vision.embeddings.position_embedding
        self.pre_layrnorm, self.post_layernorm = vision.pre_layrnorm, vision.post_layernorm
        self.layers, self.visual_projection = vision.encoder.layers, clip.visual_projection
        config, self.depth = clip.config.vision_config, depth
        self.STAN_S_layers = nn.ModuleList(Layer(config, time=False) for _ in range(depth))
        self.STAN_T_layers = nn.ModuleList(Layer(config, time=True) for _ in range(depth))
        self.STAN_time_embed = nn.Embedding(64, config.hidden_size)

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, E), not unit."""
        b, t = frames_BTCHW.shape[:2]
        x = self.patch_embedding(frames_BTCHW.flatten(0, 1)).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.position_embedding.weight
        x, x2 = self.pre_layrnorm(x), None
        for index, layer in enumerate(self.layers):
            out = layer(x, None)
            x = out if isinstance(out, Tensor) else out[0]
            k = index + self.depth - len(self.layers)
            if k >= 0:
                x2 = self.branch(x.unflatten(0, (b, t)), x2, k)
        assert x2 is not None
        cls = x[:, 0] + x2[:, 0].repeat(1, t).view(b * t, -1)
        return self.visual_projection(self.post_layernorm(cls)).unflatten(0, (b, t))

    def branch(self, x1: Tensor, x2: Tensor | None, k: int) -> Tensor:
        b, t, _, d = x1.shape
        cls, patches = x1[:, :, 0].mean(1, keepdim=True), x1[:, :, 1:]
        if x2 is None:
            patches = patches + self.position_embedding.weight[1:]
            patches = patches.transpose(1, 2) + self.STAN_time_embed.weight[:t]  # b l t d
            cls = (cls + self.class_embedding + self.position_embedding.weight[0]) / 2
            x = torch.cat([cls, patches.flatten(1, 2)], 1)
        else:
            x = x2 + torch.cat([cls, patches.transpose(1, 2).flatten(1, 2)], 1)
        time, space = self.STAN_T_layers[k], self.STAN_S_layers[k]
        rows = x[:, 1:].reshape(-1, t, d)
        mixed = time.temporal_fc(time.self_attn(hidden_states=time.layer_norm1(rows))[0])
        x = torch.cat([x[:, :1], x[:, 1:] + mixed.reshape(b, -1, d)], 1)

        by_frame = x[:, 1:].unflatten(1, (-1, t)).transpose(1, 2).flatten(0, 1)
        with_cls = torch.cat([x[:, :1].unsqueeze(1).repeat(1, t, 1, 1).reshape(b * t, 1, d), by_frame], 1)
        found = space.self_attn(hidden_states=space.layer_norm1(with_cls))[0]
        moved = found[:, 1:].unflatten(0, (b, t)).transpose(1, 2).flatten(1, 2)
        x = x + torch.cat([found[:, :1].reshape(b, t, 1, d).mean(1), moved], 1)
        return x + space.mlp(space.layer_norm2(x))


class Text(nn.Module):
    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.text_model, self.text_projection = clip.text_model, clip.text_projection


class Released(nn.Module):
    """CLIPSimilarity_split, random."""

    def __init__(self, config: CLIPConfig, depth: int) -> None:
        super().__init__()
        clip = CLIPModel(config)
        self.backbone, self.text_backbone = Vision(clip, depth), Text(clip)
        with torch.no_grad():
            draw = torch.Generator().manual_seed(0)
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=draw) * 0.1)

    def checkpoint(self) -> dict[str, Any]:
        return {"meta": {"epoch": 4}, "state_dict": copy.deepcopy(self.state_dict())}
