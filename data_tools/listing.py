"""Strict reading of lists that others made: every error names file, row and column, and what was expected there.

Lists are untrusted: the first bytes of a file are compared with what its name promises, lines and fields have a size limit,
a compressed list may not grow without bound, and nothing is ever unpickled.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_tools.delimited import check_num_columns, delimited_rows
from data_tools.strict_json import list_entries, parse_json
from m2raap.core.errors import M2raapError
from m2raap.core.exports import unguarded

KINDS = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet")
PACKED = ("zst", "bz2", "xz", "zip", "7z", "rar", "tar", "tgz")
MAX_LINE = 64 * 1024**2  # characters of one line of jsonl
MAX_FIELD = 16 * 1024**2  # characters of one field of csv
MAX_JSON_CHARS = 256 * 1024**2  # of a json file that is read whole; lists are read entry by entry
MAX_GZIP_RATIO = 200  # unpacked bytes for each packed one: 20 at most for text, 1,000 for a gzip bomb
_PICKLE_START = re.compile(rb"\x80[\x02-\x05]|\(lp0|\(dp0|\(dp1")
PICKLE = "a pickle, and m2raap never unpickles (it would run code of the file)"
PICKLE_ENDINGS = ("pkl", "pickle", "pyd", "pth", "pt")
# First bytes of files that are named like text and are something else, and what they are.
_NO_TEXT_FILES = (
    (re.compile(rb"\s*(?:<!doctype html|<html|<head|<\?xml)", re.IGNORECASE), "a web page, not the list: download it again"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not the list: run 'git lfs pull'"),
    (_PICKLE_START, f"{PICKLE}; convert it to json or csv"),
    (re.compile(rb"PK\x03\x04"), "a zip archive (or .xlsx): unpack it, or save it as csv"),
    (re.compile(rb"\x1f\x8b"), "compressed with gzip: let its name end in .gz"),
    (re.compile(rb"\x28\xb5\x2f\xfd|BZh[1-9]1AY|\xfd7zXZ"), "packed with zstd, bzip2 or xz: unpack it"),
    (re.compile(rb"PAR1"), "a parquet file: let its name end in .parquet"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16: save it as UTF-8"),
)  # fmt: skip


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) of a csv, tsv, jsonl, json (list of objects; all four also as .gz) or parquet file.

    Rows are numbered from 1, as an editor numbers lines. Raises M2raapError for a file that is not of the kind that its name
    promises.
    """
    kind = kind_of(path)
    readers = {"csv": _csv, "tsv": _tsv, "jsonl": _jsonl, "ndjson": _jsonl, "json": _json, "parquet": _parquet}
    _refuse_pickle(path)
    if path.is_dir():
        raise M2raapError(f"{path}: is a folder; give the list in it")
    if kind in PACKED:
        raise M2raapError(f"{path}: is packed as .{kind}; unpack it, or pack it with gzip (.gz)")
    if kind not in readers:
        raise M2raapError(
            f"{path}: '.{kind}' is not a table that m2raap reads; it reads {', '.join(readers)}: save it as one of these"
        )
    with _reading(path):
        for number, row in readers[kind](path):
            check_num_columns(path, number, len(row))
            yield number, row


def kind_of(path: Path) -> str:
    """'csv' of 'list.csv' and of 'list.csv.gz'."""
    return Path(path.name.lower().removesuffix(".gz")).suffix.lstrip(".")


def require(path: Path, where: str, row: dict[str, Any], columns: Iterable[str]) -> None:
    """Raises M2raapError where a row lacks columns; `where` is 'row 3' or 'entry 3'."""
    columns = tuple(columns)
    if missing := [name for name in columns if name not in row]:
        raise M2raapError(
            f"{path}: {where}: no column {', '.join(map(repr, missing))}; expected the columns {', '.join(columns)}; "
            f"found {', '.join(map(str, list(row)[:30]))}"
        )


def read_json_file(path: Path) -> Any:
    """The JSON in a file. Raises M2raapError naming a file that holds none."""
    _refuse_pickle(path)
    with _reading(path), _text(path) as source:
        return _tree(path, source)


def _refuse_pickle(path: Path) -> None:
    if kind_of(path) in PICKLE_ENDINGS:
        raise M2raapError(f"{path}: is {PICKLE}; convert it to json or csv")


def _tree(path: Path, source: IO[str], head: str = "") -> Any:
    """The JSON in `head` and the rest of `source`."""
    text = head + source.read(MAX_JSON_CHARS + 1)
    if len(text) > MAX_JSON_CHARS:
        raise M2raapError(f"{path}: longer than {MAX_JSON_CHARS:,} characters; convert it to jsonl")
    try:
        return parse_json(text)
    except ValueError as error:
        raise M2raapError(f"{path}: not JSON ({error})") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file of ids, without the empty ones."""
    with _reading(path), _text(path) as source:
        return [line.strip() for line in source if line.strip()]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(row number, line) of the lines of a text file that are not empty. Raises M2raapError for a file that is no text."""
    with _reading(path), _text(path) as source:
        yield from _lines(path, source)


def read_headless(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number, row) of a tab-separated file without a header and without quotes.

    Raises M2raapError for a row with another number of fields than `columns`.
    """
    with _reading(path), _text(path) as source:
        for number, line in _lines(path, source):
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != len(columns):
                raise M2raapError(
                    f"{path}: row {number}: {len(fields)} fields between tabs, expected {len(columns)}: "
                    f"{', '.join(columns)} (no header)"
                )
            yield number, dict(zip(columns, fields, strict=True))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns the errors of reading and unpacking into an M2raapError that names the file."""
    if not path.is_file():
        raise M2raapError(f"{path}: no such file")
    try:
        yield
    except UnicodeDecodeError as error:
        raise M2raapError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except EOFError:
        raise M2raapError(f"{path}: the gzip file is cut short; download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise M2raapError(f"{path}: a damaged gzip file, or none ({error}); download it again") from None


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    """The file as text, unpacked if its name ends in .gz, once its first bytes are checked."""
    with open(path, "rb") as raw:
        packed = path.name.lower().endswith(".gz")
        plain: IO[bytes] = (
            io.BufferedReader(BoundedGzip(raw, path, path.stat().st_size * MAX_GZIP_RATIO + 2**20)) if packed else raw
        )
        head = plain.peek(512)[:512]  # type: ignore[attr-defined]  # both are BufferedReader
        for pattern, what in _NO_TEXT_FILES:
            if pattern.match(head):
                raise M2raapError(f"{path}: is {what}")
        if b"\0" in head:
            raise M2raapError(f"{path}: is not a text file (it holds NUL bytes); save it as UTF-8 text")
        with io.TextIOWrapper(plain, encoding="utf-8-sig", newline="") as text:
            yield text


class BoundedGzip(io.RawIOBase):
    """An unpacked gzip stream that ends with an error after `limit` bytes: a small file must not fill disk or memory."""

    def __init__(self, raw: IO[bytes], path: Path, limit: int) -> None:
        self._unzipped = gzip.GzipFile(fileobj=raw, mode="rb")
        self._path, self._left = path, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unzipped.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise M2raapError(f"{self._path}: unpacks to far more than its size, like a gzip bomb; unpack it yourself")
        buffer[: len(data)] = data
        return len(data)


def _every_line(path: Path, source: IO[str]) -> Iterator[str]:
    number = 0
    while line := source.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise M2raapError(f"{path}: row {number}: longer than {MAX_LINE:,} characters; is this a list of captions?")
        yield line


def _lines(path: Path, source: IO[str]) -> Iterator[tuple[int, str]]:
    """(row number, line) of the lines that are not empty."""
    return ((number, line) for number, line in enumerate(_every_line(path, source), 1) if line.strip())


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _text(path) as source:
        for number, row in delimited_rows(path, _every_line(path, source), MAX_FIELD):
            yield number, _exported(row) if is_exported(row) else row


def is_exported(row: dict[str, Any]) -> bool:
    """Whether `data export` wrote the list of this row, by columns that no other list has; it may have another name and place."""
    return "text_id_en" in row or "text_ids_en" in row


def _exported(row: dict[str, str]) -> dict[str, Any]:
    """A row that `data export csv` wrote: each caption is one text as it stands, also where it looks like a list."""
    plain = {name: unguarded(cell) for name, cell in row.items()}
    return {name: ([cell] if cell else []) if name.startswith("caption_") else cell for name, cell in plain.items()}


def _tsv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _text(path) as source:
        yield from delimited_rows(path, _every_line(path, source), MAX_FIELD, "\t")


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _text(path) as source:
        for number, line in _lines(path, source):
            try:
                row = parse_json(line)
            except ValueError as error:
                hint = ""
                if line.lstrip().startswith("["):
                    hint = "; a list in brackets is .json, not .jsonl: rename it"
                elif line.rstrip().endswith(","):
                    hint = "; in jsonl no comma stands between rows: remove it"
                raise M2raapError(f"{path}: row {number}: not JSON ({error}){hint}") from None
            if not isinstance(row, dict):
                raise M2raapError(f"{path}: row {number}: expected an object, found {type(row).__name__}")
            yield number, row


def _json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _text(path) as source:
        head = source.read(4096)
        if not head.lstrip().startswith("["):
            try:
                tree = _tree(path, source, head)
            except M2raapError as error:
                hint = "; one object a line is .jsonl, not .json: rename it" if "Extra data" in str(error) else ""
                raise M2raapError(f"{error}{hint}") from None
            hint = ", as in [{'video': ..., 'caption': ...}, ...]"
            if isinstance(tree, dict):
                lists = [
                    key
                    for key, value in tree.items()
                    if isinstance(value, list) and isinstance(next(iter(value), 0), dict)
                ]
                hint += f"; it has the keys {', '.join(map(repr, list(tree)[:3]))}"
                hint += (
                    f": save the list under '{lists[0][:60]}' alone"
                    if len(lists) == 1
                    else " ..."
                    if len(tree) > 3
                    else ""
                )
            raise M2raapError(f"{path}: expected a list of objects, found {type(tree).__name__}{hint}")
        number = 0
        try:
            for number, row in enumerate(list_entries(source, head), 1):
                if not isinstance(row, dict):
                    raise M2raapError(f"{path}: entry {number}: expected an object, found {type(row).__name__}")
                yield number, row
        except UnicodeDecodeError:
            raise  # a ValueError too
        except ValueError as error:
            raise M2raapError(f"{path}: not JSON after entry {number} ({error})") from None


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    from data_tools.parquet_rows import parquet_rows

    yield from parquet_rows(path)
