"""A stage's folder: `plan.json` says what was asked, `manifest.json`, written last, what came of it.

No manifest means unfinished. Times live in `timings.jsonl`, outside every digest.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from m2raap.core import tombstones
from m2raap.core.config import digest
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_error, write_json
from m2raap.core.scores import scores_digest
from m2raap.core.tables import SCHEMA_VERSION
from m2raap.core.view import View

_TRANSIENT = ("previous", "cache", "timings.jsonl")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for one process at a time. Raises M2raapError where another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise write_error(folder, error) from None
    try:
        with suppress(OSError):  # a file system that knows no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise M2raapError(
                    f"{folder}: another m2raap is writing it; run this again when that has ended"
                ) from None
        yield
    finally:
        os.close(handle)
        with suppress(OSError):  # what is left empty was made above, for nothing
            folder.rmdir()


def begin(
    folder: Path,
    stage: str,
    version: int,
    view: View | None,
    settings: dict[str, Any],
    force: bool,
    inputs: dict[str, str] | None = None,
) -> bool:
    """Opens a stage folder for writing; True: it is finished already, with just these inputs and settings.

    Raises M2raapError naming what differs when the folder belongs to other inputs or settings, or to something else. With
    `force` what it held is set aside in `previous/`, from where unchanged clips are reused.
    """
    if folder.exists() and not folder.is_dir():
        raise M2raapError(f"{folder}: is a file; give a folder")
    tombstones.refuse_unfinished(folder)
    plan = {
        "stage": stage,
        "version": version,
        "schema_version": SCHEMA_VERSION,
        "settings": json.loads(json.dumps(settings)),
        "inputs": _inputs(view, inputs),
        "num_parts": view.num_parts if view else 0,
    }
    path = folder / "plan.json"
    _take_in(folder)
    if not path.exists():
        strangers = [] if not folder.exists() else [p.name for p in folder.iterdir() if _stranger(p.name)]
        if strangers:
            raise M2raapError(f"{folder}: holds '{strangers[0]}', which is not of a stage; give an empty folder")
        write_json(path, plan)
        return False
    old = read_json(path)
    if old == plan:
        return (folder / "manifest.json").exists()
    if not force:
        raise M2raapError(
            f"{folder}: was made with {_differences(old, plan, 0)}; this run asks for {_differences(old, plan, 1)}. "
            "Use --force to redo it (what still fits is reused), or another --out"
        )
    _set_aside(folder)
    write_json(path, plan)
    return False


def _stranger(name: str) -> bool:
    return name not in _TRANSIENT and not name.endswith(".tmp")


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
        return f"{name.removeprefix('settings.').removeprefix('score.').removeprefix('apply.')} {short}"

    return ", ".join(show(name) for name in names[:4]) + (", ..." if len(names) > 4 else "")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.aside")


def _set_aside(folder: Path) -> None:
    """Moves the whole folder to its own `previous/`, in renames that a crash between them cannot mix up."""
    (folder / "manifest.json").unlink(missing_ok=True)
    os.replace(folder, _aside(folder))
    _take_in(folder)


def _take_in(folder: Path) -> None:
    """Second half of setting aside; also what a run does first that finds the first half done."""
    aside = _aside(folder)
    if not aside.exists():
        return
    folder.mkdir(exist_ok=True)
    older = aside / "previous"
    if older.exists():  # the state set aside was itself an unfinished redo: the older, whole one serves better
        os.replace(older, folder / "previous")
        shutil.rmtree(aside)
    else:
        os.replace(aside, folder / "previous")
    for kept in ("timings.jsonl", "cache"):
        if (folder / "previous" / kept).exists():
            os.replace(folder / "previous" / kept, folder / kept)


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
    """Signs the folder: digests of parents, settings, parts and models."""
    named = _inputs(view, inputs)
    manifest: dict[str, Any] = {
        "kind": "stage",
        "stage": stage,
        "version": version,
        "schema_version": SCHEMA_VERSION,
        "settings": json.loads(json.dumps(settings)),
        "inputs": named,
        "files": dict(sorted(files.items())),
        "counts": counts,
        "models": models or {},
    }
    manifest["digest"] = digest(manifest)
    if view:
        here = folder.resolve()
        manifest["view"] = {
            "corpus": os.path.relpath(view.corpus_path.resolve(), here),
            "folders": [os.path.relpath(parent.resolve(), here) for parent in view.folders],
            "langs": list(view.langs),
            "cutoff": view.cutoff,
        }
    write_json(folder / "manifest.json", manifest)
    shutil.rmtree(folder / "previous", ignore_errors=True)


def log_timing(folder: Path, phase: str, seconds: float, **more: Any) -> None:
    record = {"phase": phase, "seconds": round(seconds, 4), **more}
    try:
        with open(folder / "timings.jsonl", "a", encoding="utf-8") as sink:
            sink.write(json.dumps(record, sort_keys=True) + "\n")
    except OSError as error:
        raise write_error(folder / "timings.jsonl", error) from None


def read_timings(folder: Path) -> list[dict[str, Any]]:
    path = folder / "timings.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
