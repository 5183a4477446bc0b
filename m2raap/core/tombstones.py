"""Clips that were forgotten and must not come back: hashes of their ids, of their video bytes and of their traces, never names.

`tombstones.json` lies in a corpus folder. `write_corpus` leaves out the clips in it, by their old id or, under a new id, by their
bytes; `m2raap status --forgotten` searches any folder for their traces.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.files import inside, open_without_links, read_json, write_json

FILE = "tombstones.json"


@dataclass(frozen=True)
class Tombstone:
    """One forgotten clip.

    `id`: SHA-256 of the clip id. `content`: of the video's bytes and the clip's span, where the file could be read.
    `num_bytes`: size of that file; files of another size need not be hashed. `was_here`: the clip was removed from the corpus
    that holds this file. `traces`: SHA-256 of what only this clip had: its text ids, its texts, its video's name, its JPEGs.
    """

    id: str
    content: str | None = None
    num_bytes: int | None = None
    was_here: bool = False
    reason: str | None = None
    traces: tuple[str, ...] = ()


def id_hash(clip_id: str) -> str:
    return sha256(clip_id)


def sha256(value: str | bytes) -> str:
    """The SHA-256 of a text's UTF-8, or of bytes, in hex."""
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode(errors="surrogatepass")).hexdigest()


def make_tombstone(clip: dict[str, Any], video_root: Path, reason: str | None = None) -> Tombstone:
    """The tombstone of a clip that is about to leave its corpus. `video_root`: the folder below which its video lies."""
    tombstone = Tombstone(id_hash(clip["clip_id"]), was_here=True, reason=reason)
    with suppress(OSError, ValueError, M2raapError):  # M2raapError: a path that leads out of the root
        path = inside(video_root, clip["video"])
        if path.is_file():
            return replace(tombstone, content=_content(path, clip), num_bytes=path.stat().st_size)
    return tombstone


def _content(path: Path, clip: dict[str, Any]) -> str:
    with os.fdopen(open_without_links(path.resolve()), "rb") as source:
        content = hashlib.file_digest(source, "sha256").hexdigest()
    span = f"{content}:{clip.get('start_s')}:{clip.get('end_s')}"
    return hashlib.sha256(span.encode()).hexdigest()


class Tombstones:
    """The clips that later imports leave out of a corpus. `by_id`: tombstones by the hash of their clip id."""

    def __init__(self, tombstones: Iterable[Tombstone] = ()) -> None:
        self.by_id: dict[str, Tombstone] = {}
        for tombstone in tombstones:
            self.by_id[tombstone.id] = _merged(self.by_id.get(tombstone.id, tombstone), tombstone)
        self._contents = {tombstone.content for tombstone in self.by_id.values() if tombstone.content}
        self._sizes = {tombstone.num_bytes for tombstone in self.by_id.values() if tombstone.content}

    def __len__(self) -> int:
        return len(self.by_id)

    def contains(self, clip_id: str) -> bool:
        return id_hash(clip_id) in self.by_id

    def covers(self, clip: dict[str, Any], video_root: Path) -> bool:
        """Whether a clip was forgotten, by its id or its video bytes (hashed only where a forgotten file has the same size)."""
        if self.contains(clip["clip_id"]):
            return True
        if not self._contents or "\0" in clip["video"] or "://" in clip["video"]:
            return False
        try:
            path = inside(video_root, clip["video"])
            same_size = path.is_file() and path.stat().st_size in self._sizes
            return same_size and _content(path, clip) in self._contents
        except (OSError, M2raapError):
            return False  # a file that cannot be read is refused as unreadable later

    def hashes(self) -> frozenset[str]:
        """SHA-256 of the forgotten ids and of the traces of those clips."""
        return frozenset(self.by_id).union(*(tombstone.traces for tombstone in self.by_id.values()))


def _merged(old: Tombstone, new: Tombstone) -> Tombstone:
    """Two tombstones of one clip in one; the video's content is that of the newer one where it has it."""
    content = new if new.content else old
    return Tombstone(
        new.id,
        content.content,
        content.num_bytes,
        old.was_here or new.was_here,
        new.reason or old.reason,
        tuple(sorted({*old.traces, *new.traces})),
    )


def read(path: Path) -> Tombstones:
    """The tombstones of a corpus folder (none where the file is absent), or of a file. Raises M2raapError for any other file."""
    file = path / FILE if path.is_dir() else path
    if path.is_dir() and not file.exists():
        return Tombstones()
    tree = read_json(file)
    try:
        assert tree["kind"] == "tombstones"
        rows = [row | {"traces": tuple(map(str, row.get("traces", ())))} for row in tree["stones"]]
        return Tombstones(Tombstone(**row) for row in rows)
    except (AssertionError, AttributeError, KeyError, TypeError):
        raise M2raapError(f"{file}: is not a tombstone file; give a {FILE} of 'm2raap data forget'") from None


def write(folder: Path, tombstones: Tombstones) -> None:
    """Writes the tombstone file of a corpus folder; no file where nothing was forgotten."""
    rows = [vars(tombstones.by_id[key]) for key in sorted(tombstones.by_id)]
    if rows:
        write_json(folder / FILE, {"kind": "tombstones", "version": 2, "stones": rows})


def benchmark_name(name: str, num_forgotten: int) -> str:
    """The name of a benchmark without the forgotten clips: it no longer has the counts that its protocol declares."""
    base = name.partition("-minus-")[0]
    return f"{base}-minus-{num_forgotten}" if num_forgotten else base
