"""Refuses to write into folders that hold something else, also with --force: it may be what took days to make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object
from m2raap.core.previous import MOVING, TRANSIENT


def refuse_foreign(folder: Path) -> None:
    """Raises M2raapError where a folder without a plan holds files of something else, or is a file."""
    if folder.exists() and not folder.is_dir():
        raise M2raapError(f"{folder}: is a file; give a folder")
    foreign_names = [path.name for path in folder.iterdir() if is_foreign(path)] if folder.exists() else []
    if foreign_names:
        raise M2raapError(f"{folder}: holds '{foreign_names[0]}', which no stage has written; give an empty folder")


def refuse_other_stage(folder: Path, stage: str) -> None:
    """Raises M2raapError for the folder of another stage, which --force must not make into one of `stage`."""
    for name in ("plan.json", "manifest.json"):
        try:
            other = read_object(folder / name).get("stage") if (folder / name).exists() else None
        except M2raapError:
            continue
        if other == stage:
            return
        if isinstance(other, str):
            raise M2raapError(
                f"{folder}: holds the output of '{other}', and this is '{stage}'; give another --out, or delete the folder first"
            )


def refuse_occupied(folder: Path, names: Sequence[str] = ("manifest.json",)) -> None:
    """Raises M2raapError where a folder in which others are to be made is itself a corpus, a stage, an index or a run."""
    for name in names:
        if (folder / name).exists():
            raise M2raapError(
                f"{folder}: is a corpus, the folder of a stage, an index or a run ({name}); give another --out"
            )


def is_foreign(path: Path) -> bool:
    """Whether no stage can have written this file or folder."""
    if path.name in ("previous", MOVING):
        return not any((folder / "plan.json").is_file() for folder in (path, path.parent))
    return path.name not in TRANSIENT and not path.name.endswith(".tmp")
