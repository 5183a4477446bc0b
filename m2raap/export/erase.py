"""Takes clips out of single files: tables, lists, json, caches. Every function may be cut off and run again."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic, write_json
from m2raap.core.tables import write_table

FORGOTTEN = "(forgotten)"  # stands where another row named a clip that is gone
_VIDEO = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".ts", ".ogv", ".3gp")
_BINARY = frozenset((*_VIDEO, ".npy", ".pt", ".safetensors"))  # hold no names
_ID_COLUMNS = ("clip_id", "text_id", "id", "query_id", "target_id", "video_id")
_NAMING = ("_of", "_id", "_ids", "detail", "_note", "also_failed")  # ends of columns that may name another clip
_MIN_QUOTE = 8  # letters of a caption (half as many Chinese ones) under which finding it elsewhere says nothing


@dataclass(frozen=True)
class Gone:
    """What has to leave: clips, their texts, what those say, and the video names that only these clips use."""

    clip_ids: frozenset[str]
    text_ids: frozenset[str]
    captions: frozenset[str]
    videos: frozenset[str]

    @cached_property
    def names(self) -> frozenset[str]:
        return self.clip_ids | self.text_ids

    @cached_property
    def _quotes(self) -> list[str]:
        """Captions that are long enough to tell something, as they stand and as JSON escapes them."""
        long = [text for text in self.captions if len(text) >= (_MIN_QUOTE if text.isascii() else _MIN_QUOTE // 2)]
        escaped = (json.dumps(text, ensure_ascii=plain)[1:-1] for text in long for plain in (True, False))
        return sorted({*long, *escaped})

    def quoted_in(self, text: str) -> bool:
        """Does a text hold one of the captions?"""
        return any(quote in text for quote in self._quotes)

    def mentioned_in(self, text: str) -> bool:
        """Does a text hold a name as a whole word, or one of the captions?"""
        return self.quoted_in(text) or any(_has_word(text, name) for name in self.names)

    def scrub(self, value: str) -> str:
        """A value of another clip's row, without the names of those that are gone: 'a copy of X'."""
        if value in self.names:
            return FORGOTTEN
        head, of, name = value.rpartition(" of ")
        return f"{head}{of}{FORGOTTEN}" if of and name in self.names else value


def _has_word(text: str, word: str) -> bool:
    at = text.find(word)
    while at >= 0:
        around = text[max(0, at - 1) : at] + text[at + len(word) : at + len(word) + 1]
        if not any(char.isalnum() or char in "_-" for char in around):
            return True
        at = text.find(word, at + 1)
    return False


def clean_parquet(path: Path, gone: Gone) -> bool:
    """Drops rows by id; in the other rows, columns that may name another clip are scrubbed. True: the file changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        ids = [field.name for field in schema if field.name in _ID_COLUMNS and pa.types.is_string(field.type)]
        noted = [field.name for field in schema if field.name not in ids and _may_name(field, pa)]
        if not ids and not noted:
            return False
        few = pq.read_table(path, columns=[*ids, *noted], use_threads=False)
        rows = zip(*(few[name].to_pylist() for name in ids), strict=True) if ids else [()] * len(few)
        stays = [not any(value in gone.names for value in row) for row in rows]
        scrubbed = {name: [_scrubbed(value, gone) for value in few[name].to_pylist()] for name in noted}
        scrubbed = {name: new for name, new in scrubbed.items() if new != few[name].to_pylist()}
        if all(stays) and not scrubbed:
            return False
        table = pq.read_table(path, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise M2raapError(f"{path}: cannot be read as parquet ({error}); delete it and forget again") from None
    for name, new in scrubbed.items():
        field = schema.field(name)
        table = table.set_column(schema.get_field_index(name), field, pa.array(new, field.type))
    write_table(path, table.filter(pa.array(stays, pa.bool_())))
    return True


def _may_name(field: Any, pa: Any) -> bool:
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    return pa.types.is_string(kind) and field.name.endswith(_NAMING)


def _scrubbed(value: Any, gone: Gone) -> Any:
    if isinstance(value, list):
        return [_scrubbed(item, gone) for item in value]
    return gone.scrub(value) if isinstance(value, str) else value


def clean_json(path: Path, gone: Gone) -> bool:
    """Removes keys and rows of what is gone; in other places its name is replaced. False: the file is no JSON."""
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return False
    pruned = _prune(tree, gone)
    if pruned != tree:
        write_json(path, pruned)
    return True


def _prune(tree: Any, gone: Gone) -> Any:
    if isinstance(tree, dict):
        unwanted = gone.names | gone.videos
        return {key: _prune(value, gone) for key, value in tree.items() if key not in unwanted}
    if isinstance(tree, list):
        return [_prune(item, gone) for item in tree if not (isinstance(item, dict) and _is_row_of(item, gone))]
    return _scrubbed(tree, gone)


def _is_row_of(row: dict[str, Any], gone: Gone) -> bool:
    return any(isinstance(row.get(name), str) and row[name] in gone.names for name in _ID_COLUMNS)


def clean_lines(path: Path, gone: Gone) -> bool:
    """Drops the lines of a jsonl or txt list, or the rows of a csv, that name or quote what is gone. False: no UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    if not gone.mentioned_in(text):
        return True
    if path.suffix.lower() == ".csv":
        delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        sink = io.StringIO(newline="")
        kept = [row for row in rows if not any(gone.mentioned_in(cell) for cell in row)]
        csv.writer(sink, delimiter=delimiter).writerows(kept)
        write_atomic(path, sink.getvalue().encode())
    else:
        lines = text.split("\n")
        write_atomic(path, "\n".join(line for line in lines if not gone.mentioned_in(line)).encode())
    return True


def clean_sqlite(path: Path, gone: Gone) -> bool:
    """Deletes the rows of every table that name or quote what is gone, and overwrites their bytes.

    A cached answer is keyed by its request, not by a clip: what quotes a forgotten caption goes, and another clip with the
    very same caption will ask again.
    """
    removed = 0
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as base:
            base.execute("PRAGMA secure_delete=ON")
            base.text_factory = lambda raw: raw.decode("utf-8", "replace")
            tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type='table'")]
            for table in (name for name in tables if not name.startswith("sqlite_")):
                quoted = '"' + table.replace('"', '""') + '"'
                found = base.execute(f'SELECT rowid AS "row id", * FROM {quoted}')
                columns = [column[0] for column in found.description]
                rows = [row[0] for row in found if _tells_of(dict(zip(columns, row, strict=True)), gone)]
                base.executemany(f"DELETE FROM {quoted} WHERE rowid=?", [(row,) for row in rows])
                removed += len(rows)
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if removed:
                base.execute("VACUUM")
                base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise M2raapError(f"{path}: this cache cannot be cleaned ({error}); delete it and forget again") from None
    return removed > 0


def _tells_of(row: dict[str, Any], gone: Gone) -> bool:
    """By its clip or text id where a table has such a column, and by the captions that it quotes."""
    cells = (cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell for cell in row.values())
    texts = [cell for cell in cells if isinstance(cell, str)]
    if any(name in row for name in _ID_COLUMNS):
        return any(row.get(name) in gone.names for name in _ID_COLUMNS) or any(map(gone.quoted_in, texts))
    return any(map(gone.mentioned_in, texts))


def _is_sqlite(path: Path) -> bool:
    with open(path, "rb") as source:
        return source.read(16) == b"SQLite format 3\0"


def clean_tree(
    root: Path, others: set[Path], gone: Gone, signed_apart: frozenset[str], of_the_user: bool = False
) -> list[str]:
    """Cleans every file below `root` but those below `others` and those of the names `signed_apart`.

    Files that a killed run left half written are deleted, and so is a report: it is made of strips and captions. In a folder
    `of_the_user` nothing is deleted, and what is damaged is left. Returns the files that nobody here can clean and that still
    name or quote what is gone.
    """
    left = []
    for folder, names, files in os.walk(root):
        here = Path(folder)
        for name in list(names):
            is_cut_off = name.startswith(".") and name.endswith(".exporting")  # an export
            if is_cut_off and not of_the_user and not (here / name).is_symlink():
                shutil.rmtree(here / name)
                names.remove(name)
        names[:] = sorted(name for name in names if here / name not in others and not (here / name).is_symlink())
        for path in (here / name for name in sorted(files)):
            if path.name in signed_apart or path.is_symlink() or not path.is_file():
                continue
            try:
                is_clean = _clean_file(path, gone, of_the_user)
            except M2raapError:
                if not of_the_user:
                    raise
                is_clean = False
            if not is_clean and path.exists() and _mentions(path, gone):
                left.append(str(path))
    return left


def _clean_file(path: Path, gone: Gone, of_the_user: bool) -> bool:
    """By what the file is; False: of a kind that is not known here."""
    suffix = path.suffix.lower()
    if suffix == ".tmp" or path.name in ("report.html", "report.json"):
        if of_the_user:
            return False
        path.unlink()
    elif suffix == ".parquet":
        clean_parquet(path, gone)
    elif suffix == ".json":
        return clean_json(path, gone)
    elif suffix in (".jsonl", ".csv", ".tsv", ".txt"):
        return clean_lines(path, gone)
    elif suffix not in _BINARY:
        if not _is_sqlite(path):
            return False
        clean_sqlite(path, gone)
    return True


def _mentions(path: Path, gone: Gone) -> bool:
    with open(path, "rb") as source:
        left = ""
        while chunk := source.read(1 << 22):
            text = left + chunk.decode("utf-8", "replace")
            if gone.mentioned_in(text):
                return True
            left = text[-4096:]
    return False
