"""How a data stage runs: `score` (part -> part), `reduce` where needed, `apply` (part + decisions -> part).

`score` is dear and pure per clip; `apply` is thresholds. Both have digests of their own, so that new thresholds redo only
`apply`, and what an earlier run of the folder holds for an unchanged clip is reused. The manifest is written last: without
one the stage is unfinished, and the same command resumes it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from m2raap.core import talk
from m2raap.core.config import digest
from m2raap.core.engine import Engine
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, read_object, write_json
from m2raap.core.folder import begin, finish, log_timing, plan_digest, refuse_changed, refuse_redone
from m2raap.core.ledger import count_part, left_without_text, new_texts
from m2raap.core.lock import locked
from m2raap.core.tables import SCHEMAS, Row, part_of, read_part, signal_schema, write_part
from m2raap.core.videos import VideoDigests
from m2raap.core.view import Part, View, clip_digest

Tables = dict[str, list[Row]]
Signals = dict[str, Row]  # one stage's signals by clip_id or text_id


class DataStage:
    """Base of the stages that map parts. Subclasses are small, stateless and picklable.

    `score` must depend on nothing but one clip's own rows and the settings, so that reuse by clip equals a fresh run; it
    returns at least one `signals` row for every clip. What looks across clips belongs into `reduce`.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("texts",)  # what `score` sees
    reads_video: ClassVar[bool] = False  # then `video_digest` names its bytes
    adds: ClassVar[tuple[str, ...]] = ()  # tables that `score` writes besides signals
    reduces: ClassVar[bool] = False

    verdict_columns: ClassVar[dict[str, str]] = {}  # of the scores that only `apply` can know

    def more_verdict_columns(self, view: View) -> dict[str, str]:
        """Columns of `verdicts` beside those, which depend on what the user gave."""
        return {}

    def signal_columns(self) -> dict[str, str]:
        """Name -> float | int | str | bool | bytes of the columns that `score` writes."""
        raise NotImplementedError  # abstract: every stage states its columns

    def video_digest(self, clip: Row, view: View, videos: VideoDigests, settings: dict[str, Any]) -> str:
        """Names the bytes that `score` will read of a clip's video; 'absent' where it may not or cannot."""
        return "absent"

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        raise NotImplementedError  # abstract: the stage itself

    def reduce(self, parts: Iterable[tuple[Part, Signals]], settings: dict[str, Any]) -> dict[str, Any]:
        return {}

    def apply(self, part: Part, own: Signals, decisions: dict[str, Any], settings: dict[str, Any]) -> Tables:
        """The `dropped` (and `verdicts`) rows of one part. `own`: this stage's signals; `part.signals`: those before it.

        A stage that adds texts also gives `superseded`: rows of texts that its own replace, with active False.
        """
        return {}

    def ledger(self, own: Signals) -> dict[str, int]:
        """More counts of one part for the manifest, such as how many texts went to which server."""
        return {}


@dataclass(frozen=True)
class Settings:
    """What a stage is asked to do: `score` and `apply` apart, because they are redone apart."""

    score: dict[str, Any]
    apply: dict[str, Any]
    how: dict[str, Any] | None = None  # addresses, patience: `score` gets them as settings['how'], no digest holds them

    @property
    def both(self) -> dict[str, Any]:
        return {"score": self.score, "apply": self.apply}


@dataclass(frozen=True)
class _Task:
    stage: DataStage
    view: View
    settings: Settings
    folder: Path
    part: int
    plan: str  # what the folder is made from: it must not become another one meanwhile
    decisions: dict[str, Any] | None = None

    def settings_digest(self, phase: str) -> str:
        """Names the settings of a phase; every part carries it."""
        return phase_digest(self.stage.name, self.stage.version, phase, self.settings.both)


def phase_digest(stage: str, version: int, phase: str, settings: dict[str, Any]) -> str:
    """Names the settings that a stage's parts of a phase (score, apply) were made with."""
    return digest([stage, version, settings[phase]])


def run_data_stage(
    stage: DataStage,
    view: View,
    settings: Settings,
    folder: Path,
    engine: Engine,
    *,
    force: bool = False,
    share: tuple[int, int] = (1, 1),
) -> bool:
    """Brings `folder` to its finished state; True when it is. False: with `share` (i, n), other shares are still missing.

    Shares work side by side; whoever finds that all is scored waits for the others to end and finishes alone.
    Raises M2raapError when the folder was made from other inputs or settings, unless `force`, or where another command is
    writing it.
    """
    alone = share == (1, 1)
    if stage.reads_video:
        _ = view.corpus.video_root  # refused before any work; and workers elsewhere get it with the corpus
    with locked(folder, shared=not alone) as lock:
        shared = None if alone else lock
        if begin(folder, stage.name, stage.version, view, settings.both, force, shared=shared):
            talk.log(f"{stage.name}: done before")
            return True
        plan = plan_digest(folder)
        parts = [part for part in range(view.num_parts) if part % share[1] == share[0] - 1]
        _map(stage, "score", [_Task(stage, view, settings, folder, part, plan) for part in parts], engine, folder)
        if any(not _done_path(folder, "score", part).exists() for part in range(view.num_parts)):
            talk.log(f"{stage.name}: share {share[0]}/{share[1]} is scored; other shares are not finished yet")
            return False
        if not alone and lock:
            talk.log(f"{stage.name}: all is scored; the last share finishes when the others have ended")
            lock.wait_exclusive()
            refuse_redone(folder, plan)
            if (folder / "manifest.json").exists():
                return True
        _finish(stage, view, settings, folder, plan, engine)
    return True


def _finish(stage: DataStage, view: View, settings: Settings, folder: Path, plan: str, engine: Engine) -> None:
    """Decides over all that was scored, applies, and signs. Raises M2raapError for a part that was made by other settings."""
    decisions = _decide(stage, view, settings, folder)
    tasks = [_Task(stage, view, settings, folder, part, plan, decisions) for part in range(view.num_parts)]
    _map(stage, "apply", tasks, engine, folder)
    counts: Counter[str] = Counter()
    files: dict[str, str] = {}
    for task in tasks:
        for phase, record in _records(task).items():
            if record.get("settings") != task.settings_digest(phase):
                raise M2raapError(
                    f"{_done_path(folder, phase, task.part)}: another command wrote this part with other settings while this "
                    "one ran; run this one again: it makes the part anew"
                )
            files |= record["files"]
            counts.update(record.get("counts", {}))
    for what in ("clips", "texts"):
        dropped = sum(n for key, n in counts.items() if key.startswith(f"{what}_dropped:"))
        came, stay = counts[f"{what}_in"] + counts[f"{what}_added"], counts[f"{what}_out"] + dropped
        assert came == stay, f"{stage.name}: of {came} {what} {stay} are accounted for"
    refuse_redone(folder, plan)
    refuse_changed(folder, view)
    finish(folder, stage.name, stage.version, view, settings.both, files, dict(sorted(counts.items())))


def _map(stage: DataStage, phase: str, tasks: list[_Task], engine: Engine, folder: Path) -> None:
    work: Callable[[_Task], tuple[float, int]] = _score_part if phase == "score" else _apply_part
    if phase == "apply":  # thresholds: not worth the way to a worker
        for task in tasks:
            log_timing(folder, phase, work(task)[0], part=task.part)
        return
    with talk.progress(f"{folder.parent.name}/{stage.name}", len(tasks)) as advance:
        for index, (seconds, scored) in engine.map(work, tasks):
            log_timing(folder, phase, seconds, part=tasks[index].part, scored=scored)
            advance()


@dataclass(frozen=True)
class _Parts:
    """Every part with the stage's own signals, read anew each time that one goes through them."""

    view: View
    folder: Path

    def __iter__(self) -> Iterator[tuple[Part, Signals]]:
        for index in range(self.view.num_parts):
            part = self.view.part(index, ("texts", "frames", "signals"))
            yield part, _by_id(read_part(self.folder, "signals", index))


def _records(task: _Task) -> dict[str, dict[str, Any]]:
    return {phase: read_object(_done_path(task.folder, phase, task.part)) for phase in ("score", "apply")}


def _decide(stage: DataStage, view: View, settings: Settings, folder: Path) -> dict[str, Any]:
    if not stage.reduces:
        return {}

    start = time.monotonic()
    decisions = stage.reduce(_Parts(view, folder), settings.apply)
    write_json(folder / "decisions.json", decisions)
    log_timing(folder, "reduce", time.monotonic() - start)
    return decisions


def _done_path(folder: Path, phase: str, part: int) -> Path:
    return folder / "done" / f"{phase}-{part:05d}.json"


def _is_done(path: Path, key: str, settings: str) -> bool:
    """Whether a part was made before, from just this. (Records of older versions name no settings.)"""
    record = read_object(path) if path.exists() else {}
    return (record.get("key"), record.get("settings")) == (key, settings)


def _by_id(rows: Iterable[Row]) -> Signals:
    return {row["text_id"] or row["clip_id"]: row for row in rows}


def _score_part(task: _Task) -> tuple[float, int]:
    """Seconds, and how many clips were scored: what is done or can be reused is not."""
    start = time.monotonic()
    stage, folder, index = task.stage, task.folder, task.part
    part = task.view.part(index, stage.reads)
    videos = VideoDigests(folder / "cache" / f"videos-{index:05d}.json") if stage.reads_video else None
    digests = {
        clip["clip_id"]: clip_digest(
            part, clip, stage.video_digest(clip, task.view, videos, task.settings.score) if videos else None
        )
        for clip in part.clips
    }
    if videos:
        videos.save()
    key = digest([stage.name, stage.version, task.settings.score, digests])
    done = _done_path(folder, "score", index)
    refuse_redone(folder, task.plan)
    if _is_done(done, key, task.settings_digest("score")):
        return time.monotonic() - start, 0
    done.unlink(missing_ok=True)
    tables, kept = _reuse(task, digests)
    fresh = set(digests) - kept
    if fresh:
        one_thread()
        settings = dict(task.settings.score)
        if task.settings.how is not None:
            settings["how"] = task.settings.how | {"folder": str(folder)}
        for table, rows in stage.score(part.only(fresh), task.view, settings).items():
            tables[table] = tables.get(table, []) + rows
    have = {row["clip_id"] for row in tables.get("signals", [])}
    assert have == set(digests), f"{stage.name} gave no signals for {sorted(set(digests) - have)[:3]}"
    files = {}
    settings_digest = task.settings_digest("score")
    refuse_redone(folder, task.plan)
    for table in (*stage.adds, "signals"):
        schema = signal_schema(stage.signal_columns()) if table == "signals" else SCHEMAS[table]
        rows = tables.get(table, [])
        files[f"{table}/{index:05d}"] = write_part(folder, table, index, rows, schema, settings_digest)
    write_json(done, {"key": key, "settings": settings_digest, "clips": digests, "files": files})
    return time.monotonic() - start, len(fresh)


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
        for table in (*task.stage.adds, "signals") if same else ():
            rows = [row for row in read_part(previous, table, old) if row["clip_id"] in same]
            tables[table] = tables.get(table, []) + rows
        kept |= same
    return tables, kept


def _apply_part(task: _Task) -> tuple[float, int]:
    start = time.monotonic()
    stage, folder, index = task.stage, task.folder, task.part
    score_record = read_json(_done_path(folder, "score", index))
    key = digest([task.settings.apply, task.decisions, score_record["key"], task.view.digest])
    done = _done_path(folder, "apply", index)
    if _is_done(done, key, task.settings_digest("apply")):
        return time.monotonic() - start, 0
    done.unlink(missing_ok=True)
    part = task.view.part(index, ("texts", "frames", "signals"))
    own = _by_id(read_part(folder, "signals", index))
    made = stage.apply(part, own, task.decisions or {}, task.settings.apply)
    version = {"rule_version": f"{stage.name}/{stage.version}"}
    drops = [version | row | {"stage": stage.name} for row in made.get("dropped", [])]
    added = read_part(folder, "texts", index) if "texts" in stage.adds else []
    superseded = made.get("superseded", [])
    table = "missing" if task.view.is_benchmark else "dropped"
    if not task.view.is_benchmark:
        with_new = set(new_texts(part, added).values())
        drops = drops + [version | row for row in left_without_text(stage.name, part, with_new, drops)]
    settings_digest = task.settings_digest("apply")
    written = [(table, drops, SCHEMAS[table])]
    if "texts" in stage.adds:
        written.append(("superseded", superseded, SCHEMAS["superseded"]))
    if columns := stage.verdict_columns | stage.more_verdict_columns(task.view):
        written.append(("verdicts", made.get("verdicts", []), signal_schema(columns)))
    refuse_redone(folder, task.plan)
    files = {
        f"{name}/{index:05d}": write_part(folder, name, index, rows, schema, settings_digest)
        for name, rows, schema in written
    }
    counts = count_part(part, added + superseded, drops, task.view.is_benchmark).to_dict() | stage.ledger(own)
    write_json(done, {"key": key, "settings": settings_digest, "files": files, "counts": counts})
    return time.monotonic() - start, 0


def one_thread() -> None:
    """Scores compute with one thread: more would change the last bits from one number of workers to another."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
