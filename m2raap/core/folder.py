"""A stage's folder: `plan.json` holds the inputs and settings of the stage; `manifest.json`, written last, the results.

A folder without a manifest is unfinished. Times are kept in `timings.jsonl`, which no digest includes. A command holds the
folder's lock (core/lock.py) from `begin` to `finish`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.config import digest
from m2raap.core.errors import M2raapError
from m2raap.core.files import create_json, read_object, remove_drafts, write_error, write_json
from m2raap.core.libraries import installed, joined, other_versions
from m2raap.core.lock import PATIENCE_S, PAUSE_S, FolderLock
from m2raap.core.occupied import is_foreign, refuse_foreign, refuse_other_stage
from m2raap.core.plan_changes import differences
from m2raap.core.previous import MOVING, complete_move, move_to_previous
from m2raap.core.records import Libraries, Plan, StageManifest, Timing, as_record, read_record_lines
from m2raap.core.scores import scores_digest
from m2raap.core.signed import (
    FORMAT,
    absent_files,
    manifest_digest,
    read_manifest,
    refuse_old_format,
    stage_manifest,
    verify_files,
)
from m2raap.core.view import View


def plan_of(
    stage: str,
    version: int,
    view: View | None,
    settings: dict[str, Any],
    inputs: dict[str, str] | None = None,
) -> Plan:
    """The inputs and settings that a stage asks for, in the form of `plan.json`. The folders before it have to be finished."""
    return {
        "stage": stage,
        "version": version,
        "format": FORMAT,
        "settings": json.loads(json.dumps(settings)),
        "inputs": _inputs(view, inputs),
        "num_parts": view.num_parts if view else 0,
    }


def begin(
    folder: Path,
    plan: Plan,
    view: View | None,
    force: bool,
    shared: FolderLock | None = None,
    is_worth_redoing: Callable[[], bool] = lambda: False,
) -> bool:
    """Opens a stage folder for writing; True: it is already finished, with exactly the inputs and settings of `plan`.

    Raises M2raapError naming what differs when the folder was made from other inputs or settings, or holds files of something
    else, and without `force` where a finished folder has lost a file. With `force` its old content is moved to
    `previous/`, from where unchanged clips are reused, also where files of it are damaged. `shared`: the folder's lock where
    other shares may work in it, too; old content is then moved only while there are none. `is_worth_redoing`: whether `force`
    also redoes a folder with the same inputs and settings.
    """
    refuse_other_stage(folder, plan["stage"])
    written = plan | {"libraries": installed()}
    path = folder / "plan.json"
    if _alone(folder, shared, lambda: (folder / MOVING).exists() and not is_foreign(folder / MOVING)):
        complete_move(folder)
    if not path.exists() and (folder / "manifest.json").exists():
        _restore_plan(folder, plan, force)
    if not path.exists():
        refuse_foreign(folder)
        create_json(path, written)
    if force and _alone(folder, shared, lambda: _is_other(folder, plan) or _is_damaged(folder) or is_worth_redoing()):
        move_to_previous(folder)
        create_json(path, written)
    if shared:
        shared.make_shared()
    old, libraries = _read_plan(folder)
    if old != plan:
        before, after = differences(old, plan)
        raise M2raapError(
            f"{folder}: was made with {before}; this run asks for {after}. "
            "Use --force to redo it (unchanged clips are reused), or another --out"
        )
    if not (folder / "manifest.json").exists():
        _note_libraries(folder, plan, libraries)
        return False
    if lost := absent_files(folder):
        raise M2raapError(
            f"{lost[0]}: is missing, although the manifest names it ({len(lost):,} such files); --force makes the stage again "
            "(unchanged clips are reused)"
        )
    _note_places(folder, view)
    return True


def begun_plan(folder: Path, num_parts: int) -> dict[str, Any] | None:
    """The plan that `begin` compares with, without the versions of libraries; None for a folder that is not begun.

    Raises M2raapError as `begin` where the folder holds something else, or is a file.
    """
    if (folder / "plan.json").exists():
        old = read_object(folder / "plan.json")
    elif (folder / "manifest.json").exists() and read_object(folder / "manifest.json").get("kind") == "stage":
        old = _plan_in(stage_manifest(folder), num_parts)
    else:
        refuse_foreign(folder)
        return None
    return {key: value for key, value in old.items() if key != "libraries"}


def _plan_in(manifest: StageManifest, num_parts: int) -> dict[str, Any]:
    """The plan of a finished stage folder, which its manifest names, too."""
    plan = {key: manifest.get(key) for key in ("stage", "version", "format", "settings", "inputs")}
    return plan | {"num_parts": num_parts, "libraries": manifest.get("libraries", {})}


def _restore_plan(folder: Path, plan: Plan, force: bool) -> None:
    """Writes the plan of a finished stage folder again that has lost it: the manifest names the same inputs and settings.

    Raises M2raapError for a damaged manifest; with `force` the plan is then an empty one, so that the folder is made again.
    """
    if read_object(folder / "manifest.json").get("kind") != "stage":
        return  # of a corpus, say: the caller refuses it
    try:
        manifest = stage_manifest(folder)
    except M2raapError:
        if not force:
            raise
        create_json(folder / "plan.json", {"stage": plan["stage"]})
        return
    create_json(folder / "plan.json", _plan_in(manifest, plan["num_parts"]))


def _note_places(folder: Path, view: View | None) -> None:
    """Writes where the inputs of a finished folder lie, if they have been moved since: no digest includes these paths."""
    manifest = read_object(folder / "manifest.json")
    if view and manifest.get("view") != (places := _places(folder, view)):
        write_json(folder / "manifest.json", manifest | {"view": places})


def _places(folder: Path, view: View) -> dict[str, Any]:
    """The entry `view` of a manifest: the paths of the inputs, relative to the folder."""
    folder_path = folder.resolve()
    return {
        "corpus": os.path.relpath(view.corpus_path.resolve(), folder_path),
        "folders": [os.path.relpath(parent.resolve(), folder_path) for parent in view.folders],
        "langs": list(view.langs),
        "cutoff": view.cutoff,
    }


def _read_plan(folder: Path) -> tuple[Plan, Libraries]:
    """plan.json without the versions of the libraries that made the folder, and these."""
    path = folder / "plan.json"
    tree = read_object(path)
    refuse_old_format(tree, folder)
    plan = as_record(Plan, tree, path).copy()
    return plan, plan.pop("libraries", {})


def _is_other(folder: Path, plan: Plan) -> bool:
    """Whether a folder was begun with another plan, or with one that cannot be read."""
    try:
        return _read_plan(folder)[0] != plan
    except M2raapError:
        return True


def _is_damaged(folder: Path) -> bool:
    """Whether a finished folder differs from its manifest."""
    if not (folder / "manifest.json").exists():
        return False
    try:
        return bool(verify_files(folder, read_manifest(folder)["files"]))
    except M2raapError:
        return True


def _note_libraries(folder: Path, plan: Plan, libraries: Libraries) -> None:
    """Says that an unfinished folder was begun with other versions of the libraries, and records those of today, too."""
    if differences := other_versions(libraries):
        talk.log(
            f"{folder}: was begun with {differences}; what is finished is kept, so that it is made by several versions"
        )
        write_json(folder / "plan.json", plan | {"libraries": joined(libraries)})


def _alone(folder: Path, shared: FolderLock | None, is_needed: Callable[[], bool]) -> bool:
    """Whether a change is needed that takes the exclusive lock, which this command then has.

    Of several shares that need it at the same time, one makes it, and the others then need it no longer. Raises M2raapError
    where other shares keep the folder locked.
    """
    deadline = time.monotonic() + PATIENCE_S
    while is_needed():
        if shared is None or (shared.try_exclusive() and is_needed()):
            return True
        if time.monotonic() > deadline:
            raise M2raapError(
                f"{folder}: another m2raap runs a share of it (--parts) with other settings; run this again when it has ended"
            )
        time.sleep(PAUSE_S)
    return False


def _inputs(view: View | None, inputs: dict[str, str] | None) -> dict[str, str]:
    named = dict(inputs or {})
    if view:
        named["corpus"] = view.corpus.digest
        named["langs"] = ",".join(view.langs)
        named["limit"] = view.cutoff or "none"
        if view.scores:
            named["scores"] = scores_digest(view.scores)
        for parent in view.folders:
            named[parent.name] = read_manifest(parent)["digest"]
    return named


def finish(
    folder: Path,
    stage: str,
    version: int,
    view: View | None,
    settings: dict[str, Any],
    files: dict[str, str],
    counts: dict[str, Any],
    inputs: dict[str, str] | None = None,
    models: dict[str, str] | None = None,
) -> None:
    """Writes the manifest: digests of parents, settings, parts and models. The caller holds the folder's exclusive lock."""
    remove_drafts(folder)
    named = _inputs(view, inputs)
    manifest: dict[str, Any] = {
        "kind": "stage",
        "stage": stage,
        "version": version,
        "format": FORMAT,
        "settings": json.loads(json.dumps(settings)),
        "inputs": named,
        "files": dict(sorted(files.items())),
        "counts": counts,
        "models": models or {},
    }
    manifest["digest"] = manifest_digest(manifest)
    plan = folder / "plan.json"
    before = read_object(plan).get("libraries", {}) if plan.exists() else {}
    manifest["libraries"] = joined(as_record(Libraries, before, plan))
    if view:
        manifest["view"] = _places(folder, view)
    write_json(folder / "manifest.json", manifest)
    shutil.rmtree(folder / "previous", ignore_errors=True)


def plan_digest(folder: Path) -> str:
    """The digest of the inputs and settings of a folder that was begun."""
    return digest(_read_plan(folder)[0])


def refuse_redone(folder: Path, plan: str) -> None:
    """Raises M2raapError where the plan of a folder is no longer the one with the digest `plan`.

    The folder's lock prevents that, but not on file systems without locks, and a worker may outlive its command.
    """
    if not (folder / "plan.json").exists() or plan_digest(folder) != plan:
        raise M2raapError(
            f"{folder}: another command has redone it with other settings or inputs while this one ran, and its files are "
            "kept. Run the command whose result you want again"
        )


def refuse_changed(folder: Path, view: View | None, inputs: dict[str, str] | None = None) -> None:
    """Raises M2raapError where the inputs of a folder are no longer those of its plan: they are not locked while it is made."""
    planned = _read_plan(folder)[0]
    today = _inputs(replace(view) if view else None, inputs)  # a new view, because this one caches
    if planned["inputs"] != today:
        before, after = differences(planned, planned | {"inputs": today})
        raise M2raapError(
            f"{folder}: its inputs have changed while this command ran ({before}, now {after}); run the command again with "
            "--force"
        )


def log_timing(folder: Path, phase: str, seconds: float, **more: Any) -> None:
    record = {"phase": phase, "seconds": round(seconds, 4), **more}
    try:
        with open(folder / "timings.jsonl", "a", encoding="utf-8") as sink:
            sink.write(json.dumps(record, sort_keys=True) + "\n")
    except OSError as error:
        raise write_error(folder / "timings.jsonl", error) from None


def read_timings(folder: Path) -> list[Timing]:
    """The lines of a folder's timings.jsonl; none where it is absent."""
    path = folder / "timings.jsonl"
    return read_record_lines(Timing, path) if path.exists() else []
