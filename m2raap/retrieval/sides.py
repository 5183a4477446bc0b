"""The ranks of one direction out of a table of ranks (:func:`m2raap.retrieval.evaluate.evaluate`, `ranks.parquet`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.retrieval.metrics import Side

RankRow = Mapping[str, Any]


def side_of(
    table: Sequence[RankRow], lang: str, direction: str, category: str | None
) -> tuple[Side, list[str], list[str]]:
    """The ranks, query ids and video ids of one direction, ordered by query id. Raises M2raapError where there are none."""
    rows = sorted(
        (
            row
            for row in table
            if row["lang"] == lang
            and row["direction"] == direction
            and (category is None or row["category"] == category)
        ),
        key=lambda row: str(row["query_id"]),
    )
    if not rows:
        where = f"'{lang}'" + (f" of {category}" if category else "")
        raise M2raapError(f"the ranks hold no {direction} queries in {where}")
    equal = np.asarray([row["ties"] for row in rows], np.int64)
    greater = np.asarray([row["rank_pessimistic"] for row in rows], np.int64) - 1 - equal
    missing = np.asarray([row["missing"] for row in rows], bool)
    index = np.arange(len(rows))
    side = Side(index, index, greater, equal, missing, int(rows[0]["gallery"]))
    return side, [str(row["query_id"]) for row in rows], [str(row["video_id"]) for row in rows]
