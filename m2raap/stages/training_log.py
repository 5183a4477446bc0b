"""Reads the logs of a training: `train.jsonl`, which the digests include, and `timings.jsonl`, which they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from m2raap.core.errors import M2raapError
from m2raap.core.folder import read_timings
from m2raap.core.records import Count, read_record_lines
from m2raap.core.signed import refuse_changed_file


class _ValR1(TypedDict):
    mean: float


class _Line(TypedDict):
    """A line of train.jsonl: of a training step, or of a validation."""

    step: Count
    loss: NotRequired[float]
    gates: NotRequired[dict[str, float]]
    val_r1: NotRequired[_ValR1]


def _read(folder: Path) -> list[_Line]:
    return read_record_lines(_Line, refuse_changed_file(folder, "train.jsonl"))


def training_summary(folder: Path) -> dict[str, Any]:
    """A summary of the training log: steps, last loss, R@1 on the val clips at the start and at its best, and
    the gates of the weights that were kept: those of the best step (none are logged for the start), else of the last."""
    lines = _read(folder)
    steps = [line for line in lines if "loss" in line]
    val = [(line["val_r1"]["mean"], line["step"]) for line in lines if "val_r1" in line]
    if not steps:
        raise M2raapError(f"{folder / 'train.jsonl'}: holds no training step; adapt again with --force")
    last = steps[-1]
    summary: dict[str, Any] = {"steps": last["step"], "last_loss": last.get("loss"), "gates": last.get("gates", {})}
    if val:
        best, at = max(val, key=lambda pair: (pair[0], -pair[1]))
        summary["gates"] = next((line.get("gates", {}) for line in reversed(steps) if line["step"] == at), {})
        summary |= {"val_r1_start": val[0][0], "val_r1_best": best, "best_step": at}
    return summary


class TrainingCurves(NamedTuple):
    """Points (step, value) of a training: its loss, and R@1 on the val clips (a share of 1; none without val clips)."""

    loss: list[tuple[float, float]]
    val_r1: list[tuple[float, float]]


def training_curves(folder: Path) -> TrainingCurves:
    """The curves of a training log, in the order of its lines."""
    lines = _read(folder)
    loss = [(float(line["step"]), float(line["loss"])) for line in lines if "loss" in line]
    return TrainingCurves(loss, [(float(line["step"]), line["val_r1"]["mean"]) for line in lines if "val_r1" in line])


class TrainingTime(NamedTuple):
    """Wall seconds from the loaded model to the last step, with validation; `waited_s`: the part spent waiting for batches."""

    steps: int
    train_s: float
    waited_s: float


def training_time(folder: Path) -> TrainingTime:
    """The times in a training log. Of a step that was repeated after an interruption, the last time counts."""
    timings = read_timings(folder)
    by_step = {row["step"]: row for row in timings if "step" in row}
    prepared_s = sum(row["seconds"] for row in timings if "prepared" in row)
    train_s = prepared_s + sum(row["seconds"] for row in by_step.values())
    return TrainingTime(len(by_step), train_s, sum(row.get("data_wait_s", 0.0) for row in by_step.values()))
