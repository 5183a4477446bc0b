"""Arms of an experiment from their rank tables (:func:`m2raap.retrieval.results.evaluate_embeddings`, `ranks.parquet`).

An arm is one table for each training seed, all over the same benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.retrieval.metrics import rsum
from m2raap.retrieval.sides import RULE_B, RankRow, rows_of, side_of
from m2raap.retrieval.significance import paired_difference
from m2raap.retrieval.summary import DIGITS, summary_row


def summarise(tables: Sequence[Sequence[RankRow]], seed: int) -> list[dict[str, Any]]:
    """The rows that :func:`evaluate` gives, averaged over the tables (training seeds): scope `official`, and `available` where
    videos are missing; t2v, v2t and, where videos have several texts, v2t by rule b.

    rsum is None for rescored tables that hold one direction only. Tables of older versions, which lack the ranks among available
    clips and by rule b, give the official rows of t2v and v2t. Raises M2raapError where the tables do not hold the same queries.
    """
    assert tables
    rows = []
    for lang in sorted({str(row["lang"]) for row in tables[0]}):
        for scope in ("official", "available"):
            if queries := [
                row for direction in ("t2v", "v2t") for row in rows_of(tables[0], lang, direction, None, scope)
            ]:
                slices = sorted({str(row["category"]) for row in queries if row["category"] is not None})
                for name in ("all", *slices):
                    rows += _rows_of_slice(tables, lang, scope, name, seed)
    return rows


def _rows_of_slice(
    tables: Sequence[Sequence[RankRow]], lang: str, scope: str, name: str, seed: int
) -> list[dict[str, Any]]:
    category = None if name == "all" else name
    num = {d: len(rows_of(tables[0], lang, d, category, scope)) for d in ("t2v", "v2t", RULE_B)}
    # A row by rule b needs the rule b ranks of all v2t queries; in some tables only a part of the videos has several texts.
    directions = [d for d in num if num[d] and (d != RULE_B or num[d] == num["v2t"])]
    parts = {d: [side_of(table, lang, d, category, scope) for table in tables] for d in directions}
    for direction, sides in parts.items():
        _check_same([queries for _, queries, _ in sides], lang, direction)
    total = None
    if num["t2v"] and num["v2t"]:
        pairs = zip(parts["t2v"], parts["v2t"], strict=True)
        total = round(float(np.mean([rsum(t2v, v2t) for (t2v, _, _), (v2t, _, _) in pairs])), DIGITS)
    rows = []
    for direction, sides in parts.items():
        head = {"lang": lang, "direction": direction, "scope": scope, "slice": name, "comparable": scope == "official"}
        rows.append({**head, **summary_row([side for side, _, _ in sides], sides[0][2], seed), "rsum": total})
    return rows


def paired(
    tables_a: Sequence[Sequence[RankRow]],
    tables_b: Sequence[Sequence[RankRow]],
    lang: str,
    direction: str,
    metric: str,
    seed: int,
    category: str | None = None,
) -> dict[str, Any]:
    """A metric of RECALLS, of arm a minus arm b in points, over the same queries, averaged over each arm's training seeds.

    Gives lang, direction, slice, metric, queries, a, b, diff, lo, hi, p, smallest. Raises M2raapError where the queries
    differ.
    """
    sides_a = [side_of(table, lang, direction, category) for table in tables_a]
    sides_b = [side_of(table, lang, direction, category) for table in tables_b]
    _check_same([queries for _, queries, _ in [*sides_a, *sides_b]], lang, direction)
    points_a = np.mean([side.points(metric) for side, _, _ in sides_a], axis=0)
    points_b = np.mean([side.points(metric) for side, _, _ in sides_b], axis=0)
    difference = paired_difference(points_a, points_b, sides_a[0][2], seed, unit=100)
    numbers = {
        "a": points_a.mean(),
        "b": points_b.mean(),
        "diff": difference.diff,
        "lo": difference.lo,
        "hi": difference.hi,
        "p": difference.p,
    }
    numbers["smallest"] = difference.smallest
    return {
        "lang": lang,
        "direction": direction,
        "slice": category or "all",
        "metric": metric,
        "queries": len(points_a),
        **{name: round(float(value), DIGITS) for name, value in numbers.items()},
    }


def _check_same(queries: Sequence[Sequence[str]], lang: str, direction: str) -> None:
    for other in queries[1:]:
        if list(other) != list(queries[0]):
            odd = sorted(set(other) ^ set(queries[0]))
            raise M2raapError(
                f"the runs have different {direction} queries in '{lang}' ({len(queries[0])} and {len(other)}, the first that "
                f"differs is {odd[0]}); compare runs on the same benchmark"
            )
