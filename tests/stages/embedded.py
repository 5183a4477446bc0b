"""Embed folders without a model: noisy copies of random vectors, signed as `embed` signs its own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.files import write_atomic, write_json
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages.evaluate import EvaluateStage

FRAMES = "keyframe-8, short side 256 px (0123)"


def write_embedded(
    folder: Path,
    *,
    noise: float = 1.0,
    seed: int = 0,
    num: int = 40,
    lost: int = 0,
    langs: tuple[str, ...] = ("en", "zh"),
    made_with: dict[str, str] | None = None,
    extra: dict[str, bytes] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Writes the folder and returns its ids; `lost` clips have no embedding. The texts are the same for every seed."""
    names = [f"v{i:03d}" for i in range(num)]
    video = np.random.default_rng([1]).normal(size=(num, 16))
    rng = np.random.default_rng([seed, 7])
    text = np.concatenate([video + noise * rng.normal(size=video.shape) for _ in langs])
    ids = {
        "video_ids": names[lost:],
        "video_frames": [f"frames of {name}" for name in names[lost:]],
        "missing": names[:lost],
        "text_ids": [f"{name}.{lang}" for lang in langs for name in names],
        "text_video_ids": names * len(langs),
        "text_langs": [lang for lang in langs for _ in names],
        "texts": [f"clip {name} in {lang}" for lang in langs for name in names],
        "categories": {},
        "made_with": {"frames": FRAMES, "preprocess": "224 px", "model": f"model{seed}"} | (made_with or {}),
    } | changes

    def work(target: Path) -> StageOutput:
        for name, rows in (("video.npy", video[lost:]), ("text.npy", text)):
            sink = io.BytesIO()
            np.save(sink, rows.astype(np.float32))
            write_atomic(target / name, sink.getvalue())
        write_json(target / "ids.json", ids)
        for name, data in (extra or {}).items():
            write_atomic(target / name, data)
        return StageOutput(
            ["ids.json", "video.npy", "text.npy", *(extra or {})], {}, {"model": ids["made_with"]["model"]}
        )

    run_single_stage("embed", 2, {"seed": seed, "noise": noise, "lost": lost}, folder, work)
    return ids


def evaluated(folder: Path, protocol: str = "custom", **options: Any) -> Path:
    """An embed folder and its evaluate folder, side by side below `folder`; the latter."""
    write_embedded(folder / "embed", **options)
    EvaluateStage(EvaluateConfig()).run_on(folder / "embed", protocol, folder / "evaluate")
    return folder / "evaluate"


def write_run(out: Path, arms: dict[str, dict[str, Any]], bench: str = "clips") -> Path:
    """A run's folder with an evaluation for every arm."""
    steps = []
    for arm, options in arms.items():
        base = out / arm / f"bench-{bench}"
        evaluated(base, **options)
        for stage, parents in (("embed", []), ("evaluate", [base / "embed"])):
            row = {
                "arm": arm,
                "owner": arm,
                "stage": stage,
                "bench": bench,
                "folder": str((base / stage).relative_to(out)),
            }
            steps.append(row | {"parents": [str(parent.relative_to(out)) for parent in parents], "model": None})
    write_map(out, steps)
    return out


def write_map(out: Path, steps: list[dict[str, Any]]) -> None:
    """Writes a run.json with only these steps."""
    head = {
        "kind": "run",
        "recipe": {"name": "r"},
        "data": "none",
        "digests": {},
        "benches": {},
        "limit": None,
        "scores": [],
    }
    write_json(out / "run.json", head | {"steps": steps})
