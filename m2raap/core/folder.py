"""A stage's folder: `plan.json` says what was asked, `manifest.json`, written last, what came of it.

No manifest means unfinished. Times live in `timings.jsonl`, outside every digest. Whoever begins, writes and finishes holds
the folder's lock (core/lock.py) all the while.
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

from m2raap.core.config import digest
from m2raap.core.errors import M2raapError
from m2raap.core.files import (
    create_json,
    read_json,
    read_json_lines,
    read_object,
    remove_drafts,
    write_error,
    write_json,
)
from m2raap.core.lock import FILE as LOCK_FILE
from m2raap.core.lock import PATIENCE_S, PAUSE_S, FolderLock
from m2raap.core.scores import scores_digest
from m2raap.core.signed import FORMAT, refuse_old_format
from m2raap.core.view import View

_TRANSIENT = ("previous", "cache", "timings.jsonl", LOCK_FILE)


def begin(
    folder: Path,
    stage: str,
    version: int,
    view: View | None,
    settings: dict[str, Any],
    force: bool,
    inputs: dict[str, str] | None = None,
    shared: FolderLock | None = None,
    is_worth_redoing: Callable[[], bool] = lambda: False,
) -> bool:
    """Opens a stage folder for writing; True: it is finished already, with just these inputs and settings.

    Raises M2raapError naming what differs when the folder belongs to other inputs or settings, or to something else. With
    `force` what it held is set aside in `previous/`, from where unchanged clips are reused. `shared`: the lock where other
    shares may be at work, too; what they rely on is changed only where there are none. `is_worth_redoing`: whether `force` also
    redoes a folder that was made from just this.
    """
    plan = {
        "stage": stage,
        "version": version,
        "format": FORMAT,
        "settings": json.loads(json.dumps(settings)),
        "inputs": _inputs(view, inputs),
        "num_parts": view.num_parts if view else 0,
    }
    path = folder / "plan.json"
    if _alone(folder, shared, lambda: (folder / _MOVING).exists() and not _is_strange(folder / _MOVING)):
        _take_up(folder)
    if not path.exists():
        strangers = [path.name for path in folder.iterdir() if _is_strange(path)] if folder.exists() else []
        if strangers:
            raise M2raapError(f"{folder}: holds '{strangers[0]}', which is not of a stage; give an empty folder")
        create_json(path, plan)
    if force and _alone(folder, shared, lambda: read_object(path) != plan or is_worth_redoing()):
        _set_aside(folder)
        create_json(path, plan)
    if shared:
        shared.make_shared()
    old = read_object(path)
    refuse_old_format(old, folder)
    if old != plan:
        raise M2raapError(
            f"{folder}: was made with {_differences(old, plan, 0)}; this run asks for {_differences(old, plan, 1)}. "
            "Use --force to redo it (what still fits is reused), or another --out"
        )
    return (folder / "manifest.json").exists()


def _alone(folder: Path, shared: FolderLock | None, is_due: Callable[[], bool]) -> bool:
    """Whether something is due that only one writer may do, and this one is alone. Of several shares that come to it at once
    one does it, and for the others it is due no longer. Raises M2raapError where others keep at work."""
    deadline = time.monotonic() + PATIENCE_S
    while is_due():
        if shared is None or (shared.try_exclusive() and is_due()):
            return True
        if time.monotonic() > deadline:
            raise M2raapError(
                f"{folder}: another m2raap is at work in it with other settings, as a share; run this again when it has ended"
            )
        time.sleep(PAUSE_S)
    return False


def _is_strange(path: Path) -> bool:
    """Whether a stage would not have written this."""
    if path.name in ("previous", _MOVING):
        return not any((folder / "plan.json").is_file() for folder in (path, path.parent))
    return path.name not in _TRANSIENT and not path.name.endswith(".tmp")


def _inputs(view: View | None, inputs: dict[str, str] | None) -> dict[str, str]:
    named = dict(inputs or {})
    if view:
        named["corpus"] = view.corpus.digest
        named["langs"] = ",".join(view.langs)
        named["limit"] = view.cutoff or "none"
        if view.scores:
            named["scores"] = scores_digest(view.scores)
        for parent in view.folders:
            named[parent.name] = read_json(parent / "manifest.json")["digest"]
    return named


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()}


def _differences(old: dict[str, Any], new: dict[str, Any], side: int) -> str:
    both = (_flat(old), _flat(new))
    names = [name for name in sorted({*both[0], *both[1]}) if both[0].get(name) != both[1].get(name)]
    # What a person changed says more than the digests that changed with it.
    names = [n for n in names if n == "stage"] or [n for n in names if n.startswith("settings.")] or names

    def show(name: str) -> str:
        value = both[side].get(name, "none")
        short = str(value)[:12] if name.startswith("inputs.") else json.dumps(value, ensure_ascii=False)
        key = name.removeprefix("settings.").removeprefix("score.").removeprefix("apply.").removeprefix("rows.")
        return f"{new['stage']}.{key} {short}" if name.startswith("settings.") else f"{name} {short}"

    return ", ".join(show(name) for name in names[:4]) + (", ..." if len(names) > 4 else "")


_MOVING = "previous.tmp"


def _set_aside(folder: Path) -> None:
    """Moves what a folder holds to its own `previous/`, one by one: the folder may be a mount point, a link, and is locked.

    The manifest goes first, so that the folder is unfinished from then on, and the plan last: where it lies tells a run that
    comes after a crash whether all was moved.
    """
    moving = folder / _MOVING
    moving.mkdir()
    names = sorted({path.name for path in folder.iterdir()} - {*_TRANSIENT, _MOVING, "manifest.json", "plan.json"})
    for name in ("manifest.json", *names, "plan.json"):
        if (folder / name).exists():
            os.replace(folder / name, moving / name)
    _take_up(folder)


def _take_up(folder: Path) -> None:
    """Brings a setting aside that was cut off to its end, or back to its beginning; also its own last step."""
    moving = folder / _MOVING
    if not moving.exists():
        return
    if (folder / "plan.json").exists():
        for path in sorted(moving.iterdir(), key=lambda path: path.name == "manifest.json"):
            if (folder / path.name).is_dir():  # of a worker that outlived its command
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
        moving.rmdir()
    elif (moving / "plan.json").exists() and not (folder / "previous").exists():
        (moving / "manifest.json").unlink(missing_ok=True)
        os.replace(moving, folder / "previous")
    else:  # what was set aside was itself an unfinished redo: the older, whole state serves better
        for path in sorted(moving.iterdir(), key=lambda path: path.name == "plan.json"):  # by which it is known as ours
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        moving.rmdir()


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
    """Signs the folder, which is held alone: digests of parents, settings, parts and models."""
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
    if view:
        folder_path = folder.resolve()
        manifest["view"] = {
            "corpus": os.path.relpath(view.corpus_path.resolve(), folder_path),
            "folders": [os.path.relpath(parent.resolve(), folder_path) for parent in view.folders],
            "langs": list(view.langs),
            "cutoff": view.cutoff,
        }
    write_json(folder / "manifest.json", manifest)
    shutil.rmtree(folder / "previous", ignore_errors=True)


_UNSIGNED = ("digest", "view", "was")  # `view`: where its parents lie today; `was`: written by older versions


def manifest_digest(manifest: dict[str, Any]) -> str:
    """What a stage folder is called: a digest over its manifest, without where it lies."""
    return digest({key: value for key, value in manifest.items() if key not in _UNSIGNED})


def plan_digest(folder: Path) -> str:
    """Names what a folder that was begun is being made from."""
    return digest(read_object(folder / "plan.json"))


def refuse_redone(folder: Path, plan: str) -> None:
    """Raises M2raapError where a folder is no longer being made from what `plan_digest` named.

    Its lock forbids that, but not every file system knows locks, and a worker of another machine may outlive its command.
    """
    if not (folder / "plan.json").exists() or plan_digest(folder) != plan:
        raise M2raapError(
            f"{folder}: another command has redone it with other settings or inputs while this one ran; what that one wrote "
            "is kept. Run the one that you want again"
        )


def refuse_changed(folder: Path, view: View | None, inputs: dict[str, str] | None = None) -> None:
    """Raises M2raapError where what a folder is made from is no longer what its plan names: nobody has locked that."""
    planned = {"inputs": read_object(folder / "plan.json").get("inputs")}
    today = {"inputs": _inputs(replace(view) if view else None, inputs)}  # a view of its own: what it knows may be old
    if planned != today:
        raise M2raapError(
            f"{folder}: what it is made from has changed while this ran ({_differences(planned, today, 0)}, now "
            f"{_differences(planned, today, 1)}); run this again with --force"
        )


def log_timing(folder: Path, phase: str, seconds: float, **more: Any) -> None:
    record = {"phase": phase, "seconds": round(seconds, 4), **more}
    try:
        with open(folder / "timings.jsonl", "a", encoding="utf-8") as sink:
            sink.write(json.dumps(record, sort_keys=True) + "\n")
    except OSError as error:
        raise write_error(folder / "timings.jsonl", error) from None


def read_timings(folder: Path) -> list[dict[str, Any]]:
    path = folder / "timings.jsonl"
    return read_json_lines(path) if path.exists() else []
