"""Code from outside of the package, as a user writes it into a file of their own: one of each kind that a recipe may name."""

import numpy as np
import torch
from pydantic import Field
from torch import nn

from m2raap.core.config import Config
from m2raap.curate.captioners import CaptionerConfig, Tools
from m2raap.curate.rewriters import Rewrite, RewriterConfig
from m2raap.models.config import BackboneConfig
from m2raap.models.families import load_backbone
from m2raap.models.losses import info_nce
from m2raap.models.zero import zero_linear


def word_counts(batch):
    return np.asarray([len(text.split()) for text in batch.texts])


def width(signals):
    return signals["width"]


class Changes(nn.Module):
    layers_used = 1
    zero_starts = r"out\.(weight|bias)"

    class Config(Config):
        step: int = Field(default=1, ge=1)

    def __init__(self, cfg, backbone):
        super().__init__()
        self.step = cfg.step
        self.out = zero_linear(backbone.embed_dim, backbone.embed_dim)

    def compact(self, tokens):
        return tokens[:, :, :1]

    def forward(self, levels, frame_features_BTE, mask_BT):
        before = torch.cat([frame_features_BTE[:, : self.step], frame_features_BTE[:, : -self.step]], dim=1)
        return frame_features_BTE + self.out(frame_features_BTE - before)

    def gates(self):
        return {"out": float(self.out.weight.detach().norm())}


def halved(logits_BB, twins_BB):
    return info_nce(logits_BB, twins_BB) / 2


def mean_match(similar_LT, token_mask_L, frame_mask_T):
    mask_LT = token_mask_L[..., :, None] & frame_mask_T[..., None, :]
    return (similar_LT * mask_LT).sum((-2, -1)) / mask_LT.sum((-2, -1))


class Captions:
    producer = "outside"

    def __init__(self, cfg: CaptionerConfig, tools: Tools) -> None:
        self.tools = tools

    def caption_many(self, clips, langs):
        row = {"text": "a moving shape", "score": None, "outcome": "ok", "note": "", "sent_to": None}
        return [[{"frame_index": i, "lang": "en", **row} for i, _ in enumerate(clip.jpegs)] for clip in clips]


class Shorter:
    producer, checked = "outside", False

    def __init__(self, cfg: RewriterConfig, cache) -> None:
        self.cfg = cfg

    def rewrite_many(self, clips, langs):
        rows = [[row for row in clip.raw if row["lang"] == "en"] for clip in clips]
        return [Rewrite(new=[_shorter(row) for row in of_clip]) for of_clip in rows]


def _shorter(row):
    text = "in short: " + row["text"]
    return {"lang": "en", "text": text, "origin": "rewrite", "parent_text_id": row["text_id"], "note": ""}


def tiny(cfg: BackboneConfig):
    return load_backbone(BackboneConfig(model=cfg.model))


not_callable = 3
