"""cost: weights, FLOP and time of each arm's modules compared with mean pooling on the same backbone, and the gates
of the step that was kept.

None of it depends on the values of the weights: a backbone whose shape is known without them is initialised at random.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from m2raap.core import talk
from m2raap.core.config import canonical
from m2raap.core.engine import device
from m2raap.core.files import write_json
from m2raap.core.records import read_rows
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.pipeline.recipe import Recipe, arms_of, base_arm
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.data import ModuleRow
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.training_log import training_summary

if TYPE_CHECKING:
    import torch

    from m2raap.models.backbone import Backbone
    from m2raap.models.video_clip import VideoCLIP

FILE = "cost.json"
BATCH = 2
REPEATS = 5


def cost_of_run(run: RunFolder, threads: int) -> list[ModuleRow]:
    """The cost of every arm, with the kept gates of the trained ones. Also writes OUT/cost.json, which the report shows."""
    recipe = run.recipe
    trained = {
        base_arm(step.arm): step.folder
        for step in reversed(run.steps)
        if step.is_of(AdaptStage) and (step.folder / "manifest.json").exists()
    }
    row_of = {row.arm: row for row in cost_of_recipe(recipe, threads, trained)}
    rows = [row_of[arm] for arm in run.arms() if arm in row_of]  # in the order of the run, not of the JSON
    write_json(run.path / FILE, {"rows": [asdict(row) for row in rows]})
    return rows


def cost_of_recipe(recipe: Recipe, threads: int, trained: dict[str, Path] | None = None) -> list[ModuleRow]:
    """Parameters, FLOP and ms a clip of `encode_video`, without gradients, in fp32, on a GPU in batches that fill it, or on
    the CPU with `threads` threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _rows(recipe, threads, trained or {})
    finally:
        torch.set_num_threads(before)


def read_costs(run: Path) -> list[ModuleRow]:
    """The rows of cost.json in a run; none where `recipe show --cost` was not run on it."""
    path = run / FILE
    return read_rows(ModuleRow, path) if path.exists() else []


def _rows(recipe: Recipe, threads: int, trained: dict[str, Path]) -> list[ModuleRow]:
    from m2raap.models.video_clip import VideoCLIP

    backbones: dict[str, Backbone] = {}
    measurements: dict[str, tuple[float, float]] = {}  # arms with the same modules share one

    def measured(model: VideoCLIP, frames: int) -> tuple[float, float]:
        key = canonical([model.backbone.description, model.temporal_cfg, model.acg_cfg, frames])
        if key not in measurements:
            measurements[key] = _measured(model, frames)
        return measurements[key]

    rows = []
    arms = {arm: arm_settings for arm, arm_settings in arms_of(recipe).items() if arm == base_arm(arm)}
    with talk.progress("cost", len(arms)) as advance:
        for arm, arm_settings in arms.items():
            backbone_key = arm_settings.backbone.model_dump_json()
            if backbone_key not in backbones:
                backbones[backbone_key] = _backbone(arm_settings.backbone)
            backbone, frames, trains = backbones[backbone_key], arm_settings.adapt.num_frames, arm_settings.trains
            mean_gflop, mean_ms = measured(VideoCLIP(backbone, MeanConfig()), frames)
            model = VideoCLIP(backbone, arm_settings.adapt.temporal, arm_settings.adapt.acg) if trains else None
            gflop, ms = measured(model, frames) if model else (mean_gflop, mean_ms)
            acg = " + acg" if model and model.acg else ""
            rows.append(
                ModuleRow(
                    arm=arm,
                    module=(model.temporal_cfg.name if model else "mean") + acg,
                    frames=frames,
                    backbone_m=_million(backbone),
                    new_m=_million(model) - _million(backbone) if model else 0.0,
                    learning_m=_trained_million(model, arm_settings) if model else 0.0,
                    gflop=gflop,
                    mean_gflop=mean_gflop,
                    ms=ms,
                    mean_ms=mean_ms,
                    threads=threads,
                    device=device(),
                    gates=training_summary(trained[arm])["gates"] if arm in trained else {},
                )
            )
            advance()
    return rows


def _backbone(cfg: BackboneConfig) -> Backbone:
    from m2raap.models.families import load_backbone

    return load_backbone(cfg.model_copy(update={"pretrained": None, "random_init": True}))


def _measured(model: VideoCLIP, frames: int) -> tuple[float, float]:
    """GFLOP (a multiply-add counts as 2) and ms for one clip; the fastest of REPEATS, because other processes only add time."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from m2raap.models.batches import PICTURES_ON_GPU

    on = device()
    model.to(on)
    batch = BATCH if on == "cpu" else max(1, PICTURES_ON_GPU // frames)
    side = model.backbone.preprocess.image_size
    clips = torch.randn(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(0)).to(on)
    required_grad = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(True)  # without gradients torch takes fused kernels that the counter does not see
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.encode_video(clips[:1])
    for p, requires_grad in zip(model.parameters(), required_grad, strict=True):
        p.requires_grad_(requires_grad)
    times = []
    with torch.inference_mode():
        model.encode_video(clips)[0, 0].item()  # warm-up; .item() waits until a GPU has computed
        for _ in range(REPEATS):
            started = time.perf_counter()
            model.encode_video(clips)[0, 0].item()
            times.append((time.perf_counter() - started) / batch)
    return counter.get_total_flops() / 1e9, 1000 * min(times)


def _trained_million(model: VideoCLIP, arm_settings: Recipe) -> float:
    from m2raap.adapt.optim import choose_trained

    choose_trained(model, arm_settings.stage(AdaptStage.name).cfg)
    return sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6


def _million(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6
