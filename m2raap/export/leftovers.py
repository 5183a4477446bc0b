"""Finds what is left of forgotten clips below a folder, by comparing cells, lines, file names and pictures with their hashes.

Tables, json, csv, text, HTML, sqlite and tar files are read. A vector is found by the row of its clip in the `ids.json` or
the clip table beside it. Weights of models are not searched.
"""

from __future__ import annotations

import base64
import binascii
import csv
import html
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from m2raap.core import tombstones
from m2raap.core.corpus import open_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.exports import is_exported_csv, unguarded
from m2raap.core.tombstones import sha256

_OPAQUE = (".npy", ".npz", ".pt", ".safetensors", ".onnx", ".faiss", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv",
           ".mpg", ".mpeg", ".ts", ".ogv", ".3gp")  # fmt: skip
_MAX_CHARS = 80  # of a value that is printed
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{16})$")  # how `exports.safe_key` ends the name of an id with unsafe characters
_HTML_TEXT = re.compile(r">([^<>]+)<|base64,([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class Leftover:
    """A place that holds something of a forgotten clip, or that could not be searched (`is_readable` False)."""

    path: Path
    place: str
    value: str = ""  # the id or text that is there; '' for pictures and vectors
    is_readable: bool = True

    def __str__(self) -> str:
        excerpt = self.value if len(self.value) <= _MAX_CHARS else self.value[: _MAX_CHARS - 3] + "..."
        return f"{self.path}: {self.place}" + (f": '{excerpt}'" if excerpt else "")


def forgotten_hashes(source: Path) -> frozenset[str]:
    """The hashes to search for, of a corpus folder or a tombstone file; without texts and videos that the corpus still has.

    Raises M2raapError where no clip was forgotten.
    """
    hashes = tombstones.read(source).hashes()
    if not hashes:
        raise M2raapError(f"{source}: no clip was forgotten in it; give the corpus from which clips were forgotten")
    if not source.is_dir():
        return hashes
    corpus = open_corpus(source)
    texts = {sha256(row["text"]) for row in corpus.all_rows("texts", ["text"])}
    return hashes - texts - {sha256(row["video"]) for row in corpus.all_rows("clips", ["video"])}


def leftovers(root: Path, hashes: frozenset[str]) -> Iterator[Leftover]:
    """The places at and below `root` (a folder or a file) that hold one of the hashed values. Links are not followed."""
    for path in [root] if root.is_file() else _files(root):
        if path != root and _is_named(path.name, hashes):
            yield Leftover(path, "the file is named after a forgotten clip")
        if path.is_symlink():
            yield Leftover(path, "is a symbolic link, which was not followed", is_readable=False)
            continue
        if path.suffix.lower() in _OPAQUE or path.name == tombstones.FILE:
            continue
        try:
            for place, value in _cells(path):
                for part in _parts(value):
                    if sha256(part) in hashes:
                        known = part if isinstance(part, str) else ""
                        yield Leftover(path, f"{place} holds an id, a text or a frame of a forgotten clip", value=known)
                        break
        except (M2raapError, OSError, ValueError, sqlite3.Error, tarfile.TarError, csv.Error, RecursionError) as error:
            yield Leftover(path, f"cannot be read ({' '.join(str(error).split())[:120]})", is_readable=False)


def _files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names.sort()
        for path in (Path(folder, name) for name in sorted(files)):
            if path.is_symlink() or path.is_file():
                yield path
        yield from (Path(folder, name) for name in names if Path(folder, name).is_symlink())


def _is_named(name: str, hashes: frozenset[str]) -> bool:
    """Whether a file is named after one of the clips, as exports and imports name their copies."""
    key = name.partition(".")[0]
    hash_in_name = _HASH_IN_NAME.search(key)
    return sha256(key) in hashes or bool(hash_in_name and any(known.startswith(hash_in_name[1]) for known in hashes))


def _parts(value: str | bytes) -> Iterator[str | bytes]:
    """A cell, the values of the JSON in it, and the X of 'a copy of X'."""
    yield value
    if isinstance(value, str):
        yield value.rpartition(" of ")[2]
        if value[:1] in ("{", "["):
            try:
                yield from _values(json.loads(value))
            except (ValueError, RecursionError):
                return


def _values(tree: Any) -> Iterator[str | bytes]:
    if isinstance(tree, str | bytes):
        yield tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key)
            yield from _values(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _values(value)


def _named_values(place: str, tree: Any) -> Iterator[tuple[str, str | bytes]]:
    """(place, value) of every value in a tree; the place goes one level deep: 'video_ids, row 3'."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield place or "key", str(key)
            rows = enumerate(value) if isinstance(value, list) else [(None, value)]
            for number, row in rows:
                where = ", ".join([*filter(None, [place]), f"{key}" + ("" if number is None else f", row {number}")])
                yield from ((where, text) for text in _values(row))
    else:
        yield from ((place or "content", text) for text in _values(tree))


def _cells(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """(place, text or bytes) of everything that a file holds, by its kind."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_cells(path)
        return
    if suffix == ".tfrecord":
        yield from _tfrecord_cells(path)
        return
    with open(path, "rb") as source:
        head = source.read(16)
    if head == b"SQLite format 3\0":
        yield from _sqlite_cells(path)
    elif suffix == ".tar":
        yield from _tar_cells(path)
    else:
        yield from _content_cells(path.name, path.read_bytes(), is_exported_csv(path))


def _content_cells(name: str, data: bytes, is_exported: bool = False) -> Iterator[tuple[str, str | bytes]]:
    suffix = Path(name).suffix.lower()
    yield "the file", data
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return  # a picture or another binary file
    if suffix == ".json":
        yield from _named_values("", json.loads(text))
    elif suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield from _named_values(f"row {number}", json.loads(line))
    elif suffix in (".csv", ".tsv"):
        csv.field_size_limit(2**31 - 1)
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 1):
            for cell in row:
                yield f"row {number}", unguarded(cell)
                if not is_exported:  # nobody knows whether m2raap has written the cell
                    yield f"row {number}", cell
    elif suffix == ".html":
        for match in _HTML_TEXT.finditer(text):
            yield "a text", html.unescape(match[1] or "").strip()
            if match[2]:
                try:
                    yield "a picture", base64.b64decode(match[2])
                except binascii.Error:
                    continue
    else:
        for number, line in enumerate(text.split("\n"), 1):
            for phrase in (line.strip(), *_phrases(line)):
                for around in ("", " \"'`,.;:", " \"'`,.;:()[]"):
                    yield f"line {number}", phrase.strip(around) if around else phrase


_MOST_WORDS = 4  # of an id that is searched for within a line; one that is a whole line may have more


def _phrases(line: str) -> Iterator[str]:
    """The words of a line, and what two to _MOST_WORDS neighbours are together: an id may hold blanks, 'clip (1)'."""
    spans = [match.span() for match in re.finditer(r"\S+", line)]
    for first, (start, _) in enumerate(spans):
        yield from (line[start:end] for _, end in spans[first : first + _MOST_WORDS])


def _parquet_cells(path: Path) -> Iterator[tuple[str, str | bytes]]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as source:
        for batch in source.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                for column, cell in row.items():
                    yield from ((f"row {number}, column {column}", value) for value in _values(cell))
                number += 1


def _tfrecord_cells(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """The bytes that stand in features, decoded: ids; vectors are not searched."""
    from data_tools.tf_example import parse
    from data_tools.tfrecord import Records

    with Records(path) as records:
        for number, _, data in records:
            for feature in parse(data)[0].values():
                yield from (
                    (f"record {number}", value.decode("utf-8", "replace")) for value in feature.bytes_list.value
                )


def _sqlite_cells(path: Path) -> Iterator[tuple[str, str | bytes]]:
    with ExitStack() as stack:
        readable = path
        if path.with_name(f"{path.name}-wal").exists():  # opening a database with a log would write to it
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="m2raap-forgotten-")))
            for name in (path.name, f"{path.name}-wal"):
                shutil.copyfile(path.with_name(name), scratch / name)
            readable = scratch / path.name
        mode = "mode=ro&immutable=1" if readable == path else "mode=rw"
        database = stack.enter_context(
            closing(sqlite3.connect(f"{readable.resolve().as_uri()}?{mode}", uri=True, timeout=30))
        )
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for table in tables:
            quoted = table.replace('"', '""')
            for number, row in enumerate(database.execute(f'SELECT * FROM "{quoted}"')):
                yield from ((f"table {table}, row {number}", value) for value in _values(row))


def _tar_cells(path: Path) -> Iterator[tuple[str, str | bytes]]:
    with tarfile.open(path, "r:") as shard:
        for member in shard:
            yield f"member {member.name}", member.name.partition(".")[0]
            content = shard.extractfile(member) if Path(member.name).suffix.lower() not in _OPAQUE else None
            if content is not None:
                cells = _content_cells(member.name, content.read())
                yield from ((f"member {member.name}, {place}", value) for place, value in cells)


def owners(root: Path, paths: Iterable[Path]) -> dict[Path, str]:
    """The folders of m2raap that hold the files, each with its kind: a stage's name or 'export'. A file outside such folders,
    or directly in a run, is listed itself, as 'file'."""
    kinds: dict[Path, str] = {}
    for path in paths:
        above = [folder for folder in path.parents if folder == root or folder.is_relative_to(root)]
        kind, owner = next(((kind, folder) for folder in above if (kind := kind_of(folder))), ("file", path))
        if kind == "run":  # for example a note of the user
            kind, owner = "file", path
        kinds[owner] = kind
    return kinds


def kind_of(folder: Path) -> str | None:
    """The kind of a folder of m2raap: 'corpus', a stage's name, 'export' or 'run'; None for every other folder."""
    for name in ("manifest.json", "plan.json", "export.json", "run.json"):
        if (folder / name).is_file():
            try:
                tree = json.loads((folder / name).read_bytes())
                return tree.get("stage") or tree.get("kind")
            except (ValueError, AttributeError, OSError):
                return None
    return None
