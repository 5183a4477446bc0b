"""Results by the length of the clip: the queries about clips of one length against the full gallery.

The bounds are fixed, so that a slice means the same on every benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from m2raap.retrieval.arms import summarise
from m2raap.retrieval.sides import RankRow

BOUNDS_S = (5.0, 15.0)
NAMES = ("under 5 s", "5-15 s", "over 15 s")
UNKNOWN = "unknown"  # missing videos, mostly: they stay in sight


def length_name(seconds: float | None) -> str:
    """The slice of a clip; a bound belongs to the slice between them."""
    if seconds is None:
        return UNKNOWN
    return NAMES[0] if seconds < BOUNDS_S[0] else NAMES[1] if seconds <= BOUNDS_S[1] else NAMES[2]


def by_length(tables: Sequence[Sequence[RankRow]], seconds: Mapping[str, float], seed: int) -> list[dict[str, Any]]:
    """The official rows of t2v and v2t as `summarise` gives them, one slice a length in place of the categories, shortest first.

    `seconds`: length by video id. Empty where all clips fall into one slice.
    """
    named = [[{**row, "category": length_name(seconds.get(str(row["video_id"])))} for row in table] for table in tables]
    if len({row["category"] for row in named[0]}) < 2:
        return []
    order = (*NAMES, UNKNOWN)
    rows = [
        row
        for row in summarise(named, seed)
        if row["slice"] != "all" and row["scope"] == "official" and row["direction"] in ("t2v", "v2t")
    ]
    return sorted(rows, key=lambda row: (row["lang"], order.index(row["slice"])))
