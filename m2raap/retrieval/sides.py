"""The ranks of one direction out of a table of ranks (:func:`m2raap.retrieval.results.evaluate_embeddings`, `ranks.parquet`).

A row of the table is a query of the headline. EXTRA_COLUMNS hold other ranks of the same query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.retrieval.rank_counts import RankCounts

RankRow = Mapping[str, Any]
# By rule b, among the available clips, and both. Each value has rank_pessimistic, ties, gallery and siblings (by rule b: other
# texts of the video with the target's score; else None); None where a query has no such rank. Tables of older versions lack the
# columns, or `siblings` in them: a query then counts as having one target.
EXTRA_COLUMNS = ("rule_b", "available", "available_rule_b")
RULE_B = "v2t_rule_b"  # a direction of results; its queries are those of v2t


def side_of(
    table: Sequence[RankRow], lang: str, direction: str, category: str | None, scope: str = "official"
) -> tuple[RankCounts, list[str], list[str]]:
    """The ranks, query ids and video ids of one direction, ordered by query id. Raises M2raapError where there are none."""
    rows = sorted(rows_of(table, lang, direction, category, scope), key=lambda row: str(row["query_id"]))
    if not rows:
        where = f"'{lang}'" + (f" of {category}" if category else "")
        raise M2raapError(f"the ranks hold no {direction} queries in {where}")
    column = _column(direction, scope)
    counted = [row[column] if column else row for row in rows]
    equal = np.asarray([row["ties"] for row in counted], np.int64)
    greater = np.asarray([row["rank_pessimistic"] for row in counted], np.int64) - 1 - equal
    missing = np.asarray([row["missing"] for row in rows], bool)
    siblings = np.asarray([row.get("siblings") or 0 for row in counted], np.int64) if direction == RULE_B else None
    index = np.arange(len(rows))
    side = RankCounts(index, index, greater, equal, missing, int(counted[0]["gallery"]), siblings)
    return side, [str(row["query_id"]) for row in rows], [str(row["video_id"]) for row in rows]


def rows_of(
    table: Sequence[RankRow], lang: str, direction: str, category: str | None = None, scope: str = "official"
) -> list[RankRow]:
    """The rows of the queries that have a rank in that direction and scope; `direction` may be v2t_rule_b."""
    column, stored_direction = _column(direction, scope), "v2t" if direction == RULE_B else direction
    return [
        row
        for row in table
        if row["lang"] == lang
        and row["direction"] == stored_direction
        and (category is None or row["category"] == category)
        and (column is None or row.get(column) is not None)
    ]


def _column(direction: str, scope: str) -> str | None:
    if scope == "official":
        return "rule_b" if direction == RULE_B else None
    return "available_rule_b" if direction == RULE_B else "available"
