"""Rows that a report adds to the headline: CLIP4Clip's arithmetic, rescored results, English and Chinese, frame ablations,
two-way accuracy.

Each row is over all training seeds of an arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from m2raap.pipeline.plan import Step
from m2raap.report.data import BilingualRow, CompatRow, FrameAblationRow, RescoredRow, ResultRow, TwoWayRow
from m2raap.report.protocols import Evaluations
from m2raap.retrieval.agreement import agreement
from m2raap.retrieval.arms import paired
from m2raap.retrieval.results_file import other_results, read_results
from m2raap.retrieval.sides import RULE_B, rows_of, side_of
from m2raap.retrieval.significance import interval
from m2raap.retrieval.summary import DIGITS, summary_row
from m2raap.retrieval.two_way import two_way_rows as summarise_two_way
from m2raap.stages.evaluate import read_ranks

LATE, TRANSDUCTIVE = "late interaction", "transductive"
_MARKS = {"rerank": LATE, "dual_softmax": TRANSDUCTIVE, "qb_norm": TRANSDUCTIVE}
_SHARES = ("both", "only_en", "only_zh", "neither")
_AS_THEY_ARE = "as they are"


def compat_rows(evaluations: Evaluations) -> list[CompatRow]:
    """What CLIP4Clip's arithmetic gives for every arm, mean over its seeds; none for an arm of which a seed lacks it."""
    rows = []
    for (arm, bench), steps in evaluations.items():
        tables_of_seeds = [tree["compat"] for tree in _trees(steps) if "compat" in tree]
        if len(tables_of_seeds) < len(steps):
            continue
        for lang in tables_of_seeds[0]["rows"]:
            for direction in tables_of_seeds[0]["rows"][lang]:
                tables = [seed_table["rows"][lang][direction] for seed_table in tables_of_seeds]
                if not all(tables):  # a language whose clips are all missing has no numbers
                    continue
                mean = {name: _mean([table[name] for table in tables]) for name in tables[0]}
                counts = {"queries": int(mean.pop("queries")), "entries": mean.pop("entries")}
                rows.append(CompatRow(arm, bench, lang, direction, mean, label=tables_of_seeds[0]["label"], **counts))
    return rows


def rescored_rows(evaluations: Evaluations, seed: int) -> list[RescoredRow]:
    """Every way to rescore that all seeds of an arm have, with its paired difference to the plain cosine of the arm."""
    rows = []
    for (arm, bench), steps in evaluations.items():
        plain: list[list[dict[str, Any]]] = []
        for name, tree in _trees_by_name(steps, rescored=True).items():
            tables = [read_ranks(step.folder / f"ranks-{name}.parquet") for step in steps]
            plain = plain or [read_ranks(step.folder / "ranks.parquet") for step in steps]
            for lang, direction in _lang_directions(tables[0]):
                sides = [side_of(table, lang, direction, None) for table in tables]
                summary = summary_row([side for side, _, _ in sides], sides[0][2], seed)
                change = paired(tables, plain, lang, direction, "R@1", seed)
                rows.append(
                    RescoredRow(
                        arm=arm, benchmark=bench, way=name, mark=_mark(name), label=tree["rescored"]["label"],
                        lang=lang, direction=direction,
                        **{key: summary[key] for key in ("queries", "gallery", "seeds", "seeds_r1", "metrics", "intervals")},
                        **{key: change[key] for key in ("diff", "lo", "hi", "p")},
                    )
                )  # fmt: skip
    return rows


def _mark(name: str) -> str:
    """The mark of a rescoring; rerank-VARIANT has that of rerank."""
    return _MARKS.get(name.partition("-")[0], "")


def bilingual_rows(evaluations: Evaluations, seed: int) -> list[BilingualRow]:
    """English and Chinese compared on the same clips. The gap is paired over clips, hits averaged over the training seeds."""
    rows = []
    for (arm, bench), steps in evaluations.items():
        trees = _trees(steps)
        if not all(tree.get("bilingual") for tree in trees):
            continue
        gaps = trees[0]["bilingual"]
        if len(steps) > 1:  # agreement() averages over the queries of a clip, and so over the seeds
            tables = [read_ranks(step.folder / "ranks.parquet") for step in steps]
            gaps = agreement([row for table in tables for row in table], seed)
        for place, gap in enumerate(gaps):
            seed_rows = [tree["bilingual"][place] for tree in trees]
            same = [seed_row["spearman"] for seed_row in seed_rows if seed_row["spearman"] is not None]
            rows.append(
                BilingualRow(
                    arm, bench, gap["direction"], gap["clips"], len(steps), gap["gaps"],
                    _mean(same) if len(same) == len(seed_rows) else None,
                    **{name: _mean([seed_row[name] for seed_row in seed_rows]) for name in _SHARES},
                )
            )  # fmt: skip
    return rows


def frame_ablation_rows(evaluations: Evaluations, results: Sequence[ResultRow], seed: int) -> list[FrameAblationRow]:
    """R@1 with the frames as they are (taken from `results`) and under every frame ablation of `embed`."""
    rows = []
    for (arm, bench), steps in evaluations.items():
        whole = [row for row in results if (row.arm, row.benchmark, row.scope) == (arm, bench, "official")]
        frame_ablations = _trees_by_name(steps, rescored=False)
        for frames in [_AS_THEY_ARE, *frame_ablations] if frame_ablations else []:
            tables = (
                []
                if frames == _AS_THEY_ARE
                else [read_ranks(step.folder / f"ranks-{frames}.parquet") for step in steps]
            )
            for row in whole:
                r1, (lo, hi) = row.metrics["R@1"], row.intervals["R@1"]
                if tables:
                    category = None if row.slice == "all" else row.slice
                    if not rows_of(tables[0], row.lang, row.direction, category):
                        continue
                    r1, lo, hi = _r1(tables, row.lang, row.direction, category, seed)
                rows.append(
                    FrameAblationRow(arm, bench, row.lang, row.direction, row.slice, frames, r1, lo, hi, len(steps))
                )
    return rows


def two_way_rows(evaluations: Evaluations, seed: int) -> list[TwoWayRow]:
    """Two-way accuracy of every arm: its plain cosines, its rescorings and its frame ablations; none without twins."""
    rows = []
    for (arm, bench), steps in evaluations.items():
        ways = ["", *_trees_by_name(steps, rescored=True), *_trees_by_name(steps, rescored=False)]
        if not all(tree.get("two_way") for tree in _trees(steps)):
            continue
        for way in ways:
            name = f"ranks-{way}.parquet" if way else "ranks.parquet"
            tables = [read_ranks(step.folder / name) for step in steps]
            rows += [TwoWayRow(arm, bench, way, **row) for row in summarise_two_way(tables, seed)]
    return rows


def _r1(
    tables: Sequence[Sequence[dict[str, Any]]], lang: str, direction: str, category: str | None, seed: int
) -> tuple[float, float, float]:
    """R@1 with its interval, hits averaged over the tables."""
    sides = [side_of(table, lang, direction, category) for table in tables]
    hits = 100 * np.mean([side.hits(1) for side, _, _ in sides], axis=0)
    bounds = interval(hits, sides[0][2], seed, limits=(0.0, 100.0))
    return round(float(hits.mean()), DIGITS), round(bounds.lo, DIGITS), round(bounds.hi, DIGITS)


def _trees_by_name(steps: Sequence[Step], *, rescored: bool) -> dict[str, dict[str, Any]]:
    """NAME -> the first seed's results-NAME.json, for the names that the folders of all seeds have."""
    trees = [other_results(step.folder) for step in steps]
    common = set.intersection(*map(set, trees))
    return {name: tree for name, tree in trees[0].items() if name in common and ("rescored" in tree) == rescored}


def _lang_directions(table: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The (language, direction) pairs of a table of ranks; v2t by rule b where all its queries have that."""
    pairs = sorted({(row["lang"], row["direction"]) for row in table})
    for lang, direction in list(pairs):
        if direction == "v2t" and len(rows_of(table, lang, RULE_B)) == len(rows_of(table, lang, direction)):
            pairs.append((lang, RULE_B))
    return sorted(pairs)


def _trees(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [read_results(step.folder) for step in steps]


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), DIGITS)
