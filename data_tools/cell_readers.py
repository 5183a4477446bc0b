"""Reading of single cells of a list: every error names file, row and column, and what was expected there."""

from __future__ import annotations

import datetime
import math
import re
from pathlib import Path
from typing import Any

from data_tools.cells import clock_s, is_nothing, python_list, split_of, texts_in
from m2raap.core.errors import M2raapError, excerpt

MAX_SECONDS = 1e7  # 115 days: a later time in a video is a fault of the list
MIN_SPAN_S = 1e-3  # within the first second: spreadsheets keep times as parts of a day, in which 10 s are 0.000116
_EXACT = r"(?:\d+:\d+(?::\d+)?(?:[.,]\d+)?|\d+\.\d+)"  # a clock time, or a number that is no part of a date
_PAIR = re.compile(rf"[\[(]?({_EXACT}|\d+(?=\s))\s*(?:-|–|—|~|,|-->|to)\s*({_EXACT}|(?<=\s)\d+)[\])]?")


def text_of(path: Path, row: int, column: str, value: Any) -> str:
    """The value without blanks and byte-order marks around it; whole numbers (ids in parquet and json) become text.

    7010.0 becomes '7010': tables keep whole numbers as floats where a cell of the column is empty. Raises M2raapError for
    anything that is no text, and for an empty one.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or is_nothing(value):
        raise M2raapError(f"{path}: row {row}, column '{column}': expected a text, found {_excerpt(value)}")
    return value.strip().strip("\ufeff\u200b").strip()


def texts_of(path: Path, row: int, column: str, value: Any) -> list[str]:
    """The value, in which a missing text is ''. Raises M2raapError if it is no list of texts."""
    if not isinstance(value, list) or not all(isinstance(text, str) or is_nothing(text) for text in value):
        raise M2raapError(f"{path}: row {row}, column '{column}': expected a list of texts, found {_excerpt(value)}")
    return ["" if is_nothing(text) else text for text in value]


def captions_in(path: Path, row: int, column: str, value: Any) -> list[str]:
    """The texts of a cell, at least one, perhaps empty. Raises M2raapError for a cell that holds something else."""
    try:
        return texts_in(value) or [""]
    except ValueError as error:
        raise M2raapError(f"{path}: row {row}, column '{column}': {error}") from None


def number_or_none(value: Any, path: Path, row: int, column: str, what: str = "number") -> float | None:
    """A finite number, or None for an empty cell. Raises M2raapError for anything else."""
    if is_nothing(value):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise M2raapError(f"{path}: row {row}, column '{column}': expected a {what}, found {_excerpt(value)}")
    return number


def seconds_or_none(value: Any, path: Path, row: int, column: str) -> float | None:
    """Seconds from the beginning of a video, also of a clock time (H:MM:SS.mmm or MM:SS); None for an empty cell.

    Raises M2raapError for anything else.
    """
    if isinstance(value, datetime.time):
        value = datetime.timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        )
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    what = f"number of seconds, 0 to {MAX_SECONDS:,.0f}, or a clock time such as 0:01:30.5"
    if isinstance(value, str) and (seconds := clock_s(value)) is not None:
        value = seconds if seconds <= MAX_SECONDS else value
    number = number_or_none(value, path, row, column, what)
    if number is not None and not 0 <= number <= MAX_SECONDS:
        raise M2raapError(f"{path}: row {row}, column '{column}': expected a {what}, found {_excerpt(value)}")
    return number


def split_or_none(value: Any, path: Path, row: int, column: str = "split") -> str | None:
    """train, val or test, or None for an empty cell. Raises M2raapError for a name of no split."""
    try:
        return split_of(value)
    except ValueError as error:
        raise M2raapError(f"{path}: row {row}, column '{column}': {error}") from None


def span(path: Path, row: int, start: Any, end: Any, columns: tuple[str, str]) -> tuple[float | None, float | None]:
    """Start and end of a clip in seconds; None where the cell is empty. Raises M2raapError if it ends before it starts."""
    start_s = seconds_or_none(start, path, row, columns[0])
    end_s = seconds_or_none(end, path, row, columns[1])
    if end_s is not None and end_s <= (start_s or 0.0):
        raise M2raapError(f"{path}: row {row}: the clip ends at {end_s:g} s, before it starts at {start_s or 0:g} s")
    if end_s is not None and end_s < 1 and end_s - (start_s or 0.0) < MIN_SPAN_S:
        raise M2raapError(
            f"{path}: row {row}: the clip lasts {end_s - (start_s or 0.0):g} s; write its times in seconds (a spreadsheet may "
            "have kept them as parts of a day)"
        )
    return start_s, end_s


def pair_in(path: Path, row: int, column: str, value: Any) -> tuple[Any, Any]:
    """Start and end of a cell that holds both, [0.5, 2], "[0.5, 2]", [[0.5, 2]], "0:01 - 0:03" or "0.5-2.0".

    (None, None) for another value, such as a date.

    Raises M2raapError for several pairs, which are several clips.
    """
    if isinstance(value, str):
        if match := _PAIR.fullmatch(value.strip()):
            return match[1], match[2]
        try:
            value = python_list(f"[{value.strip()[1:-1]}]") if value.strip()[:1] in ("[", "(") else None
        except ValueError:
            return None, None
    if not isinstance(value, list | tuple):
        return None, None
    if len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    if any(isinstance(item, list | tuple) for item in value):
        raise M2raapError(
            f"{path}: row {row}, column '{column}': several spans; write one row for each, with its caption, start and end"
        )
    return (value[0], value[1]) if len(value) == 2 else (None, None)


def _excerpt(value: Any) -> str:
    return "nothing" if value is None or value == "" else excerpt(value, 60)
