"""How many comparisons the tables of a report hold, for whose number neither intervals nor p are corrected.

An interval of 95 % excludes 0 in one of twenty comparisons of equals, so that a table of many will nearly always show some.
"""

from __future__ import annotations

from collections.abc import Sequence

from m2raap.report.data import ProgressiveRow
from m2raap.retrieval.significance import LEVEL


def comparisons_note(num_comparisons: int) -> str:
    """A sentence for below a table; "" where it holds one comparison at the most."""
    if num_comparisons < 2:
        return ""
    by_chance = (1 - LEVEL) * num_comparisons
    return (
        f"{num_comparisons:,} comparisons; neither intervals nor p are corrected for their number: if nothing differed, about "
        f"{by_chance:.1f} of the intervals would exclude 0 all the same"
    )


def of_progressive(rows: Sequence[ProgressiveRow]) -> int:
    """The number of differences in a progressive table: in R@1 to the row before and to the first, in MeanR to the row before."""
    return sum(change is not None for row in rows for change in (row.step, row.whole, row.mean_recall_step))
