"""The paper's progressive table: a recipe taken apart, and put together again one thing at a time.

Each row trains on what the row before it trained on, but for one change; every stage folder whose inputs and settings are
unchanged is shared (`stages.plan`). The rows change what training reads: before `+ key-frames` the videos are decoded anew
every epoch, while the captions that rewriting needs come from key-frames in every row.
"""

from __future__ import annotations

from typing import Any

from m2raap.core.errors import UsageError
from m2raap.core.files import read_json
from m2raap.core.folder import read_timings
from m2raap.report.data import LadderRow
from m2raap.retrieval.arms import paired
from m2raap.retrieval.sides import side_of
from m2raap.retrieval.summary import summary_row
from m2raap.stages import DATA_STAGES
from m2raap.stages.evaluate import read_ranks
from m2raap.stages.runs.plan import Step
from m2raap.stages.runs.recipe import Recipe, arms_of, family
from m2raap.stages.training_log import training_time

LATE = "mug"  # of `ranks-mug.parquet`: late interaction over the first candidates
Ranks = list[dict[str, Any]]


def ladder(recipe: Recipe) -> Recipe:
    """The recipe with the paper's rows as arms: baseline, filter, rewrite, keyframes, temporal, mug, acg.

    Rows of what the recipe does not have are left out. A recipe that is already progressive stays as it is. Raises
    UsageError for a recipe with other arms, or without training.
    """
    if recipe.arms:
        if recipe.progressive:
            return recipe
        raise UsageError(
            f"recipe '{recipe.name}' has arms of its own: ablate takes one recipe apart. Leave the arms out, or say "
            "'progressive: true' where each adds one thing to the one before it"
        )
    if "adapt" not in recipe.stages:
        raise UsageError(f"recipe '{recipe.name}' trains nothing: there is nothing to take apart")
    rows: dict[str, dict[str, Any]] = {}
    taken = _without_everything(recipe)
    rows["baseline"] = _copy(taken)
    for name, change in _steps(recipe):
        for section, values in change.items():
            taken[section] = values if not isinstance(values, dict) else {**taken.get(section, {}), **values}
        rows[name] = _copy(taken)
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    return Recipe.model_validate(tree | {"arms": rows, "compare": [], "progressive": True})


def _without_everything(recipe: Recipe) -> dict[str, Any]:
    """Mean pooling on all noisy pairs, raw video decoded every epoch."""
    adapt: dict[str, Any] = {"input": "video", "cache": "auto", "enhance": None, "fcc_weight": 0.0, "mug_weight": 0.0}
    if recipe.adapt.temporal.name != "mean":
        adapt |= {"temporal": {"name": "mean"}, "order_weight": 0.0}
    if recipe.adapt.input == "video":
        adapt.pop("input")
    return {"stages": ["keyframes", "adapt"], "adapt": adapt, "embed": {"captions": False, "mug": None}}


def _steps(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    """Row -> what it adds, in the paper's order."""
    cfg, stages = recipe.adapt, recipe.stages
    whole = recipe.model_dump(mode="json")
    found: list[tuple[str, dict[str, Any]]] = []
    clean = [stage for stage in ("filter", "keyframes", "align") if stage in stages]
    if clean != ["keyframes"]:
        found.append(("filter", {"stages": [*clean, "adapt"]}))
    if "rewrite" in stages or "caption" in stages:
        found.append(("rewrite", {"stages": list(stages)}))
    if cfg.input == "keyframes":
        found.append(("keyframes", {"adapt": {"input": "keyframes", "cache": cfg.cache}}))
    if cfg.temporal.name != "mean":
        temporal = {name: whole["adapt"][name] for name in ("temporal", "order_weight")}
        found.append(("temporal", {"adapt": temporal}))
    if cfg.mug_weight or recipe.embed.mug:
        found.append(("mug", {"adapt": {"mug_weight": cfg.mug_weight}, "embed": {"mug": whole["embed"]["mug"]}}))
    if cfg.wants_captions:
        adapt = {name: whole["adapt"][name] for name in ("enhance", "fcc_weight")}
        found.append(("acg", {"adapt": adapt, "embed": {"captions": recipe.embed.captions}}))
    return found


def _copy(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, dict) else list(value) for name, value in tree.items()}


def ladder_rows(steps: list[Step], recipe: Recipe) -> list[LadderRow]:
    """What each finished row reached, text to video, and the paired difference to the row before it and to the first."""
    arms = list(dict.fromkeys(family(step.arm) for step in steps))
    rows: list[LadderRow] = []
    for bench in dict.fromkeys(step.bench for step in steps if step.bench):
        ranks = {arm: _ranks(steps, arm, bench, "ranks.parquet") for arm in arms}
        done = [arm for arm in arms if ranks[arm]]
        for place, arm in enumerate(done):
            first, before = ranks[done[0]], ranks[done[place - 1]]
            ways = [("", ranks[arm], before if place else None)]
            if late := _ranks(steps, arm, bench, f"ranks-{LATE}.parquet"):
                ways.append((LATE, late, ranks[arm]))
            costs = _costs(steps, arm, recipe)
            for way, tables, against in ways:
                for lang in sorted({row["lang"] for row in tables[0]}):
                    sides = [side_of(table, lang, "t2v", None) for table in tables]
                    found = summary_row([side for side, _, _ in sides], sides[0][2], recipe.seed)
                    rows.append(
                        LadderRow(
                            arm=arm, way=way, benchmark=bench, lang=lang, r1=found["metrics"]["R@1"],
                            interval=found["intervals"]["R@1"], seeds_r1=found["seeds_r1"],
                            step=_difference(tables, against, lang, recipe.seed),
                            whole=_difference(tables, first if place or way else None, lang, recipe.seed),
                            **costs,
                        )
                    )  # fmt: skip
    return rows


def _difference(tables: list[Ranks], against: list[Ranks] | None, lang: str, seed: int) -> list[float] | None:
    if against is None:
        return None
    found = paired(tables, against, lang, "t2v", 1, seed)
    return [found[name] for name in ("diff", "lo", "hi")]


def _ranks(steps: list[Step], arm: str, bench: str, name: str) -> list[Ranks]:
    """One table a training seed."""
    folders = [step.folder for step in steps if (family(step.arm), step.stage, step.bench) == (arm, "evaluate", bench)]
    return [read_ranks(folder / name) for folder in folders if (folder / name).exists()]


def _costs(steps: list[Step], arm: str, recipe: Recipe) -> dict[str, Any]:
    """What training and validation were left, core seconds of curation, seconds of training (mean over the seeds)."""
    curated = [step for step in steps if step.arm == arm and step.stage in DATA_STAGES and not step.bench]
    trained = [step for step in steps if family(step.arm) == arm and step.stage == "adapt"]
    counts = read_json(curated[-1].folder / "manifest.json")["counts"]
    only_vets = arms_of(recipe)[arm].adapt.input == "video" and [step.stage for step in curated] == ["keyframes"]
    seconds = sum(row["seconds"] for step in curated for row in read_timings(step.folder) if "phase" in row)
    return {
        "clips": counts["clips_out"],
        "texts": counts["texts_out"],
        "curation_s": 0.0 if only_vets else seconds,
        "train_s": sum(training_time(step.folder).train_s for step in trained) / len(trained),
    }
