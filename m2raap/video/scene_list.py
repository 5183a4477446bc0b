"""Reads scene lists of PySceneDetect (`scenedetect list-scenes`): CSV, with or without the row of timecodes at the top.

They count from the first frame of the video, unlike all other times of m2raap, which count from the container's start.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from m2raap.core.errors import M2raapError

_START, _END = "Start Time (seconds)", "End Time (seconds)"
_HALF_A_DIGIT_S = 0.0005  # lists round to milliseconds: half of one earlier, no frame is on the wrong side of a cut
_MAX_BYTES = 64 * 1024**2


def read_scene_list(path: Path) -> list[tuple[float, float]]:
    """(start_s, end_s) of each scene, ascending, in seconds since the first frame; there may be gaps between scenes.

    Raises M2raapError, which names the file, the row and the column.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise M2raapError(f"{path}: the file has more than {_MAX_BYTES} bytes; give a scene list of PySceneDetect")
        with open(path, encoding="utf-8-sig", newline="") as source:
            rows = list(csv.reader(source, strict=True))
    except OSError as error:
        raise M2raapError(f"{path}: cannot be read ({error.strerror}); give a scene list of PySceneDetect") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise M2raapError(f"{path}: cannot be read as CSV ({error}); give a scene list of PySceneDetect") from None
    top = next((i for i, row in enumerate(rows[:2]) if _START in row and _END in row), None)
    if top is None:
        raise M2raapError(f"{path}: row 1 or 2 must name the columns '{_START}' and '{_END}'")
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
            raise M2raapError(f"{path}: row {number}: the scene starts at {start_s:g} s, before the scene above ends")
        scenes.append((start_s, end_s))
    if not scenes:
        raise M2raapError(f"{path}: the list is empty; give a list with scenes, or leave out --scenes to detect them")
    return [(max(0.0, start_s - _HALF_A_DIGIT_S), end_s - _HALF_A_DIGIT_S) for start_s, end_s in scenes]


def _seconds(path: Path, number: int, row: list[str], column: int, name: str) -> float:
    text = row[column] if column < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise M2raapError(f"{path}: row {number}, column '{name}': '{text[:40]}' is not a number of seconds")
    return value
