"""verify: compares the results of a run with real weights with those published for them, where both were measured alike."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from m2raap.core.config import Config, build
from m2raap.core.errors import M2raapError, ThresholdNotMet
from m2raap.core.files import read_json
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.protocols import protocol_in
from m2raap.retrieval.significance import bounds_text
from m2raap.stages.evaluate import EvaluateStage


class Anchor(Config):
    """A published zero-shot result, and what has to agree before a result is compared with it."""

    name: str = Field(description="Name of the published result.")
    backbones: tuple[str, ...] = Field(description="Names under which m2raap has the backbone.")
    weights: str = Field(description="Tag of the published weights.")
    temporal: str = Field(description="Temporal module of the published model.")
    benchmark: str = Field(description="Name of the declared benchmark.")
    lang: str = Field(description="Language of the queries.")
    queries: int = Field(description="Number of queries.")
    t2v: dict[str, float] = Field(description="R@k in percent from text to video, as the source prints them.")
    v2t: dict[str, float] = Field(description="R@k in percent from video to text, as the source prints them.")
    frames: str = Field(description="How the published frames were chosen.")
    source: str = Field(description="Paper and table that print the numbers.")


@lru_cache(maxsize=1)
def anchors() -> tuple[Anchor, ...]:
    """The published results of assets/anchors.yaml."""
    text = resources.files("m2raap").joinpath("assets/anchors.yaml").read_text(encoding="utf-8")
    return tuple(Anchor(**row) for row in yaml.safe_load(text))


def verify(run: RunFolder, weights: str | None = None, within: float | None = None) -> dict[str, Any]:
    """Compares every arm and benchmark of the run with the published results that were measured in the same way.

    `weights`: the published tag of weights that the recipe takes from a file. Raises M2raapError with a sentence
    for each arm where none fits, and ThresholdNotMet where a difference is over `within` points.
    """
    arms = arms_of(build(Recipe, run.tree.get("recipe", {}), str(run.path / "run.json")))
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    for step in run.steps:
        if not step.is_of(EvaluateStage) or not (step.folder / "results.json").is_file():
            continue
        tree = read_json(step.folder / "results.json")
        if protocol_in(tree) is None:
            refused.append(f"{step.arm} on {step.bench}: an older m2raap wrote results.json; evaluate again")
            continue
        why_not = [_why_not(anchor, arms[step.arm], tree, weights) for anchor in anchors()]
        fitting = [anchor for anchor, why in zip(anchors(), why_not, strict=True) if why is None]
        rows += [row for anchor in fitting for row in _compared(anchor, step, tree)]
        if not fitting:  # the anchor that fails last is the nearest
            refused.append(f"{step.arm} on {step.bench}: {max(why for why in why_not if why)[1]}")
    if not rows:
        outcome = "; ".join(refused) or "no evaluation is finished"
        raise M2raapError(f"{run.path}: no result of this run can be compared with a published one: {outcome}")
    outcome = {"compared": rows, "refused": refused}
    worst = max(rows, key=lambda row: abs(row["diff"]))
    if within is not None and not abs(worst["diff"]) <= within:
        raise ThresholdNotMet(f"{run.path}: {_line(worst)}; --within allows {within:g} points")
    return outcome


def _why_not(anchor: Anchor, arm: Recipe, tree: dict[str, Any], weights: str | None) -> tuple[int, str] | None:
    """None where the two can be compared; else how many checks passed, and the sentence of the first that failed."""
    backbone = arm.backbone
    temporal = arm.adapt.temporal.name if arm.trains else "mean"
    queries = _row(tree, anchor.lang, "t2v")
    tag = weights if weights and backbone.pretrained and Path(backbone.pretrained).suffix else backbone.pretrained
    checks = [
        (not backbone.random_init, "its weights are random (random_init)"),
        (
            not backbone.model.startswith("builtin:"),
            f"its backbone {backbone.model} is the tiny model, for which nothing is published",
        ),
        (
            backbone.model in anchor.backbones,
            f"its backbone is {backbone.model}; results exist for {_known('backbones')}",
        ),
        (
            tag == anchor.weights,
            f"its weights are '{backbone.pretrained}', the published ones '{anchor.weights}' (if weights from a file are those, "
            f"give --weights {anchor.weights})",
        ),
        (not arm.trains, "it was trained; the published results are zero-shot"),
        (temporal == anchor.temporal, f"its temporal module is {temporal}, the published one {anchor.temporal}"),
        (
            tree["protocol"]["name"] == anchor.benchmark,
            f"its benchmark is {tree['protocol']['name']}, the published one {anchor.benchmark}",
        ),
        (queries is not None, f"it has no queries in '{anchor.lang}'"),
        (
            queries is not None and queries["queries"] == anchor.queries,
            f"it has {queries['queries'] if queries else 0:,} queries, the published result {anchor.queries:,}",
        ),
        (not tree.get("rescored"), "it is rescored, the published result is of plain cosines"),
    ]
    for num_passed, (passed, sentence) in enumerate(checks):
        if not passed:
            return num_passed, sentence
    return None


def _known(field: str) -> str:
    return ", ".join(dict.fromkeys(name for anchor in anchors() for name in getattr(anchor, field)))


def _row(tree: dict[str, Any], lang: str, direction: str) -> dict[str, Any] | None:
    for row in tree["rows"]:
        if (row["lang"], row["direction"], row["scope"], row["slice"]) == (lang, direction, "official", "all"):
            return row
    return None


def _compared(anchor: Anchor, step: Step, tree: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for direction, published in (("t2v", anchor.t2v), ("v2t", anchor.v2t)):
        row = _row(tree, anchor.lang, direction)
        assert row is not None
        for metric, value in published.items():
            lo, hi = row["intervals"][metric]
            ours = row["metrics"][metric]
            rows.append(
                {
                    "arm": step.arm, "bench": step.bench, "benchmark": anchor.benchmark, "direction": direction,
                    "metric": metric, "ours": ours, "lo": lo, "hi": hi, "published": value, "diff": round(ours - value, 6),
                    "inside": lo <= value <= hi, "missing": row["missing"], "queries": row["queries"],
                    "published_frames": anchor.frames, "our_frames": tree["protocol"]["frames"],
                    "source": anchor.source,
                }
            )  # fmt: skip
    return rows


def verify_lines(outcome: dict[str, Any]) -> list[str]:
    """The result of :func:`verify` as text: one line a compared metric, a source, and an arm that fits none."""
    lines = [_line(row) for row in outcome["compared"]]
    for row in {row["benchmark"]: row for row in outcome["compared"]}.values():
        lines.append(f"published: {row['source']}; {row['published_frames']}; this run: {row['our_frames']}")
    return lines + [f"not compared: {sentence}" for sentence in outcome["refused"]]


def _line(row: dict[str, Any]) -> str:
    lost = f", {row['missing']:,} videos are missing and count as misses" if row["missing"] else ""
    ours = f"{row['ours']:.1f} ({bounds_text((row['lo'], row['hi']))})"
    return (
        f"{row['arm']} on {row['bench']}, {row['direction']} {row['metric']}: {ours}, "
        f"published {row['published']:.1f}: {row['diff']:+.1f} points; the published value lies "
        f"{'inside' if row['inside'] else 'outside'} the 95% interval of {row['queries']:,} queries{lost}"
    )
