"""What was forgotten and must not come back: hashes of clip ids and of video bytes, never the names themselves.

`tombstones.json` lies in a corpus folder; `write_corpus` leaves out whatever it names, under its old id or as the same bytes
under a new one. While `m2raap data forget` is at work, `.forgetting.json` stands in every folder that it touches: whoever opens
one of them before the work is done is refused here. The mark is a mark, no order: what is left to do stands in a journal in
the user's own state folder, and only `m2raap data forget` carries it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, inside, read_json, write_json

FILE = "tombstones.json"
MARK = ".forgetting.json"
_at_work: ContextVar[bool] = ContextVar("a forget is at work", default=False)
_also: ContextVar[tuple[Path, ...]] = ContextVar("tombstones of other corpora", default=())


@dataclass(frozen=True)
class Tombstone:
    """`id`: SHA-256 of the clip id. `content`: of the video's bytes and the clip's span, where the file was there.
    `num_bytes` of the file saves hashing files of another size. `was_here`: removed from the corpus that holds this."""

    id: str
    content: str | None = None
    num_bytes: int | None = None
    was_here: bool = False


def id_hash(clip_id: str) -> str:
    return hashlib.sha256(clip_id.encode()).hexdigest()


def bury(clip: dict[str, Any], video_root: Path) -> Tombstone:
    """The tombstone of a clip that is about to leave its corpus."""
    known: tuple[str | None, int | None] = (None, None)
    with suppress(OSError, ValueError, M2raapError):  # M2raapError: a path that leads out of the root
        path = inside(video_root, clip["video"])
        if path.is_file():
            known = (_content(path, clip), path.stat().st_size)
    return Tombstone(id_hash(clip["clip_id"]), *known, was_here=True)


def _content(path: Path, clip: dict[str, Any]) -> str:
    span = f"{file_sha256(path)}:{clip.get('start_s')}:{clip.get('end_s')}"
    return hashlib.sha256(span.encode()).hexdigest()


class Tombstones:
    """What must not come (back) into a corpus."""

    def __init__(self, stones: Iterable[Tombstone] = ()) -> None:
        self.stones: dict[str, Tombstone] = {}
        for stone in stones:
            known = self.stones.get(stone.id)
            was_here = stone.was_here or bool(known and known.was_here)
            content = stone if stone.content or not known else known
            self.stones[stone.id] = Tombstone(stone.id, content.content, content.num_bytes, was_here)
        self._contents = {stone.content for stone in self.stones.values() if stone.content}
        self._sizes = {stone.num_bytes for stone in self.stones.values() if stone.content}

    def __len__(self) -> int:
        return len(self.stones)

    def contains(self, clip_id: str) -> bool:
        return id_hash(clip_id) in self.stones

    def covers(self, clip: dict[str, Any], video_root: Path) -> bool:
        """By id, or by the bytes of its video (hashed only where a forgotten file had just this size)."""
        if self.contains(clip["clip_id"]):
            return True
        if not self._contents or "\0" in clip["video"] or "://" in clip["video"]:
            return False
        try:
            path = inside(video_root, clip["video"])
            same_size = path.is_file() and path.stat().st_size in self._sizes
            return same_size and _content(path, clip) in self._contents
        except (OSError, M2raapError):
            return False  # what cannot be read is refused as unreadable later


def read(path: Path) -> Tombstones:
    """Of a corpus folder, or of a tombstone file. A folder without one has forgotten nothing."""
    file = path / FILE if path.is_dir() else path
    if path.is_dir() and not file.exists():
        return Tombstones()
    tree = read_json(file)
    if not isinstance(tree, dict) or tree.get("kind") != "tombstones":
        raise M2raapError(f"{file}: is no tombstone file; 'm2raap data forget' leaves them in corpus folders")
    return Tombstones(Tombstone(**stone) for stone in tree["stones"])


def write(folder: Path, found: Tombstones) -> None:
    stones = [vars(found.stones[key]) for key in sorted(found.stones)]
    if stones:
        write_json(folder / FILE, {"kind": "tombstones", "version": 1, "stones": stones})


@contextmanager
def honouring(files: Iterable[Path]) -> Iterator[None]:
    """Corpora written inside also leave out what these tombstone files (or corpus folders) name, and keep their stones."""
    files = tuple(files)
    for file in files:
        read(file)  # a file that is none is said before any work
    token = _also.set(files)
    try:
        yield
    finally:
        _also.reset(token)


def for_import(folder: Path) -> Tombstones:
    """What an import into `folder` must leave out."""
    own = read(folder).stones.values() if folder.is_dir() else ()
    others = [stone for file in _also.get() for stone in read(file).stones.values()]
    return Tombstones([*(Tombstone(s.id, s.content, s.num_bytes) for s in others), *own])


def benchmark_name(name: str, num_gone: int) -> str:
    """A benchmark that lacks clips is no longer the one that its protocol names."""
    base = name.partition("-minus-")[0]
    return f"{base}-minus-{num_gone}" if num_gone else base


@contextmanager
def at_work() -> Iterator[None]:
    """Inside, marked folders open: for the forget itself."""
    token = _at_work.set(True)
    try:
        yield
    finally:
        _at_work.reset(token)


def refuse_unfinished(folder: Path) -> None:
    """Raises M2raapError where a forget was interrupted in `folder`, whoever's it was."""
    if _at_work.get() or not (folder / MARK).exists():
        return
    raise M2raapError(
        f"{folder}: a 'm2raap data forget' was interrupted here; the same command finishes it. If you have not begun one "
        f"here as this user, delete its {MARK}: 'm2raap status --verify' says what is whole, and another forget of the same "
        "ids goes on"
    )
