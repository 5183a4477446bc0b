"""Runs a stage: brings its folder to its finished state, whatever an earlier command left there.

A data stage has three phases: `score` and `apply` for every part, and `reduce` over all parts between them. `score` and `apply`
have digests of their own, so that new thresholds redo only `apply`, and rows of an earlier run of the folder are reused for
unchanged clips. The manifest is written last: without one the stage is unfinished, and the same command resumes it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.engine import Engine
from m2raap.core.errors import WORTH_ANOTHER_TRY, BudgetSpent, M2raapError
from m2raap.core.files import file_sha256, write_json
from m2raap.core.folder import begin, finish, log_timing, plan_digest, plan_of, refuse_changed, refuse_redone
from m2raap.core.ledger import Counts
from m2raap.core.lock import locked
from m2raap.core.losses import refuse_losses
from m2raap.core.part_work import ApplyKeys, PartTask, apply_part, by_id, done_path, retriable_ids, score_part
from m2raap.core.records import DoneRecord, read_record
from m2raap.core.signed import read_manifest
from m2raap.core.stage import DataStage, Signals, SingleStage, Stage, StepInputs
from m2raap.core.tables import read_all, read_part
from m2raap.core.view import Part, View


def run_stage(stage: Stage[Any], step: StepInputs) -> bool:
    """Brings the step's folder to its finished state; False where other shares are still missing. Raises M2raapError.

    Raises TooManyRefused for a finished stage that has lost more than `step.allow_refused` admits.
    """
    if isinstance(stage, DataStage):
        view = stage.prepared(step.view, step.scores)
        finished = run_data_stage(stage, view, step.folder, step.engine, force=step.force, share=step.share)
        if finished and step.allow_refused is not None:
            refuse_losses(step.folder, view, step.allow_refused)
        return finished
    assert isinstance(stage, SingleStage), f"the stage {stage.name} cannot be run"
    return stage.run(step)


def run_data_stage(
    stage: DataStage[Any],
    view: View,
    folder: Path,
    engine: Engine,
    *,
    force: bool = False,
    share: tuple[int, int] = (1, 1),
) -> bool:
    """Brings `folder` to its finished state; True when it is. False: with `share` (i, n), other shares are still missing.

    Shares run at the same time; one that sees that all parts are scored waits until the others have ended, and finishes.
    Raises M2raapError when the folder was made from other inputs or settings, unless `force`, or where another command is
    writing to it.
    """
    alone = share == (1, 1)
    stage = copy.copy(stage)
    stage.folder = folder
    settings = stage.settings()
    if stage.reads_video:
        _ = view.corpus.video_root  # fails before any work; and workers on other machines receive it with the corpus
    with locked(folder, shared=not alone) as lock:
        shared = None if alone else lock
        retriable = lambda: _retriable_drops(folder) if stage.reads_video else set()  # noqa: E731
        is_worth_redoing = lambda: (folder / "manifest.json").exists() and bool(retriable())  # noqa: E731
        tree = plan_of(stage.name, stage.version, view, settings)
        finished = begin(folder, tree, view, force, shared=shared, is_worth_redoing=is_worth_redoing)
        if finished:
            num_retriable = len(retriable())
            reasons = ", ".join(WORTH_ANOTHER_TRY)
            were = "clip was" if num_retriable == 1 else "clips were"
            note = f"; {num_retriable:,} {were} dropped for a reason that may be gone ({reasons}): --force tries again"
            talk.log(f"{stage.name}: already finished{note if num_retriable else ''}")
            return True
        plan = plan_digest(folder)
        parts = [part for part in range(view.num_parts) if part % share[1] == share[0] - 1]
        prepared_digest = stage.before_parts(view, engine, alone)
        tasks = [PartTask(stage, view, folder, part, settings, plan, prepared_digest=prepared_digest) for part in parts]
        spent = stage.spent()
        if num_open := _score(stage, tasks, engine, folder):
            raise BudgetSpent(f"{folder}: {stage.summary(spent, {}, num_open)}")
        if any(not done_path(folder, "score", part).exists() for part in range(view.num_parts)):
            talk.log(f"{stage.name}: share {share[0]}/{share[1]} is scored; other shares are not finished yet")
            return False
        if not alone and lock:
            talk.log(f"{stage.name}: all parts are scored; this share finishes the stage when the others have ended")
            lock.wait_exclusive()
            refuse_redone(folder, plan)
            if (folder / "manifest.json").exists():
                return True
        _finish(stage, view, folder, settings, plan)
        if line := stage.summary(spent, read_manifest(folder)["counts"], 0):
            talk.log(f"{stage.name}: {line}")
    return True


def _retriable_drops(folder: Path) -> set[str]:
    """Ids of the clips that a finished folder dropped for a reason of WORTH_ANOTHER_TRY."""
    return retriable_ids(row for table in ("dropped", "missing") for row in read_all(folder, table))


def _finish(stage: DataStage[Any], view: View, folder: Path, settings: dict[str, Any], plan: str) -> None:
    """Reduces, applies and writes the manifest. Raises M2raapError for a part that was made with other settings."""
    decisions = _decide(stage, view, folder)
    tasks = [PartTask(stage, view, folder, part, settings, plan, decisions) for part in range(view.num_parts)]
    keys = ApplyKeys(tasks[0].settings_digest("apply"), decisions)
    for task in tasks:  # comparing with thresholds is too little work for a worker process
        log_timing(folder, "apply", apply_part(task, keys), part=task.part)
    counts = Counts()
    files: dict[str, str] = {}
    for task in tasks:
        for phase, record in _records(task).items():
            if record["settings"] != task.settings_digest(phase):
                raise M2raapError(
                    f"{done_path(folder, phase, task.part)}: another command wrote this part with other settings while this "
                    "one ran; run this command again: it redoes the part"
                )
            files |= record["files"]
            counts += Counts.from_dict(record.get("counts", {}))
    if stage.reduces:
        files["decisions.json"] = file_sha256(folder / "decisions.json")
    files |= {name: file_sha256(folder / name) for name in stage.more_files()}
    if not counts.balanced():
        raise M2raapError(
            f"{folder}: not every row is accounted for ({counts.to_dict()}); this is a bug in the stage '{stage.name}', and no "
            "manifest is written"
        )
    refuse_redone(folder, plan)
    refuse_changed(folder, view)
    finish(folder, stage.name, stage.version, view, settings, files, counts.to_dict())


def _score(stage: DataStage[Any], tasks: list[PartTask], engine: Engine, folder: Path) -> int:
    """Scores parts; returns the number of questions that are left open (see DataStage.num_open)."""
    num_open = 0
    with talk.progress(talk.title(folder, stage.name), len(tasks)) as advance:
        for index, scored in engine.map(score_part, tasks, stage.runs_network):
            more = {"device": scored.device} if scored.device else {}
            log_timing(folder, "score", scored.seconds, part=tasks[index].part, scored=scored.num_fresh, **more)
            num_open += scored.num_open
            advance()
    return num_open


@dataclass(frozen=True)
class _Parts:
    """Every part with the stage's own signals, read from disk again on each pass."""

    view: View
    folder: Path

    def __iter__(self) -> Iterator[tuple[Part, Signals]]:
        for index in range(self.view.num_parts):
            part = self.view.part(index, ("texts", "frames", "signals"))
            scored = read_record(DoneRecord, done_path(self.folder, "score", index))
            yield part, by_id(read_part(self.folder, "signals", index, files=scored["files"]))


def _records(task: PartTask) -> dict[str, DoneRecord]:
    return {phase: read_record(DoneRecord, done_path(task.folder, phase, task.part)) for phase in ("score", "apply")}


def _decide(stage: DataStage[Any], view: View, folder: Path) -> dict[str, Any]:
    if not stage.reduces:
        return {}

    start = time.monotonic()
    decisions = stage.reduce(_Parts(view, folder))
    write_json(folder / "decisions.json", decisions)
    log_timing(folder, "reduce", time.monotonic() - start)
    return decisions
