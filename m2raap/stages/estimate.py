"""--dry-run: what a run would do and about what it costs. Rates are of two CPU cores and stated; no model is loaded.

Frames are the dear part of a data run: what they cost is measured on a small sample of the corpus's own files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2raap.core.config import digest
from m2raap.core.view import View
from m2raap.stages.asked import model_costs
from m2raap.stages.frames_cost import FramesCost, frames_cost
from m2raap.stages.keyframes import KeyframesConfig
from m2raap.stages.plan import Step
from m2raap.stages.recipe import Recipe, arms_of
from m2raap.stages.run import Inputs

# Seconds a clip and core.
SECONDS_A_CLIP = {"filter": 0.02, "align": 0.1, "caption": 0.1, "rewrite": 0.002}
GPU_FLOPS = 1.2e14  # a 300-TFLOP/s card in bf16 at 40%


def estimate(recipe: Recipe, inputs: Inputs, out: Path, steps: list[Step]) -> dict[str, Any]:
    """`lines` for people, `steps` and `adapt` for programs. Filters may drop clips, so counts are upper bounds."""
    arms = arms_of(recipe)
    counts = View(inputs.data).corpus.counts
    clips = min(counts["clips"], inputs.limit) if inputs.limit else counts["clips"]
    texts = round(counts["texts"] * clips / max(counts["clips"], 1))
    bench_clips = {name: View(path).corpus.counts["clips"] for name, path in inputs.benches.items()}
    lines = [
        f"recipe {recipe.name}: {clips} training clips, arms {', '.join(arms)}, benchmarks {bench_clips or 'none'}"
    ]
    rows, disk, minutes = [], 0.0, 0.0
    frames = _Frames(recipe, inputs)
    for folder, step in {step.folder: step for step in reversed(steps)}.items():
        done = (folder / "manifest.json").exists()
        num = bench_clips[step.bench] if step.bench else clips
        keyframes = (arms[step.arm].bench_keyframes if step.bench else None) or arms[step.arm].keyframes
        step_bytes, seconds, note = 0.0, num * SECONDS_A_CLIP.get(step.stage, 0.0), ""
        if step.stage == "keyframes" and not done:
            cost = frames.cost(step.bench, keyframes)
            step_bytes, seconds, note = num * cost.bytes_a_clip, num * cost.seconds_a_clip, f" ({cost.note})"
        row = {"folder": str(folder), "stage": step.stage, "state": "done" if done else "to do", "clips": num,
               "disk_mb": round(step_bytes / 1e6, 1), "core_minutes": round(seconds / 60, 2), "note": note}  # fmt: skip
        rows.append(row)
        if not done:
            disk, minutes = disk + step_bytes, minutes + seconds / 60
    for row in reversed(rows):
        price = f", about {row['core_minutes']} core minutes, {row['disk_mb']} MB" if row["state"] == "to do" else ""
        lines.append(f"  {row['state']:<6} {row['folder']}: at most {row['clips']} clips{price}{row['note']}")
    asked = model_costs(arms, clips, texts, {step.folder: step for step in steps if not step.bench})
    lines += [f"  {cost['line']}" for cost in asked]
    adapt = {arm: _adapt_cost(one, clips) for arm, one in arms.items() if "adapt" in one.stages}
    for arm, cost in adapt.items():
        lines.append(
            f"  {arm} trains {cost['steps']} steps of {cost['batch_size']} pairs ({cost['pairs_seen']} pairs seen); about "
            f"{cost['peta_flop']:.3g} PFLOP, {cost['gpu_hours']:.3g} h and {cost['gpu_memory_gb']:.3g} GB on a 300-TFLOP/s GPU"
        )
        if arms[arm].adapt.input == "video":
            decode_minutes = cost["pairs_seen"] * frames.cost(None, arms[arm].keyframes).seconds_a_clip / 60
            lines.append(
                f"  {arm} reads raw video: every clip is decoded anew each epoch, about {decode_minutes:.1f} core minutes in "
                "all, and frozen layers have no cache"
            )
    lines.append(
        f"in all about {minutes:.1f} core minutes of data stages and {disk / 1e6:.0f} MB of frames, under {out}"
    )
    return {
        "lines": lines,
        "steps": rows[::-1],
        "models": asked,
        "adapt": adapt,
        "plan_digest": digest([str(s.folder) for s in steps]),
    }


class _Frames:
    """Costs of frames, each sampled once."""

    def __init__(self, recipe: Recipe, inputs: Inputs) -> None:
        self._recipe, self._inputs = recipe, inputs
        self._known: dict[tuple[str | None, str], FramesCost] = {}

    def cost(self, bench: str | None, cfg: KeyframesConfig) -> FramesCost:
        """Of the training corpus (bench None) or a benchmark."""
        key = (bench, digest(cfg))
        if key not in self._known:
            view = self._inputs.bench(bench, self._recipe.langs) if bench else self._inputs.view(self._recipe.langs)
            self._known[key] = frames_cost(view, cfg)
        return self._known[key]


def _adapt_cost(recipe: Recipe, clips: int) -> dict[str, float]:
    """Arithmetic from the backbone's configuration: forward 2 FLOP a weight and token, backward twice that where it learns."""
    cfg = recipe.adapt
    batch = min(cfg.batch_size, max(clips, 2))
    steps = cfg.steps or max(1, round(cfg.epochs * max(1, clips // batch)))
    vision = _vision_shape(recipe)
    width, layers, tokens = vision["width"], vision["layers"], vision["tokens"]
    frames = batch * cfg.num_frames
    layer_flop = frames * tokens * (24 * width**2 + 4 * tokens * width)
    branch = getattr(cfg.temporal, "layers", 0) if cfg.temporal.name == "stan" else 0
    learns = min(layers, max(cfg.train_vision_layers, 0))
    forward = layer_flop * (layers + 1.3 * branch)
    backward = 2 * layer_flop * (learns + 1.3 * branch)
    text = batch * cfg.texts_per_clip * 77 * 24 * 512**2 * 12 * (3 if cfg.train_text else 1)
    peta = steps * (forward + backward + text) / 1e15
    kept = frames * tokens * width * 2 * 14 * (learns + 1.3 * branch)  # bf16 activations that the backward pass needs
    weights = 16 * (12 * width**2 * (layers + 1.4 * branch) + 6e7)  # fp32 weight, gradient and both moments of Adam
    return {
        "steps": steps,
        "batch_size": batch,
        "pairs_seen": steps * batch,
        "peta_flop": peta,
        "gpu_hours": peta * 1e15 / GPU_FLOPS / 3600,
        "gpu_memory_gb": (kept + weights) / 1e9,
    }


def _vision_shape(recipe: Recipe) -> dict[str, int]:
    """Width, layers and tokens of the vision tower, from the name where it says them; ViT-B/16 where nothing does."""
    name = recipe.backbone.model
    if name == "builtin:tiny":
        from m2raap.core.files import read_json
        from m2raap.models.builtin import TINY

        tower = read_json(TINY / "open_clip_config.json")["model_cfg"]["vision_cfg"]
        return {
            "width": tower["width"],
            "layers": tower["layers"],
            "tokens": 1 + (tower["image_size"] // tower["patch_size"]) ** 2,
        }
    width, layers = (1024, 24) if "ViT-L" in name else (1280, 32) if "ViT-H" in name else (768, 12)
    patch = next((int(p) for p in ("32", "14") if f"-{p}" in name), 16)
    return {"width": width, "layers": layers, "tokens": 1 + (224 // patch) ** 2}
