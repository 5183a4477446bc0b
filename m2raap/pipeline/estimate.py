"""--dry-run: what a run would do and about what it costs. Rates are of two CPU cores and stated; no model is loaded.

Frames are the dear part of a data run: what they cost is measured on a small sample of the corpus's own files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2raap.core.config import digest
from m2raap.core.view import View
from m2raap.pipeline.frames_cost import FramesCost, frames_cost
from m2raap.pipeline.llm_requests import model_costs
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.pipeline.run_folder import Inputs
from m2raap.pipeline.train_cost import as_tree, cost_lines, training_cost
from m2raap.stages.keyframes import KeyframesConfig

# Seconds a clip and core.
SECONDS_A_CLIP = {"filter": 0.02, "align": 0.1, "caption": 0.1, "rewrite": 0.002}


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
    adapt = {arm: as_tree(training_cost(one, clips), one) for arm, one in arms.items() if "adapt" in one.stages}
    for arm, cost in adapt.items():
        lines += [f"  {line}" for line in cost_lines(arm, cost)]
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
