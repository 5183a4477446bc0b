"""An adapted model without training, and a benchmark of drawn frames for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_data_stage
from m2raap.core.view import View
from m2raap.models.config import AcgConfig, AnyTemporal, BackboneConfig, StanConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from tests.stages.pictures import COLOURS, DrawnConfig, DrawnFrames

CHINESE = {"red": "红色", "blue": "蓝色", "green": "绿色", "yellow": "黄色"}


def disturbed(cfg: BackboneConfig, temporal: AnyTemporal, acg: AcgConfig | None = None, by: float = 0.05) -> VideoCLIP:
    """Changes every weight of the new modules and of the towers a little, as training would."""
    model = VideoCLIP(load_backbone(cfg), temporal, acg)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if name != "backbone.clip.logit_scale":
                p.add_(torch.randn(p.shape, generator=draw) * by * (0.1 if name.startswith("backbone") else 1.0))
    return model


def save_adapted(folder: Path, cfg: BackboneConfig | None = None, temporal: AnyTemporal | None = None) -> Path:
    """A model folder as adapt writes it."""
    cfg = cfg or BackboneConfig()
    model = disturbed(cfg, temporal or StanConfig(layers=2), AcgConfig())
    adapt: dict[str, Any] = {
        "backbone": cfg.model_dump(mode="json"), "langs": ["en", "zh"], "batch_size": 8, "num_frames": 3,
    }  # fmt: skip
    model.save(folder, {"adapt": adapt, "steps": 5, "kept_step": 5})
    return folder


def drawn_benchmark(folder: Path, num: int = 3, num_parts: int = 1) -> View:
    """Four clips, one a colour, with `num` frames each and a text in both languages."""
    clips = [{"clip_id": colour, "video": f"{colour}.mp4", "split": "test"} for colour in COLOURS]
    texts = [
        {"text_id": f"{colour}.{lang}", "clip_id": colour, "lang": lang, "text": text, "origin": "raw", "active": True}
        for colour in COLOURS
        for lang, text in (("en", f"a {colour} circle"), ("zh", f"一个{CHINESE[colour]}圆形"))
    ]
    write_corpus(folder / "bench", clips, texts, video_root=folder, source={}, benchmark="custom", num_parts=num_parts)
    view, frames = View(folder / "bench"), folder / "keyframes"
    stage = DrawnFrames(DrawnConfig(colours={colour: colour for colour in COLOURS}, num=num, k=num))
    assert run_data_stage(stage, view, frames, LocalEngine(1))
    return view.over(frames)
