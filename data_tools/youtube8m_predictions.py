"""Predicted labels as the csv that YouTube-8M's challenges take, in the form of the starter kit's inference.py.

A line a video: its id, a comma, and pairs of a label's number and its probability, best first, between blanks. Nothing is
quoted in this form, so that no id may hold a comma, or be a formula to a spreadsheet program.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_regular

FILE = "predictions.csv"
HEADER = "VideoId,LabelConfidencePairs"
MAX_PAIRS = 20  # of a video, as the challenge scores them
_ID = re.compile(r"[\w-][\w./: -]*")


def write_predictions(rows: Iterable[tuple[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """Writes rows of (video id, pairs of label number and probability); of each the MAX_PAIRS best, the earlier of equals first.

    Raises M2raapError for an id that the form cannot hold, a number below 0, or a probability outside of 0 to 1.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as sink:
        sink.write(f"{HEADER}\n")
        for video_id, pairs in rows:
            if not _ID.fullmatch(video_id):
                raise M2raapError(
                    f"clip {video_id[:80]!r}: a csv of predictions cannot hold this id; it may have letters, digits and "
                    "'_-./: ', the first a letter, digit, '_' or '-'"
                )
            for number, probability in pairs:
                if number < 0 or not (math.isfinite(probability) and 0 <= probability <= 1):
                    raise M2raapError(
                        f"clip {video_id!r}: the pair {number}, {probability} is no label with a probability"
                    )
            best = sorted(pairs, key=lambda pair: -pair[1])[:MAX_PAIRS]
            sink.write(f"{video_id},{' '.join(f'{number} {probability:g}' for number, probability in best)}\n")


def read_ids(path: Path) -> set[str]:
    """The video ids of a csv that `write_predictions` wrote. Raises M2raapError for another file."""
    header, *lines = read_regular(path).decode("utf-8", "replace").split("\n")
    if header.rstrip("\r") != HEADER:
        raise M2raapError(f"{path}: does not begin with '{HEADER}'; it is no csv of predictions")
    return {line.partition(",")[0] for line in lines if line}
