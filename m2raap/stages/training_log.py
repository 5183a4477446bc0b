"""Reads the logs of a training: `train.jsonl`, which the digests include, and `timings.jsonl`, which they do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_regular
from m2raap.core.folder import read_timings
from m2raap.core.records import Count, read_record_lines
from m2raap.core.signed import refuse_changed_file, verified_path

START_KEPT = "training did not beat the untrained model on the val clips, so that the model is the untrained one"

BELOW_START = (
    "the kept model is below the untrained one on the val clips (adapt.keep=best: by less than their standard error, so that "
    "more of them are needed to tell)"
)

_END_BYTES = 1 << 16  # of a log, which hold its last lines
_STEP = re.compile(rb'"step": (\d{1,15})\b[^\n]*\n')


class _ValR1(TypedDict):
    mean: float


class _Line(TypedDict):
    """A line of train.jsonl: of a training step, of a validation, or, the last one, of the weights that were kept.

    `val`: m2raap.adapt.validate.ValScores.numbers. `val_r1`: in its place in the logs of earlier versions.
    """

    step: Count
    loss: NotRequired[float]
    gates: NotRequired[dict[str, float]]
    val: NotRequired[dict[str, float]]
    val_r1: NotRequired[_ValR1]
    best_step: NotRequired[Count]
    kept_step: NotRequired[Count]
    averaged: NotRequired[Count]
    together: NotRequired[dict[str, float]]  # of co-training, at the start of each round


def _read(folder: Path) -> list[_Line]:
    lines = read_record_lines(_Line, refuse_changed_file(folder, "train.jsonl"))
    for number, line in enumerate(lines, 1):
        if missing := {"mrr", "r1", "loss"} - line.get("val", {"mrr": 0.0, "r1": 0.0, "loss": 0.0}).keys():
            raise M2raapError(f"{folder / 'train.jsonl'}: row {number}: val has no {', '.join(sorted(missing))}")
    return lines


def last_step(folder: Path) -> int | None:
    """The last step that the log of a training under way holds whole; None without one. Raises M2raapError for no file."""
    path = verified_path(folder, "train.jsonl")
    steps = _STEP.findall(read_regular(path, _END_BYTES)) if path is not None else []
    return int(steps[-1]) if steps else None


def _val_of(line: _Line) -> dict[str, float] | None:
    """The scores of a validation by name, of which earlier versions wrote only R@1; None for another line."""
    return line.get("val") or ({"r1": line["val_r1"]["mean"]} if "val_r1" in line else None)


def _validations(lines: list[_Line]) -> list[tuple[int, dict[str, float]]]:
    """Step and scores of every validation of a checkpoint; averaged weights are no checkpoint."""
    return [(line["step"], val) for line in lines if "kept_step" not in line and (val := _val_of(line))]


def training_summary(folder: Path) -> dict[str, Any]:
    """A summary of the training log: `steps`, `last_loss`, `kept_step`, `averaged` (weights in a mean, where one was kept), the
    gates of the weights that were kept, and, with val clips, `best_step` and the scores `val_start`, `val_kept` and `val_last`.

    Logs of earlier versions do not name the step that was kept: it is the first one of the highest R@1, else the last.
    """
    lines = _read(folder)
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise M2raapError(f"{folder / 'train.jsonl'}: holds no training step; adapt again with --force")
    end, val = lines[-1], _validations(lines)
    last = steps[-1]["step"]
    best = next((line["best_step"] for line in reversed(lines) if "best_step" in line), None)
    if val and best is None:
        best = max(val, key=lambda pair: (pair[1]["r1"], -pair[0]))[0]
    kept = end.get("kept_step", last if best is None else best)
    of_kept_step = (line.get("gates", {}) for line in reversed(steps) if line["step"] == kept)
    summary: dict[str, Any] = {
        "steps": last,
        "last_loss": steps[-1].get("loss"),
        "kept_step": kept,
        "gates": end["gates"] if "kept_step" in end and "gates" in end else next(of_kept_step, {}),
    }
    if "averaged" in end:
        summary["averaged"] = end["averaged"]
    if val:
        of_kept = end["val"] if "averaged" in end and "val" in end else dict(val).get(kept, val[-1][1])
        summary |= {"best_step": best, "val_start": val[0][1], "val_kept": of_kept, "val_last": val[-1][1]}
    return summary


def kept_text(summary: dict[str, Any]) -> str:
    """Which weights a training kept, from its summary, in words, with the val scores at the start, kept and last."""
    kept, steps = summary["kept_step"], summary["steps"]
    of_mean = f", the mean of {summary['averaged']} checkpoints" if "averaged" in summary else ""
    text = f"kept step {kept} of {steps}{of_mean}"
    if "val_start" not in summary:
        return f"{text}; there are no val clips to choose by"
    name, title = ("mrr", "MRR x 100") if "mrr" in summary["val_start"] else ("r1", "R@1")
    start, of_kept, last = (f"{100 * summary[f'val_{which}'][name]:.1f}" for which in ("start", "kept", "last"))
    text = f"{text}; val {title} {start} at the start, {of_kept} kept, {last} last"
    if kept == 0:
        return f"{text}; {START_KEPT}"
    worse = summary["val_kept"][name] < summary["val_start"][name]
    return f"{text}; {BELOW_START}" if worse else text


class TrainingCurves(NamedTuple):
    """Points (step, value) of a training: its loss, and the scores of the val clips by name (none without val clips)."""

    loss: list[tuple[float, float]]
    val: dict[str, list[tuple[float, float]]]


def training_curves(folder: Path) -> TrainingCurves:
    """The curves of a training log, in the order of its lines; of val clips `mrr`, `r1` and `loss` (earlier versions: `r1`)."""
    lines = _read(folder)
    loss = [(float(line["step"]), float(line["loss"])) for line in lines if "loss" in line]
    val = _validations(lines)
    names = [name for name in ("mrr", "r1", "loss") if val and name in val[0][1]]
    return TrainingCurves(loss, {name: [(float(step), scores[name]) for step, scores in val] for name in names})


def clusters_together(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Of the log of a co-training, points (step, mean cluster_pmi) of each pair of modalities, by its name."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in _read(folder):
        for name, value in line.get("together", {}).items():
            points.setdefault(name, []).append((float(line["step"]), value))
    return points


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
