"""Fits a tagger: 'Large-Scale Training Framework for Video Annotation' (KDD 2019), as far as its patent (US 11,295,171) tells.

Shared layers and small heads are trained together; then, in rounds, the heads are made anew with the shared layers as they are
(model parallel), and the shared layers take full-batch iRProp+ steps with the heads as they are (data parallel). The round that
is best on the val clips is kept. Every task writes a file, so that a fit that is killed goes on and ends in the same bytes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import TypedDict

from m2raap.adapt.checkpoint import save_tree
from m2raap.adapt.rprop import IRpropPlus
from m2raap.annotate.calibration import expected_error, fitted
from m2raap.annotate.gradients import gradient_sum, put_gradients
from m2raap.annotate.heads import pool, train_heads
from m2raap.annotate.job import LABELS, Job, save_weights
from m2raap.annotate.judge import (
    ClipScores,
    ClipsTask,
    LabelScore,
    LabelTask,
    clip_scores,
    label_scores,
    summary,
    write_label_table,
)
from m2raap.annotate.metrics import gap, joined
from m2raap.annotate.pretrain import pretrain
from m2raap.annotate.tagger import TAGGER, MemberJson
from m2raap.annotate.tasks import Task, load_kept
from m2raap.core.config import result_settings
from m2raap.core.engine import Engine
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, files_below, replaced_folder, write_json
from m2raap.core.records import read_record

Report = Callable[[str, int, int], None]  # what, done, total
T = TypeVar("T")
R = TypeVar("R")
OnShards = TypeVar("OnShards", bound=Task)


class _RoundJson(TypedDict):
    """round.json: the GAP on the val clips by the shared layers of each number, with the heads of the round; and the training
    loss of each full-batch step."""

    val_gap: dict[str, float]
    losses: list[float]


@dataclass(frozen=True)
class _Fit:
    job: Job
    engine: Engine
    report: Report

    def map(self, what: str, work: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """The results of tasks, in their order, whatever worker did them."""
        results: dict[int, R] = {}
        for index, result in self.engine.map(work, tasks, True):
            results[index] = result
            self.report(what, len(results), len(tasks))
        return [results[index] for index in range(len(tasks))]

    def shards(self, task: OnShards) -> list[OnShards]:
        return [replace(task, index=index) for index in range(self.job.num_shards)]


def fit(job: Job, engine: Engine, out: Path, about: dict[str, Any], report: Report) -> None:
    """Writes the tagger into the folder `out`. `job.folder` holds labels.json and the shards, and keeps what is finished.
    `about`: further keys of tagger.json.

    Raises M2raapError for a loss that is not finite, and for clips of which none is left for training or for val.
    """
    running = _Fit(job, engine, report)
    members = range(job.cfg.folds)
    running.map("shared layers and small heads", pretrain, [Task(job, member) for member in members])
    for number in range(job.cfg.rounds):
        _heads(running, number)
        for member in members:
            _shared(running, member, number)
    chosen = [_best(job, member) for member in members]
    members_json, metrics, scores = _judged(running, chosen)
    with replaced_folder(out) as temp:
        _write(job, chosen, temp)
        write_label_table(temp / "labels.csv", job.labels, scores)
        files = {name: file_sha256(temp / name) for name in files_below(temp, "") if name != TAGGER}
        settings = json.loads(json.dumps(result_settings(job.cfg)))
        tree = {"fit": settings, "dim": job.dim, "members": members_json, "metrics": metrics, "files": files, **about}
        write_json(temp / TAGGER, tree)


def _judged(running: _Fit, chosen: Sequence[Task]) -> tuple[list[MemberJson], dict[str, Any], list[LabelScore]]:
    """Of the chosen round of each member: what tagger.json says of it, calibrated by the val clips; the metrics of all on clips
    that they have not seen; and the score of every label."""
    job = running.job
    val, unseen = ([_scores(running, task, which) for task in chosen] for which in ("val", "unseen"))
    calibrations = [fitted(scored.bins) for scored in val]
    rounds = [[_read_round(replace(t, round=number)) for number in range(job.cfg.rounds)] for t in chosen]
    members_json: list[MemberJson] = [
        {
            "round": task.round,
            "shared": task.shared or 0,
            "val_gap": rounds[place][task.round]["val_gap"][str(task.shared)],
            "calibration": list(calibrations[place]),
        }
        for place, task in enumerate(chosen)
    ]
    tasks = [LabelTask(tuple(chosen), group) for group in range(len(job.groups))]
    scores = [score for of_group in running.map("labels", label_scores, tasks) for score in of_group]
    errors = [expected_error(scored.bins) for scored in unseen]
    calibrated = [expected_error(scored.bins, values) for scored, values in zip(unseen, calibrations, strict=True)]
    metrics = summary(joined([scored.best for scored in unseen]), scores, job.cfg.seed) | {
        "calibration_error_before": sum(errors) / len(errors),
        "calibration_error": sum(calibrated) / len(calibrated),
        "rounds": rounds,
    }
    return members_json, metrics, scores


def _heads(running: _Fit, number: int) -> None:
    """New heads of a round, of all members."""
    job = running.job
    members = [Task(job, member, number) for member in range(job.cfg.folds)]
    tasks = [replace(task, index=group) for task in members for group in range(len(job.groups))]
    if all(job.heads(task.member, number, task.index).exists() for task in tasks):
        return
    running.map(f"vectors of round {number}", pool, [shard for task in members for shard in running.shards(task)])
    running.map(f"heads of round {number}", train_heads, tasks)
    for task in members:
        shutil.rmtree(job.vectors(task.member, number, 0).parent)


def _shared(running: _Fit, member: int, number: int) -> None:
    """The full-batch steps of the shared layers after the heads of a round, and how good both are before and after."""
    job, task = running.job, Task(running.job, member, number)
    path, after = job.round(member, number) / "round.json", job.shared(member, number + 1)
    if path.exists() and after.exists():
        return
    val_gap = {str(number): _val_gap(running, task)}
    losses: list[float] = []
    shared = job.load_shared(task.shared_path).cpu()
    weights = list(shared.parameters())
    if weights and job.cfg.shared_steps:
        optimiser = IRpropPlus(weights)
        kept = job.round(member, number) / "steps.pt"
        if tree := load_kept(kept, shared=shared, optimiser=optimiser):
            losses = tree["losses"]
        moving = replace(task, shared=number + 1)
        while len(losses) < job.cfg.shared_steps:
            save_weights(after, shared)
            sums = running.map(f"full-batch steps of round {number}", gradient_sum, running.shards(moving))
            loss = put_gradients(weights, sums)
            losses.append(optimiser.step(loss))
            save_tree(kept, {"losses": losses, "shared": shared.state_dict(), "optimiser": optimiser.state_dict()})
        save_weights(after, shared)
        val_gap[str(number + 1)] = _val_gap(running, moving)
        kept.unlink(missing_ok=True)
    save_weights(after, shared)
    write_json(path, {"val_gap": val_gap, "losses": losses})


def _val_gap(running: _Fit, task: Task) -> float:
    judged = _scores(running, task, "val").best
    if not len(judged.p_NT):
        raise M2raapError(
            "annotate: no clip is left by which to choose a round: give more clips, or raise annotate.fit.val_share"
        )
    if math.isnan(value := gap(judged)):
        raise M2raapError(
            "annotate: none of the val clips, by which a round is chosen, has a label: give more clips, or raise "
            "annotate.fit.val_share"
        )
    return value


def _read_round(task: Task) -> _RoundJson:
    return read_record(_RoundJson, task.job.round(task.member, task.round) / "round.json")


def _best(job: Job, member: int) -> Task:
    """The round of a member whose tags of the val clips are best, and its shared layers; of equals the first."""
    values = {
        (number, int(shared)): value
        for number in range(job.cfg.rounds)
        for shared, value in _read_round(Task(job, member, number))["val_gap"].items()
    }
    number, shared = max(values, key=lambda key: (values[key], -key[0], -key[1]))
    return Task(job, member, number, 0, shared)


def _scores(running: _Fit, task: Task, which: str) -> ClipScores:
    """The scores of the val or the unseen clips of all shards, by the heads and shared layers of a task."""
    of_clips = ClipsTask(task.job, task.member, task.round, 0, task.shared, which)
    first, *others = running.map(f"{which} clips", clip_scores, running.shards(of_clips))
    bins = sum((part.bins for part in others), first.bins)
    return ClipScores(joined([part.best for part in (first, *others)]), bins)


def _write(job: Job, chosen: Sequence[Task], out: Path) -> None:
    shutil.copyfile(job.folder / LABELS, out / LABELS)
    for task in chosen:
        folder = out / f"member-{task.member}"
        folder.mkdir()
        shutil.copyfile(task.shared_path, folder / "shared.safetensors")
        for group in range(len(job.groups)):
            path = job.heads(task.member, task.round, group)
            shutil.copyfile(path, folder / path.name)
