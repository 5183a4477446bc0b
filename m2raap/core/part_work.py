"""The work of a data stage on one part: `score` and `apply`, each of which is recorded in done/ when it is finished.

A part that is finished is not made again, and rows of an earlier run of the folder are reused for unchanged clips.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from m2raap.core.config import canonical, digest
from m2raap.core.engine import device
from m2raap.core.errors import NO_TEXT_LEFT, UNREADABLE, WORTH_ANOTHER_TRY, M2raapError
from m2raap.core.extension import CODE_KEY, is_extension
from m2raap.core.extension import refuse_changed as refuse_changed_code
from m2raap.core.files import write_json
from m2raap.core.folder import refuse_redone
from m2raap.core.ledger import Counts, count_part, left_without_text, new_texts
from m2raap.core.records import DoneRecord, Plan, read_record
from m2raap.core.signed import is_as_signed, part_key, signed_path
from m2raap.core.stage import DataStage, Signals, Tables
from m2raap.core.tables import SCHEMAS, Row, part_of, read_part, row_key, signal_schema, write_part
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View, clip_digest


@dataclass(frozen=True)
class PartTask:
    """One part of a stage, with all that a worker process needs for it."""

    stage: DataStage[Any]
    view: View
    folder: Path
    part: int
    settings: dict[str, Any]  # of the stage, computed once, because that may read files
    plan: str  # digest of the folder's plan, which must not change while the task runs
    decisions: dict[str, Any] | None = None
    prepared_digest: str = ""  # digest of what the stage has made before its parts (DataStage.before_parts)

    def settings_digest(self, phase: str) -> str:
        """The digest of the settings of a phase, which is stored in every part."""
        return phase_digest(self.stage.name, self.stage.version, phase, self.settings)


def phase_digest(stage: str, version: int, phase: str, settings: dict[str, Any]) -> str:
    """The digest of the settings with which a stage makes its parts in a phase (score, apply)."""
    more = settings.get("dependencies" if phase == "score" else "rules")
    code = [settings[CODE_KEY]] if CODE_KEY in settings else []
    return digest([stage, version, settings.get(phase), more, *code])


def done_path(folder: Path, phase: str, part: int) -> Path:
    """The record of a finished part."""
    return folder / "done" / f"{phase}-{part:05d}.json"


def _is_done(folder: Path, path: Path, key: str, settings: str) -> bool:
    """Whether a part is finished, from the same clips and settings, and all its files are there and undamaged."""
    try:
        record = read_record(DoneRecord, path)
    except M2raapError:  # there is none, or it is damaged
        return False
    if (record["key"], record["settings"]) != (key, settings):
        return False
    return all(is_as_signed(signed_path(folder, name), value) for name, value in record["files"].items())


def retriable_ids(drops: Iterable[Row]) -> set[str]:
    """Ids of the clips that were dropped for a reason of WORTH_ANOTHER_TRY."""
    return {row["clip_id"] for row in drops if row["reason"] in WORTH_ANOTHER_TRY}


def by_id(rows: Iterable[Row]) -> Signals:
    """Rows of signals by the id of their clip or text."""
    return {row_key(row): row for row in rows}


class Scored(NamedTuple):
    """What scoring a part took: `num_fresh` clips were neither finished nor reused, and `num_open` questions are left open; a
    part with any is not written. `device`: of the networks that ran; None where none did."""

    seconds: float
    num_fresh: int
    num_open: int
    device: str | None = None


def score_part(task: PartTask) -> Scored:
    """Scores one part, unless it is finished."""
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
    key = digest([task.settings_digest("score"), digests, *([task.prepared_digest] if task.prepared_digest else [])])
    done = done_path(folder, "score", index)
    refuse_redone(folder, task.plan)
    if _is_done(folder, done, key, task.settings_digest("score")):
        return Scored(time.monotonic() - start, 0, 0)
    done.unlink(missing_ok=True)
    tables, kept = _reuse(task, digests)
    fresh = set(digests) - kept
    if fresh:
        refuse_changed_code(task.settings.get(CODE_KEY, {}), str(folder))
        one_thread()
        for table, rows in stage.score(part.only(fresh), task.view).items():
            tables[table] = tables.get(table, []) + rows
    if num_open := stage.num_open(tables.get("signals", [])):
        return Scored(time.monotonic() - start, len(fresh), num_open)
    with_signals = {row["clip_id"] for row in tables.get("signals", [])}
    assert with_signals == set(digests), f"{stage.name} gave no signals for {sorted(set(digests) - with_signals)[:3]}"
    files = {}
    settings_digest = task.settings_digest("score")
    refuse_redone(folder, task.plan)
    for table in (*stage.adds, "signals"):
        schema = signal_schema(stage.signal_columns()) if table == "signals" else SCHEMAS[table]
        rows = tables.get(table, [])
        files[part_key(table, index)] = write_part(folder, table, index, rows, schema, settings_digest)
    record = {"key": key, "settings": settings_digest, "clips": digests, "files": files}
    write_json(done, record | ({"prepared": task.prepared_digest} if task.prepared_digest else {}))
    on = device() if stage.runs_network and fresh else None
    return Scored(time.monotonic() - start, len(fresh), 0, on)


def _reuse(task: PartTask, digests: dict[str, str]) -> tuple[Tables, set[str]]:
    """Rows of an earlier run of this folder for clips that are unchanged, and the ids of those clips."""
    previous = task.folder / "previous"
    tables: Tables = {}
    kept: set[str] = set()
    if not (previous / "plan.json").exists():
        return tables, kept
    try:
        num_parts = read_record(Plan, previous / "plan.json")["num_parts"]
    except M2raapError:
        num_parts = 0
    for old in sorted({part_of(clip_id, num_parts) for clip_id in digests}) if num_parts else ():
        try:
            rows_of, same = _reuse_part(task, previous, old, digests)
        except M2raapError:  # absent or damaged, which may be why the folder is made again
            continue
        for table, rows in rows_of.items():
            tables[table] = tables.get(table, []) + rows
        kept |= same
    return tables, kept


def _reuse_part(task: PartTask, previous: Path, old: int, digests: dict[str, str]) -> tuple[Tables, set[str]]:
    """As `_reuse`, from one part of the earlier run. Raises M2raapError where it is absent or damaged."""
    scored = read_record(DoneRecord, done_path(previous, "score", old))
    if (scored["settings"], scored.get("prepared", "")) != (task.settings_digest("score"), task.prepared_digest):
        return {}, set()
    known = scored.get("clips", {})
    same = {clip_id for clip_id, value in digests.items() if known.get(clip_id) == value}
    applied = done_path(previous, "apply", old)
    if task.stage.reads_video and applied.exists():
        files = read_record(DoneRecord, applied)["files"]
        for table in ("dropped", "missing"):
            same -= retriable_ids(read_part(previous, table, old, files=files))
    tables: Tables = {}
    for table in (*task.stage.adds, "signals") if same else ():
        if part_key(table, old) not in scored["files"]:
            raise M2raapError(f"{previous}: its part {old} has no table '{table}'")
        rows = read_part(previous, table, old, files=scored["files"])
        tables[table] = [row for row in rows if row["clip_id"] in same]
    return tables, same


class ApplyKeys:
    """Digests of what `apply` reads. They are over the decisions, which may name many texts and are serialised once."""

    def __init__(self, settings_digest: str, decisions: dict[str, Any] | None) -> None:
        self._begun = hashlib.sha256(f"[{canonical(settings_digest)},{canonical(decisions)},".encode())

    def of(self, score_key: str, view_digest: str) -> str:
        """The digest of [settings_digest, decisions, score_key, view_digest]."""
        whole = self._begun.copy()
        whole.update(f"{canonical(score_key)},{canonical(view_digest)}]".encode())
        return whole.hexdigest()[:32]


def apply_part(task: PartTask, keys: ApplyKeys) -> float:
    """Applies the decisions to one part; returns the seconds."""
    start = time.monotonic()
    stage, folder, index = task.stage, task.folder, task.part
    score_record = read_record(DoneRecord, done_path(folder, "score", index))
    key = keys.of(score_record["key"], task.view.digest)
    done = done_path(folder, "apply", index)
    if _is_done(folder, done, key, task.settings_digest("apply")):
        return time.monotonic() - start
    done.unlink(missing_ok=True)
    part = task.view.part(index, ("texts", "frames", "signals"))
    signals = by_id(read_part(folder, "signals", index, files=score_record["files"]))
    tables = stage.apply(part, signals, task.decisions or {})
    version = {"rule_version": f"{stage.name}/{stage.version}"}
    drops = [version | row | {"stage": stage.name} for row in tables.get("dropped", [])]
    unknown = {row["reason"] for row in drops if not is_extension(row["reason"])} - {
        *stage.reasons,
        *(UNREADABLE if stage.reads_video else ()),
        NO_TEXT_LEFT,
    }
    assert not unknown, f"{stage.name} drops for {sorted(unknown)}, which its `reasons` do not explain"
    added = read_part(folder, "texts", index, files=score_record["files"]) if "texts" in stage.adds else []
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
        part_key(name, index): write_part(folder, name, index, rows, schema, settings_digest)
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
