"""Scene lists that PySceneDetect wrote (`scenedetect list-scenes`): CSV, with or without the line of timecodes on top."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from m2raap.core.errors import M2raapError

_START, _END = "Start Time (seconds)", "End Time (seconds)"
_HALF_A_DIGIT_S = 0.0005  # times stand there in milliseconds: half of one before, no frame falls on the wrong side
_MAX_BYTES = 64 * 1024**2


def read_scene_list(path: Path) -> list[tuple[float, float]]:
    """(start_s, end_s) of each scene, ascending, since the start of the video; gaps between scenes are allowed.

    Raises M2raapError naming the file, the row and the column.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise M2raapError(f"{path}: larger than {_MAX_BYTES} bytes; a scene list is a small CSV file")
        with open(path, encoding="utf-8-sig", newline="") as source:
            rows = list(csv.reader(source, strict=True))
    except OSError as error:
        raise M2raapError(f"{path}: cannot be read ({error.strerror}); give a CSV that PySceneDetect wrote") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise M2raapError(f"{path}: is no CSV ({error}); give a CSV that PySceneDetect wrote") from None
    top = next((i for i, row in enumerate(rows[:2]) if _START in row and _END in row), None)
    if top is None:
        raise M2raapError(f"{path}: row 1 or 2 should name the columns '{_START}' and '{_END}'")
    columns = rows[top].index(_START), rows[top].index(_END)
    scenes: list[tuple[float, float]] = []
    for number, row in enumerate(rows[top + 1 :], start=top + 2):
        if not row:
            continue
        start_s, end_s = (_seconds(path, number, row, column, rows[top][column]) for column in columns)
        if start_s >= end_s:
            raise M2raapError(
                f"{path}: row {number}: the scene ends at {end_s:g} s, not after its start at {start_s:g} s"
            )
        if scenes and start_s < scenes[-1][1]:
            raise M2raapError(f"{path}: row {number}: the scene starts at {start_s:g} s, before the one above ends")
        scenes.append((start_s, end_s))
    if not scenes:
        raise M2raapError(f"{path}: lists no scene; detect without --scenes, or write the list with all scenes")
    return [(max(0.0, start_s - _HALF_A_DIGIT_S), end_s - _HALF_A_DIGIT_S) for start_s, end_s in scenes]


def _seconds(path: Path, number: int, row: list[str], column: int, name: str) -> float:
    text = row[column] if column < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise M2raapError(f"{path}: row {number}, column '{name}': '{text[:40]}' is no number of seconds")
    return value
