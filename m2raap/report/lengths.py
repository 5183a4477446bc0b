"""Results by the length of the clip: the queries about clips of one length against the full gallery.

The bounds are fixed, so that a slice means the same on every benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from m2raap.core.view import View
from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.data import ResultRow
from m2raap.retrieval.arms import summarise
from m2raap.retrieval.sides import RankRow
from m2raap.stages.evaluate import read_ranks

BOUNDS_S = (5.0, 15.0)
NAMES = ("under 5 s", "5-15 s", "over 15 s")
UNKNOWN = "unknown"  # mostly missing videos, which so have a slice of their own


def length_name(seconds: float | None) -> str:
    """The slice of a clip; both bounds belong to the middle slice."""
    if seconds is None:
        return UNKNOWN
    return NAMES[0] if seconds < BOUNDS_S[0] else NAMES[1] if seconds <= BOUNDS_S[1] else NAMES[2]


def by_length(tables: Sequence[Sequence[RankRow]], seconds: Mapping[str, float], seed: int) -> list[dict[str, Any]]:
    """The official rows of t2v and v2t of `summarise`, with slices by length in place of the categories, shortest first.

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


def clip_seconds(view: View) -> dict[str, float]:
    """Length by clip id, from the clip's start and end or else from decoding its file; a clip with neither is left out."""
    seconds_of = {}
    for part in view.parts(("signals",)):
        for clip in part.clips:
            seconds = part.signals.get(clip["clip_id"], {}).get("duration_s")
            if clip["end_s"] is not None:
                seconds = clip["end_s"] - (clip["start_s"] or 0.0)
            if seconds is not None:
                seconds_of[clip["clip_id"]] = float(seconds)
    return seconds_of


def length_rows(
    run: RunFolder, evaluations: dict[tuple[str, str], list[Step]], steps: list[Step], seed: int
) -> list[ResultRow]:
    """Every arm on every benchmark by the length of the clips; `evaluations`: (arm, bench) -> one step a training seed."""
    parents = {step.folder: step.parents for step in steps}
    seconds: dict[str, dict[str, float]] = {}
    rows = []
    for (arm, bench), done in evaluations.items():
        if bench not in seconds:
            seconds[bench] = clip_seconds(View(run.inputs.benches[bench]).over(parents[done[0].parents[0]][0]))
        tables = [read_ranks(step.folder / "ranks.parquet") for step in done]
        rows += [ResultRow(arm=arm, benchmark=bench, **row) for row in by_length(tables, seconds[bench], seed)]
    return rows
