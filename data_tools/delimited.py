"""Rows of csv and tsv: the delimiter, quotes, and what spreadsheets and joined files leave in them.

The delimiter is that of the header: a comma, else a semicolon, tab or '|', as spreadsheets of many countries write. What would be
misread is refused with its row: a quote that swallows rows, a second header, cells without a column.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from data_tools.rooted import SUFFIXES
from m2raap.core.errors import M2raapError

MAX_COLUMNS = 4096
_SEP_LINE = re.compile(r"sep=(.)\s*")  # a first line that Excel writes and reads
_OTHER_DELIMITERS = (";", "\t", "|")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_AS_TEXT = re.compile(r'="([^"]*)"')  # a formula that keeps a spreadsheet from reading '007' as a number
Rows = Iterator[tuple[int, dict[str, str]]]


def delimited_rows(path: Path, lines: Iterator[str], max_field: int, delimiter: str = ",") -> Rows:
    """(row number, row) of the lines of a csv or tsv; `delimiter` counts where the header holds it.

    Raises M2raapError naming file and row.
    """
    csv.field_size_limit(max_field)
    first_row, header = next(((number, line) for number, line in enumerate(lines, 1) if line.strip()), (1, ""))
    if match := _SEP_LINE.fullmatch(header):
        delimiter, header, first_row = match[1], next(lines, ""), first_row + 1
    elif delimiter not in header:
        delimiter = next((mark for mark in (",", *_OTHER_DELIMITERS) if mark in header), delimiter)
    lines = chain([header], lines)
    if delimiter == "\t":
        return _between_tabs(path, lines, first_row)
    return _quoted_rows(path, lines, first_row, delimiter, f"{delimiter} " in header)


def _quoted_rows(path: Path, lines: Iterator[str], first_row: int, delimiter: str, has_blanks: bool) -> Rows:
    """`has_blanks`: the header has a blank after the delimiter, which then does not belong to the cells."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=has_blanks)
    names: list[str] | None = None
    start = first_row
    try:
        for cells in reader:
            number = reader.line_num + first_row - 1
            if names is None:
                names = cells
                _check_names(path, first_row, names)
            elif cells:
                _check_quotes(path, start, number, cells, delimiter)
                yield number, _row(path, number, names, cells, delimiter)
            start = number + 1
    except csv.Error as error:
        hint = "" if "limit" in str(error) else "; a quote within a quoted cell is written twice, without a backslash"
        raise M2raapError(f"{path}: row {start}: {error}{hint}") from None


def _between_tabs(path: Path, lines: Iterable[str], first_row: int) -> Rows:
    """Rows between tabs, in which a quote is a character like any other.

    A cell that another tool has quoted all the same is unquoted: it holds doubled quotes, or the header is quoted, too.
    """
    names: list[str] | None = None
    quoted = False
    for number, line in enumerate(lines, first_row):
        if not line.strip():
            continue
        cells = line.rstrip("\r\n").split("\t")
        if names is None:
            quoted = all(_QUOTED.fullmatch(cell) for cell in cells)
            names = [_unquoted(cell, quoted) for cell in cells]
            _check_names(path, number, names)
            continue
        yield number, _row(path, number, names, [_unquoted(cell, quoted) for cell in cells], "\t")


def _unquoted(cell: str, always: bool) -> str:
    match = _QUOTED.fullmatch(cell)
    return match[1].replace('""', '"') if match and (always or '""' in match[1]) else cell


def check_num_columns(path: Path, row: int, num_columns: int) -> None:
    """Raises M2raapError for more columns than any list has."""
    if num_columns > MAX_COLUMNS:
        raise M2raapError(f"{path}: row {row}: {num_columns:,} columns; at most {MAX_COLUMNS:,} are read")


def _check_names(path: Path, row: int, names: Sequence[str]) -> None:
    """Raises M2raapError for two columns of one name; columns without a name may be several, as long as they are empty."""
    check_num_columns(path, row, len(names))
    repeated = sorted(name for name, count in Counter(names).items() if count > 1 and name.strip())
    if repeated:
        raise M2raapError(f"{path}: row {row}: two columns are named '{repeated[0][:60]}'; rename one")


def _row(path: Path, number: int, names: list[str], cells: list[str], delimiter: str) -> dict[str, str]:
    """The row by names. Empty cells beyond the header, or below its empty names, are left by spreadsheets and are no columns."""
    if len(names) > 1 and _plain(cells[0]) == _plain(names[0]) and [*map(_plain, cells)] == [*map(_plain, names)]:
        raise M2raapError(f"{path}: row {number}: is the header again, as in lists that were joined; remove this row")
    if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
        mark = "a tab" if delimiter == "\t" else f"'{delimiter}'"
        raise M2raapError(
            f"{path}: row {number}: has another number of columns than the header, {len(cells)} and {len(names)}; "
            f"a cell that holds {mark} needs quotes in a csv"
        )
    cells = [
        match[1] if cell[:2] == '="' and (match := _AS_TEXT.fullmatch(cell)) else cell for cell in cells[: len(names)]
    ]
    row = dict(zip(names, cells, strict=True))
    if names.count("") > 1:
        del row[""]
        for position, (name, cell) in enumerate(zip(names, cells, strict=True), 1):
            if not name and cell.strip():
                raise M2raapError(
                    f"{path}: row {number}: column {position} has no name in the header but holds '{cell[:40]}'; name it"
                )
    return row


def _plain(cell: str) -> str:
    """A cell of a header without what joining and saving again add: byte-order marks, blanks, capitals."""
    return cell.strip("\ufeff \t").lower()


def _check_quotes(path: Path, start: int, end: int, cells: list[str], delimiter: str) -> None:
    """Raises M2raapError where a quote that was meant as a character has made one cell of several rows."""
    if start == end:
        return
    for cell in cells:
        for line in cell.splitlines()[1:]:
            fields = line.split(delimiter)
            if len(fields) >= len(cells) > 1 and any(_names_video(field) for field in fields):
                raise M2raapError(
                    f"{path}: row {start}: a quote that opens in this row closes in row {end}, and the cell holds "
                    f"'{line[:60]}', which looks like a row of its own; write a quote within a quoted cell twice"
                )


def _names_video(field: str) -> bool:
    return os.path.splitext(field.strip())[1].lower() in SUFFIXES
