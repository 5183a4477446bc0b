"""The paper's progressive table as a recipe: taken apart, and put together again one thing at a time.

Each row trains on what the row before it trained on, but for one change; every stage folder whose inputs and settings are
unchanged is shared (`pipeline.plan`). The rows change what training reads: before `+ key-frames` the videos are decoded again
every epoch, while the captions that rewriting needs come from key-frames in every row.
"""

from __future__ import annotations

from typing import Any

from m2raap.core.errors import UsageError
from m2raap.pipeline.recipe import Recipe


def progressive(recipe: Recipe) -> Recipe:
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
    if not recipe.trains:
        raise UsageError(f"recipe '{recipe.name}' trains nothing: there is nothing to take apart")
    rows: dict[str, dict[str, Any]] = {}
    settings = _without_everything(recipe)
    rows["baseline"] = _copy(settings)
    for name, change in _steps(recipe):
        for section, values in change.items():
            settings[section] = values if not isinstance(values, dict) else {**settings.get(section, {}), **values}
        rows[name] = _copy(settings)
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    return Recipe.model_validate(tree | {"arms": rows, "compare": [], "progressive": True})


def _without_everything(recipe: Recipe) -> dict[str, Any]:
    """Mean pooling on all noisy pairs, raw video decoded every epoch."""
    adapt: dict[str, Any] = {"input": "video", "cache": "auto", "acg": None, "fcc_weight": 0.0, "mug_weight": 0.0}
    if recipe.adapt.temporal.name != "mean":
        adapt |= {"temporal": {"name": "mean"}, "reversal_weight": 0.0}
    if recipe.adapt.input == "video":
        adapt.pop("input")
    return {"stages": ["keyframes", "adapt"], "adapt": adapt, "embed": {"captions": False, "mug": None}}


def _steps(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    """Row -> what it adds, in the paper's order."""
    cfg, stages = recipe.adapt, recipe.stages
    whole = recipe.model_dump(mode="json")
    rows: list[tuple[str, dict[str, Any]]] = []
    clean = [stage for stage in ("filter", "keyframes", "align") if stage in stages]
    if clean != ["keyframes"]:
        rows.append(("filter", {"stages": [*clean, "adapt"]}))
    if "rewrite" in stages or "caption" in stages:
        rows.append(("rewrite", {"stages": list(stages)}))
    if cfg.input == "keyframes":
        rows.append(("keyframes", {"adapt": {"input": "keyframes", "cache": cfg.cache}}))
    if cfg.temporal.name != "mean":
        temporal = {name: whole["adapt"][name] for name in ("temporal", "reversal_weight")}
        rows.append(("temporal", {"adapt": temporal}))
    if cfg.mug_weight or recipe.embed.mug:
        rows.append(("mug", {"adapt": {"mug_weight": cfg.mug_weight}, "embed": {"mug": whole["embed"]["mug"]}}))
    if cfg.wants_captions:
        adapt = {name: whole["adapt"][name] for name in ("acg", "fcc_weight")}
        rows.append(("acg", {"adapt": adapt, "embed": {"captions": recipe.embed.captions}}))
    return rows


def _copy(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, dict) else list(value) for name, value in tree.items()}
