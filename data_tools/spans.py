"""The stretch of a video that a row of a table names: start and end in two columns, or both in one.

Columns of start and end are read under any name that says so (`Start_timestamp`, `clip_end`, `begin (s)`). Those in frames or
milliseconds are refused: the clip would silently be the whole video.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_tools.cell_readers import pair_in, span
from data_tools.cells import first_filled
from data_tools.columns import OF_TIMES, Columns, folded, shortened
from m2raap.core.errors import M2raapError

START = ("start_s", "start", "start_time", "start_sec", "start_seconds", "begin", "begin_time")
END = ("end_s", "end", "end_time", "end_sec", "end_seconds", "stop", "stop_time")
# [start, end] in one cell; a cell that holds something else, such as a date, is not read.
BOTH = (
    "timestamp", "timestamps", "time_span", "clip_span", "span", "segment", "interval", "time_interval", "time_range",
    "times", "time", "clip_time",
)  # fmt: skip
_UNITS = "(?:frames?(?:id|idx|index|number|num|no)?|m(?:illi)?s(?:ec(?:ond)?s?)?|millis|min(?:ute)?s?|hours?)"
_IN_OTHER_UNITS = re.compile(
    f"{OF_TIMES}(?:start|begin|end|stop)(?:timestamp|time|ts)?(?:in)?{_UNITS}|{_UNITS}(?:start|begin|end|stop)"
)


def check_spans(path: Path, columns: Columns) -> None:
    """Raises M2raapError for a list whose times would be misread."""
    starts, ends = _names(columns, "start"), _names(columns, "end")
    read = {columns.known_name(name) for name in columns.names} & {*starts, *ends}
    units = [name for name in columns.names if _IN_OTHER_UNITS.fullmatch(folded(name)) and name not in read]
    if units and not read:
        raise M2raapError(
            f"{path}: row 1: the columns {shortened(units)} are times that are not read; write them in seconds, in the columns "
            "'start' and 'end'"
        )
    if read & set(starts) and not read & set(ends) and any(folded(name) == "duration" for name in columns.names):
        raise M2raapError(
            f"{path}: row 1: the columns 'start' and 'duration' do not say whether a clip or its video lasts so long; write a "
            "column 'end', or leave out 'duration'"
        )


def span_of(
    path: Path, number: int, row: dict[str, Any], columns: Columns
) -> tuple[float | None, float | None, set[str]]:
    """Start and end in seconds, None where the row names none, and the columns that they are from.

    Raises M2raapError naming the row and the column.
    """
    start_name, start = first_filled(row, _names(columns, "start", row))
    end_name, end = first_filled(row, _names(columns, "end", row))
    names = {name for name in (start_name, end_name) if name}
    if not names and (both := first_filled(row, BOTH)[0]):
        start, end = pair_in(path, number, both, row[both])
        start_name = end_name = both
        names = {both} if start is not None else set()
    return *span(path, number, start, end, (start_name or START[1], end_name or END[1])), names


def _names(columns: Columns, edge: str, row: dict[str, Any] | None = None) -> tuple[str, ...]:
    """Columns of one edge: those of known names, else (in this row) the others that say so."""
    known = START if edge == "start" else END
    others = tuple(name for name, named in columns.edges.items() if named == edge)
    if row is None or not others:
        return known + others
    return known if any(name in row for name in known) else others
