"""The rows of a progressive table: what each arm reached, what it added to the arm before it, and what it cost."""

from __future__ import annotations

from typing import Any

from m2raap.core.folder import read_timings
from m2raap.core.ledger import Counts
from m2raap.core.signed import read_manifest
from m2raap.core.stage import DataStage
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe, arms_of, base_arm
from m2raap.report.data import ProgressiveRow
from m2raap.retrieval.arms import paired
from m2raap.retrieval.rank_counts import MEAN_RECALL
from m2raap.retrieval.sides import side_of
from m2raap.retrieval.summary import summary_row
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.cotrain import CotrainStage
from m2raap.stages.evaluate import EvaluateStage, read_ranks
from m2raap.stages.training_log import training_time

LATE = "rerank"  # of `ranks-rerank.parquet`: late interaction
Ranks = list[dict[str, Any]]
# What the steps bring in figure 1 of M2-RAAP (SIGIR 2024), by the row that completes a step: filter and rewriting are one
# there. The figure does not name its metric; its other numbers are means of R@1, R@5 and R@10.
PAPER_STEPS = {"rewrite": 1.7, "keyframes": 1.5, "temporal": 1.1, "interaction": 1.6, "acg": 1.6}


def progressive_rows(steps: list[Step], recipe: Recipe) -> list[ProgressiveRow]:
    """R@1 and MeanR text to video of each finished row, and the paired differences to the row before it and to the first row.

    A row that is also reranked by late interaction is compared in that way with the row before, reranked too where it is:
    in M2-RAAP's figure the loss, and so the score, of the last steps stands behind the interaction.
    """
    arms = list(dict.fromkeys(base_arm(step.arm) for step in steps))
    rows: list[ProgressiveRow] = []
    for bench in dict.fromkeys(step.bench for step in steps if step.bench):
        ranks = {arm: _ranks(steps, arm, bench, "ranks.parquet") for arm in arms}
        reranked = {arm: _ranks(steps, arm, bench, f"ranks-{LATE}.parquet") for arm in arms}
        evaluated = [arm for arm in arms if ranks[arm]]
        for place, arm in enumerate(evaluated):
            first, before = ranks[evaluated[0]], evaluated[place - 1]
            ways = [("", ranks[arm], ranks[before] if place else None)]
            if reranked[arm]:
                ways.append((LATE, reranked[arm], (reranked[before] or ranks[before]) if place else ranks[arm]))
            costs = _costs(steps, arm, recipe)
            for way, tables, against in ways:
                for lang in sorted({row["lang"] for row in tables[0]}):
                    sides = [side_of(table, lang, "t2v", None) for table in tables]
                    summary = summary_row([side for side, _, _ in sides], sides[0][2], recipe.seed)
                    rows.append(
                        ProgressiveRow(
                            arm=arm, way=way, benchmark=bench, lang=lang, r1=summary["metrics"]["R@1"],
                            interval=summary["intervals"]["R@1"], seeds_r1=summary["seeds_r1"],
                            step=_difference(tables, against, lang, "R@1", recipe.seed),
                            whole=_difference(tables, first if place or way else None, lang, "R@1", recipe.seed),
                            mean_recall=summary["metrics"][MEAN_RECALL],
                            mean_recall_interval=summary["intervals"][MEAN_RECALL],
                            mean_recall_step=_difference(tables, against, lang, MEAN_RECALL, recipe.seed),
                            paper_step=PAPER_STEPS.get(arm) if way == ways[-1][0] else None,
                            **costs,
                        )
                    )  # fmt: skip
    return rows


def _difference(
    tables: list[Ranks], against: list[Ranks] | None, lang: str, metric: str, seed: int
) -> list[float] | None:
    if against is None:
        return None
    difference = paired(tables, against, lang, "t2v", metric, seed)
    return [difference[name] for name in ("diff", "lo", "hi")]


def _ranks(steps: list[Step], arm: str, bench: str, name: str) -> list[Ranks]:
    """One table a training seed."""
    folders = [
        step.folder for step in steps if base_arm(step.arm) == arm and step.bench == bench and step.is_of(EvaluateStage)
    ]
    return [read_ranks(folder / name) for folder in folders if (folder / name).exists()]


def _costs(steps: list[Step], arm: str, recipe: Recipe) -> dict[str, Any]:
    """Clips and texts that remain for training, core seconds of curation, seconds of co-training and training (mean over the
    seeds)."""
    curated = [step for step in steps if step.arm == arm and step.is_of(DataStage) and not step.bench]
    trained, cotrained = (
        [step for step in steps if base_arm(step.arm) == arm and step.is_of(kind)]
        for kind in (AdaptStage, CotrainStage)
    )
    counts = Counts.from_dict(read_manifest(curated[-1].folder)["counts"])
    # An arm that decodes while it trains stores no frames: its only data stage checks the files.
    checks_only = arms_of(recipe)[arm].adapt.input == "video" and [step.stage for step in curated] == ["keyframes"]
    seconds = sum(row["seconds"] for step in curated for row in read_timings(step.folder) if "phase" in row)
    return {
        "clips": counts.clips.rows_out,
        "texts": counts.texts.rows_out,
        "curation_s": 0.0 if checks_only else seconds,
        "train_s": sum(training_time(step.folder).train_s for step in (*cotrained, *trained)) / len(trained),
    }
