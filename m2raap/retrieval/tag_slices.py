"""Results by tag: the queries about videos that have a tag, against the full gallery. A video may have several tags, so that
slices overlap; one without tags is in none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from m2raap.retrieval.arms import summarise
from m2raap.retrieval.sides import EXTRA_COLUMNS, RankRow

COLUMN = "tags"  # of a table of ranks: the tags of the query's video; tables of an evaluation without tags lack it
LEAST_VIDEOS = 20  # of a slice: fewer tell nothing
MOST_TAGS = 20  # in each language, the most frequent ones


def add_tags(ranks: Sequence[dict[str, Any]], tags_of: Mapping[str, Sequence[str]]) -> None:
    """Writes the column into a table of ranks. `tags_of`: video id -> its tags."""
    for row in ranks:
        row[COLUMN] = list(tags_of.get(row["video_id"], ()))


def tag_rows(tables: Sequence[Sequence[RankRow]], seed: int) -> list[dict[str, Any]]:
    """The official rows of t2v and v2t of `summarise` for each frequent tag, which is their `slice`; the most frequent first.

    `tables`: one for each training seed, with the column of `add_tags`. Empty where no tag has LEAST_VIDEOS videos with queries
    in a language, or where the column is absent.
    """
    rows = []
    for lang in sorted({str(row["lang"]) for row in tables[0]}):
        of_lang = [[row for row in table if row["lang"] == lang] for table in tables]
        for tag in _frequent(of_lang[0]):
            of_tag = [[_plain(row) for row in table if tag in (row.get(COLUMN) or ())] for table in of_lang]
            rows += [row | {"slice": tag} for row in summarise(of_tag, seed)]
    return rows


def _frequent(table: Sequence[RankRow]) -> list[str]:
    videos = Counter(tag for _, tag in {(row["video_id"], tag) for row in table for tag in row.get(COLUMN) or ()})
    ordered = sorted(videos, key=lambda tag: (-videos[tag], tag))
    return [tag for tag in ordered if videos[tag] >= LEAST_VIDEOS][:MOST_TAGS]


def _plain(row: RankRow) -> RankRow:
    """The row without what would split the slice again: its category, and its ranks in other scopes and by other rules."""
    return {**row, "category": None, **dict.fromkeys(EXTRA_COLUMNS)}
