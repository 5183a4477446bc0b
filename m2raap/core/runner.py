"""Runs a stage: brings its folder to its finished state, whatever an earlier command left there.

A data stage has three phases: `score` and `apply` for every part, and `reduce` over all parts between them. `score` and `apply`
have digests of their own, so that new thresholds redo only `apply`, and rows of an earlier run of the folder are reused for
unchanged clips. The manifest is written last: without one the stage is unfinished, and the same command resumes it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.config import digest
from m2raap.core.engine import Engine
from m2raap.core.errors import NO_TEXT_LEFT, UNREADABLE, WORTH_ANOTHER_TRY, BudgetSpent, M2raapError
from m2raap.core.files import read_json, read_object, write_json
from m2raap.core.folder import begin, finish, log_timing, plan_digest, plan_of, refuse_changed, refuse_redone
from m2raap.core.ledger import Counts, count_part, left_without_text, new_texts
from m2raap.core.lock import locked
from m2raap.core.losses import refuse_losses
from m2raap.core.stage import DataStage, Signals, SingleStage, Stage, StepInputs, Tables
from m2raap.core.tables import SCHEMAS, Row, part_of, read_all, read_part, row_key, signal_schema, write_part
from m2raap.core.videos import VideoDigests
from m2raap.core.view import Part, View, clip_digest


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


@dataclass(frozen=True)
class _Task:
    stage: DataStage[Any]
    view: View
    folder: Path
    part: int
    settings: dict[str, Any]  # of the stage, computed once, because that may read files
    plan: str  # digest of the folder's plan, which must not change while the task runs
    decisions: dict[str, Any] | None = None

    def settings_digest(self, phase: str) -> str:
        """The digest of the settings of a phase, which is stored in every part."""
        return phase_digest(self.stage.name, self.stage.version, phase, self.settings)


def phase_digest(stage: str, version: int, phase: str, settings: dict[str, Any]) -> str:
    """The digest of the settings with which a stage makes its parts in a phase (score, apply)."""
    return digest([stage, version, settings.get(phase), settings.get("dependencies" if phase == "score" else "rules")])


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
            note = f"; {num_retriable} clips timed out, ran out of memory or had no file: --force tries them again"
            talk.log(f"{stage.name}: already finished{note if num_retriable else ''}")
            return True
        plan = plan_digest(folder)
        parts = [part for part in range(view.num_parts) if part % share[1] == share[0] - 1]
        tasks = [_Task(stage, view, folder, part, settings, plan) for part in parts]
        spent = stage.spent()
        if num_open := _map(stage, "score", tasks, engine, folder):
            raise BudgetSpent(f"{folder}: {stage.summary(spent, {}, num_open)}")
        if any(not _done_path(folder, "score", part).exists() for part in range(view.num_parts)):
            talk.log(f"{stage.name}: share {share[0]}/{share[1]} is scored; other shares are not finished yet")
            return False
        if not alone and lock:
            talk.log(f"{stage.name}: all parts are scored; this share finishes the stage when the others have ended")
            lock.wait_exclusive()
            refuse_redone(folder, plan)
            if (folder / "manifest.json").exists():
                return True
        _finish(stage, view, folder, settings, plan, engine)
        if line := stage.summary(spent, read_json(folder / "manifest.json")["counts"], 0):
            talk.log(f"{stage.name}: {line}")
    return True


def _retriable_drops(folder: Path, part: int | None = None) -> set[str]:
    """Ids of the clips that a folder, or one part of it, dropped for a reason of WORTH_ANOTHER_TRY."""
    tables = ("dropped", "missing")
    rows = [row for t in tables for row in (read_all(folder, t) if part is None else read_part(folder, t, part))]
    return {row["clip_id"] for row in rows if row["reason"] in WORTH_ANOTHER_TRY}


def _finish(
    stage: DataStage[Any], view: View, folder: Path, settings: dict[str, Any], plan: str, engine: Engine
) -> None:
    """Reduces, applies and writes the manifest. Raises M2raapError for a part that was made with other settings."""
    decisions = _decide(stage, view, folder)
    tasks = [_Task(stage, view, folder, part, settings, plan, decisions) for part in range(view.num_parts)]
    _map(stage, "apply", tasks, engine, folder)
    counts = Counts()
    files: dict[str, str] = {}
    for task in tasks:
        for phase, record in _records(task).items():
            if record.get("settings") != task.settings_digest(phase):
                raise M2raapError(
                    f"{_done_path(folder, phase, task.part)}: another command wrote this part with other settings while this "
                    "one ran; run this command again: it redoes the part"
                )
            files |= record["files"]
            counts += Counts.from_dict(record.get("counts", {}))
    if not counts.balanced():
        raise M2raapError(
            f"{folder}: not every row is accounted for ({counts.to_dict()}); this is a bug in the stage '{stage.name}', and no "
            "manifest is written"
        )
    refuse_redone(folder, plan)
    refuse_changed(folder, view)
    finish(folder, stage.name, stage.version, view, settings, files, counts.to_dict())


def _map(stage: DataStage[Any], phase: str, tasks: list[_Task], engine: Engine, folder: Path) -> int:
    """Runs a phase on parts; returns the number of questions that `score` left open (see DataStage.num_open)."""
    if phase == "apply":  # comparing with thresholds is too little work for a worker process
        for task in tasks:
            log_timing(folder, phase, _apply_part(task), part=task.part)
        return 0
    num_open = 0
    with talk.progress(talk.title(folder, stage.name), len(tasks)) as advance:
        for index, (seconds, scored, open_of_part) in engine.map(_score_part, tasks):
            log_timing(folder, phase, seconds, part=tasks[index].part, scored=scored)
            num_open += open_of_part
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
            yield part, _by_id(read_part(self.folder, "signals", index))


def _records(task: _Task) -> dict[str, dict[str, Any]]:
    return {phase: read_object(_done_path(task.folder, phase, task.part)) for phase in ("score", "apply")}


def _decide(stage: DataStage[Any], view: View, folder: Path) -> dict[str, Any]:
    if not stage.reduces:
        return {}

    start = time.monotonic()
    decisions = stage.reduce(_Parts(view, folder))
    write_json(folder / "decisions.json", decisions)
    log_timing(folder, "reduce", time.monotonic() - start)
    return decisions


def _done_path(folder: Path, phase: str, part: int) -> Path:
    return folder / "done" / f"{phase}-{part:05d}.json"


def _is_done(path: Path, key: str, settings: str) -> bool:
    """Whether a part is finished, from the same clips and settings. (Records of older versions name no settings.)"""
    record = read_object(path) if path.exists() else {}
    return (record.get("key"), record.get("settings")) == (key, settings)


def _by_id(rows: Iterable[Row]) -> Signals:
    return {row_key(row): row for row in rows}


def _score_part(task: _Task) -> tuple[float, int, int]:
    """Scores one part; returns the seconds, the number of clips that were neither finished nor reused, and the number of
    questions that are left open; a part with any is not written."""
    start = time.monotonic()
    stage, folder, index = task.stage, task.folder, task.part
    part = task.view.part(index, stage.tables_over(task.view)).with_signals(stage.reads_signals)
    videos = VideoDigests(folder / "cache" / f"videos-{index:05d}.json") if stage.reads_video else None
    digests = {
        clip["clip_id"]: clip_digest(part, clip, stage.video_digest(clip, task.view, videos) if videos else None)
        for clip in part.clips
    }
    if videos:
        videos.save()
    key = digest([task.settings_digest("score"), digests])
    done = _done_path(folder, "score", index)
    refuse_redone(folder, task.plan)
    if _is_done(done, key, task.settings_digest("score")):
        return time.monotonic() - start, 0, 0
    done.unlink(missing_ok=True)
    tables, kept = _reuse(task, digests)
    fresh = set(digests) - kept
    if fresh:
        one_thread()
        for table, rows in stage.score(part.only(fresh), task.view).items():
            tables[table] = tables.get(table, []) + rows
    if num_open := stage.num_open(tables.get("signals", [])):
        return time.monotonic() - start, len(fresh), num_open
    with_signals = {row["clip_id"] for row in tables.get("signals", [])}
    assert with_signals == set(digests), f"{stage.name} gave no signals for {sorted(set(digests) - with_signals)[:3]}"
    files = {}
    settings_digest = task.settings_digest("score")
    refuse_redone(folder, task.plan)
    for table in (*stage.adds, "signals"):
        schema = signal_schema(stage.signal_columns()) if table == "signals" else SCHEMAS[table]
        rows = tables.get(table, [])
        files[f"{table}/{index:05d}"] = write_part(folder, table, index, rows, schema, settings_digest)
    write_json(done, {"key": key, "settings": settings_digest, "clips": digests, "files": files})
    return time.monotonic() - start, len(fresh), 0


def _reuse(task: _Task, digests: dict[str, str]) -> tuple[Tables, set[str]]:
    """Rows of an earlier run of this folder for clips that are unchanged, and the ids of those clips."""
    previous = task.folder / "previous"
    tables: Tables = {}
    kept: set[str] = set()
    if not (previous / "plan.json").exists():
        return tables, kept
    num_parts = read_json(previous / "plan.json")["num_parts"]
    settings_digest = task.settings_digest("score")
    for old in sorted({part_of(clip_id, num_parts) for clip_id in digests}):
        done = _done_path(previous, "score", old)
        if not done.exists() or (record := read_object(done)).get("settings") != settings_digest:
            continue
        same = {clip_id for clip_id, value in digests.items() if record["clips"].get(clip_id) == value}
        if task.stage.reads_video:
            same -= _retriable_drops(previous, old)
        for table in (*task.stage.adds, "signals") if same else ():
            rows = [row for row in read_part(previous, table, old) if row["clip_id"] in same]
            tables[table] = tables.get(table, []) + rows
        kept |= same
    return tables, kept


def _apply_part(task: _Task) -> float:
    """Applies the decisions to one part; returns the seconds."""
    start = time.monotonic()
    stage, folder, index = task.stage, task.folder, task.part
    score_record = read_json(_done_path(folder, "score", index))
    key = digest([task.settings_digest("apply"), task.decisions, score_record["key"], task.view.digest])
    done = _done_path(folder, "apply", index)
    if _is_done(done, key, task.settings_digest("apply")):
        return time.monotonic() - start
    done.unlink(missing_ok=True)
    part = task.view.part(index, ("texts", "frames", "signals"))
    signals = _by_id(read_part(folder, "signals", index))
    tables = stage.apply(part, signals, task.decisions or {})
    version = {"rule_version": f"{stage.name}/{stage.version}"}
    drops = [version | row | {"stage": stage.name} for row in tables.get("dropped", [])]
    unknown = {row["reason"] for row in drops} - {
        *stage.reasons,
        *(UNREADABLE if stage.reads_video else ()),
        NO_TEXT_LEFT,
    }
    assert not unknown, f"{stage.name} drops for {sorted(unknown)}, which its `reasons` do not explain"
    added = read_part(folder, "texts", index) if "texts" in stage.adds else []
    superseded = tables.get("superseded", [])
    table = "missing" if task.view.is_benchmark else "dropped"
    if not task.view.is_benchmark:
        with_new_text = set(new_texts(part, added).values())
        drops = drops + [version | row for row in left_without_text(stage.name, part, with_new_text, drops)]
    settings_digest = task.settings_digest("apply")
    written = [(table, drops, SCHEMAS[table])]
    if "texts" in stage.adds:
        written.append(("superseded", superseded, SCHEMAS["superseded"]))
    if columns := stage.verdict_columns | stage.more_verdict_columns(task.view):
        written.append(("verdicts", tables.get("verdicts", []), signal_schema(columns)))
    refuse_redone(folder, task.plan)
    files = {
        f"{name}/{index:05d}": write_part(folder, name, index, rows, schema, settings_digest)
        for name, rows, schema in written
    }
    counts = count_part(part, added + superseded, drops, task.view.is_benchmark) + Counts(others=stage.counts(signals))
    write_json(done, {"key": key, "settings": settings_digest, "files": files, "counts": counts.to_dict()})
    return time.monotonic() - start


def one_thread() -> None:
    """Sets torch to one thread: with more, the last bits of a score would depend on the number of workers."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
