"""Tags on stdout: results by tag, and the figures of taggers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from m2raap.core.talk import one_line
from m2raap.report.console import print_table
from m2raap.report.data import ResultRow
from m2raap.report.tag_table import TagTable
from m2raap.retrieval.significance import bounds_text


def print_by_tag(rows: Sequence[ResultRow], file: TextIO | None = None) -> None:
    """R@1 of the queries about videos that have a tag; nothing where there are no slices by tag."""
    lines = []
    for row in rows:
        r1 = f"{row.metrics['R@1']:.1f} ({bounds_text(row.intervals['R@1'])})"
        lines.append([row.slice, row.lang, row.direction, r1, f"{row.queries:,}"])
    if lines:
        head = ["tag", "lang", "direction", "R@1 (95 %)", "queries"]
        print_table("By tag, which a tagger gives: a video may have several", head, lines, {3, 4}, file)


def print_taggers(tables: Sequence[TagTable], file: TextIO | None = None) -> None:
    """The figures of the taggers of a run; the tables of tags are in report.html only."""
    stream = sys.stdout if file is None else file
    for table in tables:
        line = f"tags of {', '.join(table.arms)}: {table.clips_with_tags:,} of {table.clips:,} clips have one with p >= 0.5"
        if (figures := table.figures) is not None:
            line += (
                f"; GAP@20 {_percent(figures.gap)}{_interval(figures.gap_95)}, "
                f"mAP {_percent(figures.mean_ap)} over {figures.mean_ap_labels:,} labels, Hit@1 {_percent(figures.hit_at_1)}, "
                f"PERR {_percent(figures.perr)} on {figures.unseen_clips:,} unseen clips"
            )
        for sentence in (line, *table.notes, *([table.warning] if table.warning else [])):
            print(one_line(sentence), file=stream)
        print(file=stream)


def _interval(shares: Sequence[float] | None) -> str:
    return f" ({bounds_text([100 * share for share in shares])})" if shares is not None else ""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
