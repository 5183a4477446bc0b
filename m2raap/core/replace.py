"""An import over a corpus that is there already: it needs the user's leave, and the old corpus stays until the new one is whole.

The new tables are written into a draft folder in the corpus. Only when the draft holds a manifest, too, do they take the place
of the old tables, by renaming.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.errors import M2raapError, listed
from m2raap.core.files import read_object
from m2raap.core.state import runs_of

DRAFT = ".m2raap-draft"
# Whether an import may replace a corpus by one with other content: an option of the command, whatever the importer.
_may_replace: ContextVar[bool] = ContextVar("an import may replace other content", default=False)


@contextmanager
def replacing(force: bool) -> Iterator[None]:
    """A block in which imports may replace a corpus by one with other content if `force`, and else refuse to."""
    token = _may_replace.set(force)
    try:
        yield
    finally:
        _may_replace.reset(token)


def refuse_other_source(folder: Path, source: dict[str, Any]) -> None:
    """Raises M2raapError where a corpus was imported from another source than `source`, unless it may be replaced.

    An importer that writes videos calls it before it writes any, because these would replace those of the old corpus.
    """
    manifest = folder / "manifest.json"
    if _may_replace.get() or not manifest.exists() or (old := read_object(manifest)).get("source") == source:
        return
    raise _refused(folder, old, f"a corpus of {_counted(old)} that was made with other settings or from other videos")


def refuse_other_files(folder: Path, names: Iterable[str]) -> None:
    """Raises M2raapError where the corpus `folder` has files of these names with other bytes, unless it may be replaced."""
    names = list(names)
    if names and not _may_replace.get() and (folder / "manifest.json").exists():
        old = read_object(folder / "manifest.json")
        files = f"{len(names):,} of its files have other bytes in this import, such as {names[0]}"
        raise _refused(folder, old, f"a corpus of {_counted(old)}, and {files}")


@contextmanager
def draft_of(folder: Path, tables: Iterable[str], others: Iterable[str]) -> Iterator[Path]:
    """A block that writes a whole corpus, with its manifest, into the folder that it is given.

    At its end the draft takes the place of the corpus in `folder`: each of the `tables`, and the manifest last; `others` are
    further files of the old corpus, which are deleted. Where the block fails, or where the old corpus has other content and
    may not be replaced (M2raapError), the old corpus stays unchanged.
    """
    draft = folder / DRAFT
    shutil.rmtree(draft, ignore_errors=True)  # left by an import that was killed
    try:
        yield draft
        _refuse_other_content(folder, read_object(draft / "manifest.json"))
        (folder / "manifest.json").unlink(missing_ok=True)
        for name in tables:
            shutil.rmtree(folder / name, ignore_errors=True)
            if (draft / name).exists():
                os.replace(draft / name, folder / name)
        for name in others:
            (folder / name).unlink(missing_ok=True)
        os.replace(draft / "manifest.json", folder / "manifest.json")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refuse_other_content(folder: Path, new: dict[str, Any]) -> None:
    if not (folder / "manifest.json").exists():
        return
    old = read_object(folder / "manifest.json")
    if old.get("digest") == new["digest"]:
        return
    change = (
        f"a corpus of {_counted(old)} (digest {str(old.get('digest'))[:12]}), and this import has {_counted(new)} "
        f"(digest {new['digest'][:12]})"
    )
    if not _may_replace.get():
        raise _refused(folder, old, change)
    talk.log(f"{folder}: held {change}{_stale(folder, old)}")


def _refused(folder: Path, old: dict[str, Any], content: str) -> M2raapError:
    """The error to raise where the corpus with the manifest `old` may not be replaced; `content`: what the folder holds."""
    return M2raapError(f"{folder}: holds {content}; use --force to replace it, or another --out{_stale(folder, old)}")


def _counted(manifest: dict[str, Any]) -> str:
    counts = manifest.get("counts")
    numbers = [counts.get(name) if isinstance(counts, dict) else None for name in ("clips", "texts")]
    if not all(isinstance(number, int) for number in numbers):
        return "unknown size (its manifest is damaged)"
    return "{:,} clips and {:,} texts".format(*numbers)


def _stale(folder: Path, old: dict[str, Any]) -> str:
    """The end of a message: the runs of this machine that read the old content."""
    runs = runs_of(folder, str(old.get("digest")))
    if not runs:
        return ""
    return f". Runs that read the old content and would have to be made again: {listed(list(map(str, runs)), 5)}"
