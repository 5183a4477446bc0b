"""The content of a stage folder that is made again moves to `previous/` in it, from where unchanged clips are reused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from m2raap.core.lock import FILE as LOCK_FILE

# What does not move: it belongs to the folder, whatever is made in it.
TRANSIENT = ("previous", "cache", "timings.jsonl", LOCK_FILE)
MOVING = "previous.tmp"  # while it moves


def move_to_previous(folder: Path) -> None:
    """Moves the content of a folder to `previous/` in it, file by file, because the folder may be a link or a mount point.

    The manifest is moved first, so that the folder is unfinished from then on, and the plan last: after a crash the place of the
    plan shows whether everything was moved.
    """
    moving = folder / MOVING
    moving.mkdir()
    names = sorted({path.name for path in folder.iterdir()} - {*TRANSIENT, MOVING, "manifest.json", "plan.json"})
    for name in ("manifest.json", *names, "plan.json"):
        if (folder / name).exists():
            os.replace(folder / name, moving / name)
    complete_move(folder)


def complete_move(folder: Path) -> None:
    """Completes `move_to_previous`, of which it is the last step, or undoes it where it was interrupted."""
    moving = folder / MOVING
    if not moving.exists():
        return
    if (folder / "plan.json").exists():
        for path in sorted(moving.iterdir(), key=lambda path: path.name == "manifest.json"):
            if (folder / path.name).is_dir():  # written by a worker that outlived its command
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
        moving.rmdir()
    elif (moving / "plan.json").exists() and not (folder / "previous").exists():
        (moving / "manifest.json").unlink(missing_ok=True)
        os.replace(moving, folder / "previous")
    else:  # an unfinished redo was to be moved: the older, finished content of previous/ is more useful
        # The plan is removed last, because it marks the folder as a stage's.
        for path in sorted(moving.iterdir(), key=lambda path: path.name == "plan.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        moving.rmdir()
