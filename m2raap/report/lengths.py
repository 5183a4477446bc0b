"""How long the clips of a benchmark are, and a run's results by it."""

from __future__ import annotations

from m2raap.core.view import View
from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.data import ResultRow
from m2raap.retrieval.lengths import by_length
from m2raap.stages.evaluate import read_ranks


def clip_seconds(view: View) -> dict[str, float]:
    """Length by clip id, from the clip's own bounds or from what decoding its file showed; what neither tells is left out."""
    found = {}
    for part in view.parts(("signals",)):
        for clip in part.clips:
            seconds = part.signals.get(clip["clip_id"], {}).get("duration_s")
            if clip["end_s"] is not None:
                seconds = clip["end_s"] - (clip["start_s"] or 0.0)
            if seconds is not None:
                found[clip["clip_id"]] = float(seconds)
    return found


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
