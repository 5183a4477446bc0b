"""Two-way accuracy: a query chooses between its own item and that of its clip's twin, so that chance is 50 %.

The twin of a clip shows the same things in another order (the column `twin_id` of `clips`). R@1 cannot separate knowing the
objects from knowing the order, because a model that knows the objects alone ranks both twins before all other clips. Here the
objects decide nothing: a text chooses between its clip and the twin, a video between its text and the twin's text. Ties count
half. Twins are not independent, so the interval is a bootstrap over pairs of twins.

Where clips have several texts in a language, each text is a query, and a video's choice is the mean over all pairs of an own
text and one of the twin. Clips of which they or their twin have no embedding are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2raap.core.errors import M2raapError
from m2raap.retrieval.metrics import BLOCK_ELEMENTS, ScoreRows
from m2raap.retrieval.sides import RankRow
from m2raap.retrieval.significance import interval, paired_difference
from m2raap.retrieval.summary import DIGITS

METRIC = "two-way"
COLUMN = "two_way"  # of a table of ranks: {twin_id, right}; tables without a twin lack it
Choices = dict[tuple[str, str], dict[str, Any]]  # (direction, query id) -> twin_id; right: 1, 0, or between for ties


def choices(
    scores: Mapping[str, ScoreRows],
    text_ids: Sequence[str],
    owners: Sequence[str],
    row_of_video: Mapping[str, int],
    twins: Mapping[str, str],
) -> Choices:
    """The choice of every query of a clip with a twin, in each direction of `scores`.

    `scores`: direction -> function of text rows to scores (n, V). `owners`: the clip of each text. `row_of_video`: the embedded
    clips. `twins`: clip id -> its twin's; one that has no embedding is passed over.
    """
    texts_of: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        texts_of.setdefault(owner, []).append(row)
    pairs = [
        (video, twin)
        for video, twin in sorted(twins.items())
        if video in row_of_video and twin in row_of_video and video != twin and video in texts_of
    ]
    result: Choices = {}
    for direction, rows in scores.items():
        # The texts and the videos of every comparison: own before the twin's.
        queries, compared = [], []
        for video, twin in pairs:
            column, twin_column = row_of_video[video], row_of_video[twin]
            if direction == "t2v":
                queries += [(text_ids[text], twin, 1) for text in texts_of[video]]
                compared += [(text, column, text, twin_column) for text in texts_of[video]]
            elif twin in texts_of:
                both = [(text, column, twin_text, column) for text in texts_of[video] for twin_text in texts_of[twin]]
                queries.append((video, twin, len(both)))
                compared += both
        if not compared:
            continue
        table_P4 = np.asarray(compared, np.int64)
        own_P, other_P = (_picked(rows, table_P4[:, i], table_P4[:, i + 1], len(row_of_video)) for i in (0, 2))
        right_P = (own_P > other_P) + 0.5 * (own_P == other_P)
        ends = np.cumsum([number for _, _, number in queries])
        for (query, twin, number), end in zip(queries, ends.tolist(), strict=True):
            result[direction, query] = {"twin_id": twin, "right": float(right_P[end - number : end].mean())}
    return result


def _picked(
    rows: ScoreRows, text_P: NDArray[np.int64], video_P: NDArray[np.int64], num_videos: int
) -> NDArray[np.float64]:
    """The scores of some pairs, from blocks of text rows."""
    texts, place_P = np.unique(text_P, return_inverse=True)
    size = max(1, BLOCK_ELEMENTS // num_videos)
    order = np.argsort(place_P, kind="stable")
    starts = np.searchsorted(place_P[order], np.arange(0, len(texts), size))
    result_P = np.empty(len(text_P), np.float64)
    for start, first, last in zip(range(0, len(texts), size), starts, [*starts[1:], len(order)], strict=True):
        of_block = order[first:last]
        scores = rows(texts[start : start + size])
        result_P[of_block] = scores[place_P[of_block] - start, video_P[of_block]]
    return result_P


def add_choices(table: Sequence[MutableMapping[str, Any]], lang: str, of_queries: Choices) -> None:
    """Writes the choices into the rows of a table of ranks, in place."""
    for row in table:
        if of_queries and row["lang"] == lang:
            row[COLUMN] = of_queries.get((row["direction"], row["query_id"]))


def two_way_rows(tables: Sequence[Sequence[RankRow]], seed: int) -> list[dict[str, Any]]:
    """One row for each language and direction in which clips have twins, averaged over the tables (training seeds).

    lang, direction, n (queries), pairs (of twins), accuracy and interval in percent, seeds, seeds_accuracy. Raises M2raapError
    where the tables do not hold the same queries.
    """
    rows = []
    for lang, direction in _with_choices(tables):
        right_SQ, pairs = _right(tables, lang, direction)
        bounds = interval(100 * right_SQ.mean(axis=0), pairs, seed, limits=(0.0, 100.0))
        rows.append(
            {
                "lang": lang,
                "direction": direction,
                "n": len(pairs),
                "pairs": len(set(pairs)),
                "accuracy": round(bounds.value, DIGITS),
                "interval": [round(bounds.lo, DIGITS), round(bounds.hi, DIGITS)],
                "seeds": len(tables),
                "seeds_accuracy": [round(100 * float(right_Q.mean()), DIGITS) for right_Q in right_SQ],
            }
        )
    return rows


def two_way_differences(
    tables_a: Sequence[Sequence[RankRow]], tables_b: Sequence[Sequence[RankRow]], seed: int
) -> Iterator[dict[str, Any]]:
    """Accuracy of arm a minus arm b in points, with the keys that :func:`m2raap.retrieval.arms.paired` gives, paired over twins.

    Nothing where an arm has no choices. Raises M2raapError where the queries differ.
    """
    for lang, direction in _with_choices([*tables_a, *tables_b]):
        right_SQ, pairs = _right([*tables_a, *tables_b], lang, direction)
        a, b = (100 * part.mean(axis=0) for part in np.split(right_SQ, [len(tables_a)]))
        change = paired_difference(a, b, pairs, seed, unit=100)
        numbers = {"a": a.mean(), "b": b.mean(), "diff": change.diff, "lo": change.lo, "hi": change.hi, "p": change.p}
        numbers["smallest"] = change.smallest
        head = {"lang": lang, "direction": direction, "slice": "all", "metric": METRIC, "queries": len(pairs)}
        yield head | {name: round(float(value), DIGITS) for name, value in numbers.items()}


def _with_choices(tables: Sequence[Sequence[RankRow]]) -> list[tuple[str, str]]:
    """The languages and directions in which all tables have choices."""
    of_tables = [{(row["lang"], row["direction"]) for row in table if row.get(COLUMN)} for table in tables]
    return sorted(set.intersection(*of_tables))


def _right(tables: Sequence[Sequence[RankRow]], lang: str, direction: str) -> tuple[NDArray[np.float64], list[str]]:
    """The choices (S, Q) of the same queries in every table, and the pair of twins that each query is about."""
    sides = []
    for table in tables:
        rows = [row for row in table if (row["lang"], row["direction"]) == (lang, direction) and row.get(COLUMN)]
        sides.append(sorted(rows, key=lambda row: str(row["query_id"])))
    names = [[row["query_id"] for row in rows] for rows in sides]
    if any(other != names[0] for other in names):
        raise M2raapError(
            f"the runs have twins of different {direction} queries in '{lang}' ({len(names[0])} and "
            f"{', '.join(str(len(other)) for other in names[1:])}); compare runs on the same benchmark"
        )
    pairs = ["\0".join(sorted((row["video_id"], row[COLUMN]["twin_id"]))) for row in sides[0]]
    return np.asarray([[row[COLUMN]["right"] for row in rows] for rows in sides], np.float64), pairs
