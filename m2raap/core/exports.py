"""What an exporter is given, and `export.json`, the file beside the exported files that marks the folder as an export."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from m2raap.core.errors import M2raapError
from m2raap.core.files import as_named, open_without_links, read_object, write_json
from m2raap.core.lock import locked
from m2raap.core.tables import Row
from m2raap.core.tombstones import id_hash

FILE = "export.json"
CSV_LISTING = "clips.csv"
Media = Literal["videos", "frames", "none"]


@dataclass(frozen=True)
class Item:
    """One clip of a curated view: its row, its active texts, its key-frames, its video file (None where it is absent
    or not exported), and its signals (where the format asks for some).

    `video_ending`: file name extension of the copy, '' where the file is not copied. It comes from the container, never from
    the file's own name, which is not to be trusted.
    """

    clip: Row
    texts: list[Row]
    jpegs: list[bytes]
    video: Path | None
    video_ending: str
    signals: Row = field(default_factory=dict)

    @property
    def key(self) -> str:
        return safe_key(self.clip["clip_id"])

    def captions(self, lang: str) -> list[str]:
        return [row["text"] for row in self.texts if row["lang"] == lang]


@contextmanager
def open_video(item: Item) -> Iterator[BinaryIO]:
    """The item's video file. Raises M2raapError where it cannot be opened, or where a part of its path has become a link."""
    assert item.video is not None
    try:
        handle = open_without_links(item.video)
    except OSError as error:
        raise M2raapError(
            f"{item.video}: the video of clip {item.clip['clip_id']!r} can no longer be opened ({error.strerror}); "
            "run the export again when nothing else writes in that folder"
        ) from None
    with os.fdopen(handle, "rb") as source:
        yield source


def copy_video(item: Item, target: Path) -> None:
    """Copies the item's video file to `target`. Raises as `open_video` does."""
    with open_video(item) as source, open(target, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


class Exporter(Protocol):
    """One format. `media`: what it can carry, the default first. `signals`: columns that a clip has to have; a format with some
    is made from signals alone, so that clips without texts or videos are exported, too."""

    media: tuple[Media, ...]
    signals: tuple[str, ...]

    def write(self, items: Iterable[Item], out: Path, media: Media) -> None:
        """Writes all items into the empty folder `out`."""
        ...

    def clip_ids(self, out: Path) -> set[str]:
        """The clips that an export holds."""
        ...


def safe_key(clip_id: str) -> str:
    """A file name without dots, separators or leading '-': the id itself where it is one, else its safe characters and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", clip_id):
        return clip_id
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", clip_id).strip("-")[:48]
    return f"{safe or 'clip'}-{id_hash(clip_id)[:16]}"


def plain_clip(item: Item) -> dict[str, Any]:
    """The columns of a clip that every format carries."""
    names = ("clip_id", "start_s", "end_s", "split", "source", "licence", "category", "url")
    return {name: item.clip.get(name) for name in names}


def plain_text(row: Row) -> dict[str, Any]:
    """A text with its provenance."""
    return {name: row.get(name) for name in ("text_id", "lang", "text", "origin", "parent_text_id", "producer")}


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def neutral(value: Any) -> Any:
    """The value as a CSV cell: with a leading apostrophe where a spreadsheet program would evaluate it as a formula.

    A formula that has apostrophes before it gets one more, so that '=x' and "'=x" stay two values.
    """
    return f"'{value}" if isinstance(value, str) and value.lstrip("'").startswith(_FORMULA_STARTS) else value


def unguarded(value: str) -> str:
    """The text of a CSV cell that `neutral` wrote."""
    return value[1:] if value.startswith("'") and value.lstrip("'").startswith(_FORMULA_STARTS) else value


def is_exported_csv(path: Path) -> bool:
    """Whether a csv was written by `data export csv`, so that `neutral` has written its cells."""
    tree = read_export(path.parent)
    return tree is not None and tree.get("format") == "csv" and path.name == CSV_LISTING


def video_name(item: Item) -> str:
    """The name of a copied video: its safe key, and the extension that belongs to its container."""
    assert item.video_ending
    return item.key + item.video_ending


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A draft folder that is renamed to `out` when the block ends without an error.

    Raises M2raapError where `out` is not empty, or another command is exporting to it.
    """
    out = as_named(out)
    with locked(out.with_name(f".{out.name}.exporting"), below=out.parent) as lock:
        assert lock is not None, "no export to the same folder runs inside an export"
        if out.is_symlink():
            raise M2raapError(f"{out}: is a link; give a new folder for --out")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise M2raapError(f"{out}: is there already; give a new folder for --out")
        draft = lock.folder / "draft"
        if draft.exists():
            shutil.rmtree(draft)  # of an export that was interrupted
        draft.mkdir()
        try:
            yield draft
            if out.exists():
                out.rmdir()
            os.replace(draft, out)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise M2raapError(f"{out}: is a mount point; give a folder in it for --out") from None
            if error.errno == errno.ENOTEMPTY:
                raise M2raapError(
                    f"{out}: another command has written it meanwhile; give a new folder for --out"
                ) from None
            raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def ids_digest(clip_ids: Iterable[str]) -> str:
    """The digest of a set of clips."""
    return hashlib.sha256("".join(sorted(map(id_hash, clip_ids))).encode()).hexdigest()[:32]


def sign(out: Path, tree: dict[str, Any], clip_ids: Iterable[str]) -> dict[str, Any]:
    """Writes `tree` and the digest of the clips as export.json, and returns it."""
    ids = sorted(set(clip_ids))
    signed = {"kind": "export", "version": 1, **tree, "ids": ids_digest(ids)}
    write_json(out / FILE, signed)
    return signed


def read_export(folder: Path) -> dict[str, Any] | None:
    """export.json of a folder; None where it is absent or was not written by an export."""
    path = folder / FILE
    try:
        tree = read_object(path) if path.is_file() else {}
    except M2raapError:  # another program's file of that name
        return None
    return tree if tree.get("kind") == "export" else None
