"""Claim: of the faults planted in a world, the filters find at least 95% at a precision of at least 95%, and captions that
name another object, colour or shape at least 90% at 90%. Thresholds are chosen on one seed's world; the figures are from
another's, and once more from those of its clips that show no (colour, shape) pair of the first.

Captions with a wrong motion alone have a row without a goal: the image-text model of this recipe sees single frames.

    python bench/faults.py [--work DIR] [--clips 1400] [--tune-seed 1] [--seed 2] [--workers N]

With --work the worlds and stages are kept, and finished ones are used again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_tools.world.grammar import split_pairs
from data_tools.world.importer import import_world
from m2raap.core.config import build
from m2raap.core.engine import LocalEngine
from m2raap.core.tables import read_all, row_key
from m2raap.core.view import open_view
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run import Options, run
from m2raap.pipeline.run_folder import Inputs
from m2raap.report.grading import grade

WITHOUT_GOAL = "mismatch_motion"
LEAST_PRECISION = 0.97  # on the tuning world; above the goal, since the figures are of another world


def curated(work: Path, seed: int, args: argparse.Namespace, mismatch: float | None = None) -> Path:
    """The folder of a run of filter, keyframes and align over the world of a seed."""
    world = work / f"world-{seed}"
    settings = [f"train_clips={args.clips}", "val_clips=2", "test_clips=2"]
    import_world(world, seed=seed, assignments=settings, workers=args.workers)
    tree: dict[str, Any] = {
        "name": "faults",
        "stages": ["filter", "keyframes", "align"],
        "keyframes": {"short_side_px": 96},
    }
    if mismatch is not None:
        tree["align"] = {"mismatch": {"value": mismatch}}
    out = work / f"run-{seed}"
    engine = LocalEngine(args.workers)
    try:
        run(build(Recipe, tree, "bench/faults.py"), Inputs(world / "train"), out, engine, Options(force=True))
    finally:
        engine.close()
    return out


def choose_mismatch(run_folder: Path, world: Path) -> tuple[float, list[str]]:
    """The highest threshold that keeps LEAST_PRECISION on this world, and the sweep as lines."""
    faults = {row["id"]: row["fault"] for row in rows_of(world / "truth.parquet") if not row["repairable"]}
    judged = [
        row
        for row in read_all(run_folder / "align", "verdicts")
        if row["text_id"] and row["sim_percentile"] is not None
    ]
    kind = [faults.get(row["text_id"], faults.get(row["clip_id"], "")) for row in judged]
    score = np.array([row["sim_percentile"] for row in judged])
    wrong = np.array([name == "mismatch" for name in kind])
    sound = np.array([name in ("", "duplicate_clip") for name in kind])
    lines, chosen = [], 0.0
    for value in np.arange(0.80, 0.9951, 0.01).round(2).tolist():
        dropped = score < value
        right, false = int((dropped & wrong).sum()), int((dropped & sound).sum())
        precision = right / max(right + false, 1)
        chosen = value if precision >= LEAST_PRECISION else chosen
        lines.append(f"  {value:.2f}  recall {right / max(wrong.sum(), 1):.3f}  precision {precision:.3f}")
    return chosen, lines


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def graded(run_folder: Path, world: Path, only_clips: Collection[str] | None = None) -> dict[str, Any]:
    view = open_view(world / "train")
    clip_of = {row["text_id"]: row["clip_id"] for part in view.parts() for row in part.texts}
    clip_of = {text: clip for text, clip in clip_of.items() if only_clips is None or clip in only_clips}
    ids = {*clip_of, *clip_of.values()}
    truth = [row for row in rows_of(world / "truth.parquet") if row["id"] in ids and row["fault"] != WITHOUT_GOAL]
    motion = [row for row in rows_of(world / "truth.parquet") if row["id"] in ids and row["fault"] == WITHOUT_GOAL]
    by_reason: dict[str, list[str]] = {}
    for stage in ("filter", "keyframes", "align"):
        for row in read_all(run_folder / stage, "dropped"):
            if row["clip_id"] in ids:
                by_reason.setdefault(row["reason"], []).append(row_key(row))
    # A drop of a caption with a wrong motion alone is right, but does not count in recall.
    precision = grade(by_reason, truth + motion, clip_of)
    return grade(by_reason, truth, clip_of) | {
        "reasons": precision["reasons"],
        "motion": [row for row in precision["faults"] if row["fault"] == WITHOUT_GOAL],
        "overall_all": precision["overall"],
        "precision": precision["overall"]["precision"],
    }


def show(title: str, grades: dict[str, Any]) -> None:
    print(f"\n{title}")
    print(f"  {'fault':<18}{'planted':>8}{'caught':>8}{'recall':>8}  by")
    for row in [*grades["faults"], *grades["motion"]]:
        by = ", ".join(f"{name} {n}" for name, n in row["by_reason"].items())
        goal = "  (no goal)" if row["fault"] == WITHOUT_GOAL else ""
        print(f"  {row['fault']:<18}{row['planted']:>8}{row['caught']:>8}{row['recall']:>8.3f}  {by}{goal}")
    print(f"  {'rule':<18}{'dropped':>8}{'right':>8}{'precision':>11}")
    for row in grades["reasons"]:
        print(f"  {row['reason']:<18}{row['dropped']:>8}{row['right']:>8}{row['precision']:>11.3f}")
    overall = grades["overall"]
    print(
        f"  overall: recall {overall['recall']:.3f} ({overall['caught']} of {overall['planted']}), precision "
        f"{grades['precision']:.3f}; with captions of a wrong motion: recall {grades['overall_all']['recall']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--clips", type=int, default=1400)
    parser.add_argument("--tune-seed", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        tuned = curated(work, args.tune_seed, args)
        value, sweep = choose_mismatch(tuned, work / f"world-{args.tune_seed}")
        limit = build(Recipe, {"name": "x"}, "").align.mismatch.limit
        shipped = limit.min if limit else None
        print(
            f"align.mismatch.limit on seed {args.tune_seed} (precision at least {LEAST_PRECISION}): {value}; shipped {shipped}"
        )
        print("\n".join(sweep))
        world = work / f"world-{args.seed}"
        grades = graded(curated(work, args.seed, args, value), world)
        show(f"seed {args.seed}, {args.clips} clips, thresholds of seed {args.tune_seed}", grades)
        known = {" ".join(pair) for pair in split_pairs(args.tune_seed)["train"]}
        unseen = {row["clip_id"] for row in rows_of(world / "scenes.parquet") if not known & set(row["pairs"])}
        show(
            f"seed {args.seed}, the {len(unseen)} clips without a (colour, shape) pair of seed {args.tune_seed}'s training clips",
            graded(work / f"run-{args.seed}", world, unseen),
        )
    mismatch = {row["fault"]: row for row in grades["faults"]}["mismatch"]
    dropped = {row["reason"]: row for row in grades["reasons"]}["mismatch"]
    goals = {
        "overall recall >= 0.95": grades["overall"]["recall"] >= 0.95,
        "overall precision >= 0.95": grades["precision"] >= 0.95,
        "mismatch recall >= 0.9": mismatch["recall"] >= 0.9,
        "mismatch precision >= 0.9": dropped["precision"] >= 0.9,
    }
    print("\ngoals: " + "; ".join(f"{name} {'met' if met else 'MISSED'}" for name, met in goals.items()))
    sys.exit(0 if all(goals.values()) else 1)


if __name__ == "__main__":
    main()
