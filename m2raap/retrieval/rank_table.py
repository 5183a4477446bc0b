"""The table of ranks: one row for each query, with the items that are ranked first for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2raap.retrieval.metrics import BLOCK_ELEMENTS, ScoreRows
from m2raap.retrieval.rank_counts import RankCounts
from m2raap.retrieval.sides import EXTRA_COLUMNS
from m2raap.retrieval.summary import DIGITS

TOP = 10
# (direction, query id) -> rank_pessimistic, ties, gallery, siblings
Counts = dict[tuple[str, str], dict[str, int | None]]


def counts_of(side: RankCounts, direction: str, query_ids: Sequence[str]) -> Counts:
    """The values of a column of EXTRA_COLUMNS for the queries of one direction."""
    siblings = [None] * len(side) if side.siblings is None else side.siblings.tolist()
    numbers = zip(query_ids, side.rank_pessimistic.tolist(), side.equal.tolist(), siblings, strict=True)
    return {
        (direction, name): {"rank_pessimistic": rank, "ties": ties, "gallery": side.gallery, "siblings": num_siblings}
        for name, rank, ties, num_siblings in numbers
    }


def rank_rows(
    side: RankCounts,
    head: Mapping[str, str],
    query_ids: Sequence[str],
    target_ids: Sequence[str],
    video_ids: Sequence[str],
    categories: Mapping[str, str],
    tops: Mapping[int, tuple[list[str], list[float]]],
    more: Mapping[str, Counts],
) -> list[dict[str, Any]]:
    """One row for each query, ordered by query id.

    `head`: direction and language. `tops`: the items ranked first, by the query's number in `side`; their scores are cosines, or
    what a rescoring ranks by (of dual softmax and candidates keys whose order alone means something). `more`: name of an extra
    column -> its values.
    """
    result = []
    for i, (query, target, video) in enumerate(zip(query_ids, target_ids, video_ids, strict=True)):
        names, scores = tops.get(int(side.query[i]), ([], []))
        result.append(
            {
                **head,
                "query_id": query,
                "target_id": target,
                "video_id": video,
                "category": categories.get(video),
                "missing": bool(side.missing[i]),
                "rank_expected": float(side.rank_expected[i]),
                "rank_pessimistic": int(side.rank_pessimistic[i]),
                "ties": int(side.equal[i]),
                "gallery": side.gallery,
                "top_ids": names,
                "top_scores": [round(score, DIGITS) for score in scores],
                **{name: more.get(name, {}).get((head["direction"], query)) for name in EXTRA_COLUMNS},
            }
        )
    return sorted(result, key=lambda row: row["query_id"])


def tops_of(
    score_rows: ScoreRows, item_ids: Sequence[str], rows: NDArray[np.int64]
) -> dict[int, tuple[list[str], list[float]]]:
    """For each row the ids and scores of the first TOP items; items of equal scores in the order of `item_ids`."""
    tops = {}
    size = max(1, BLOCK_ELEMENTS // len(item_ids))
    k = min(TOP, len(item_ids))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        scores_BM = score_rows(block)
        least_B = np.partition(scores_BM, -k, axis=1)[:, -k]
        for row, scores, least in zip(block, scores_BM, least_B, strict=True):
            columns = np.flatnonzero(scores >= least)
            columns = columns[np.argsort(-scores[columns], kind="stable")][:k]
            tops[int(row)] = ([item_ids[column] for column in columns], scores[columns].tolist())
    return tops
