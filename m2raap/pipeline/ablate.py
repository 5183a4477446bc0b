"""`run --ablate`: a recipe as the paper's progressive table, in which each row adds one thing to the row before it.

Each row trains on what the row before it trained on, but for one change; every stage folder whose inputs and settings are
unchanged is shared (m2raap.pipeline.plan). The rows change what training reads: before the row `keyframes` the videos are
decoded again every epoch, while the captions that rewriting needs come from key-frames in every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from m2raap.core.config import merge
from m2raap.core.errors import UsageError
from m2raap.models.config import CaptionGuidedMugConfig
from m2raap.pipeline.recipe import Recipe

# Row -> section of the recipe -> the keys that the row sets as the recipe has them, with their values in the rows before it.
# The rows `filter` and `rewrite`, which come before these, set `stages`.
OFF: dict[str, dict[str, dict[str, Any]]] = {
    "keyframes": {"adapt": {"input": "video", "cache": "auto"}},
    "temporal": {"adapt": {"temporal": {"name": "mean"}, "loss": {"direction": 0.0, "event_order": 0.0}}},
    "interaction": {
        "adapt": {"interaction": None, "loss": {"plain": 1.0, "interaction": 0.0}},
        "embed": {"rerank": None},
    },
    "acg": {"adapt": {"acg": None, "loss": {"frame_caption": 0.0}}, "embed": {"captions": False}},
}


def progressive(recipe: Recipe) -> Recipe:
    """The recipe with the rows as its arms: baseline, filter, rewrite, and those of OFF.

    The baseline is mean pooling on all noisy pairs, with raw video decoded every epoch. Rows of what the recipe does not have
    are left out. A recipe that is already progressive is returned as it is. Raises UsageError for a recipe with other arms,
    or without training.
    """
    if recipe.arms:
        if recipe.progressive:
            return recipe
        raise UsageError(
            f"recipe '{recipe.name}': --ablate makes arms out of a recipe without arms, and this one has "
            f"{', '.join(recipe.arms)}. Remove them, or set 'progressive: true' if each of them adds one thing to the one before"
        )
    if not recipe.trains:
        raise UsageError(f"recipe '{recipe.name}' has no stage adapt, so that --ablate has no training to compare")
    settings: dict[str, Any] = {"stages": ["keyframes", "adapt"], "adapt": {}, "embed": {}}
    for sections in OFF.values():
        for section, values in sections.items():
            settings[section] = merge(settings[section], values)
    ablations = recipe.embed.frame_ablations
    settings["embed"]["frame_ablations"] = [name for name in ablations if name != "other_captions"]
    rows: dict[str, dict[str, Any]] = {"baseline": deepcopy(settings)}
    for name, change in _changes(recipe):
        for section, values in change.items():
            settings[section] = merge(settings[section], values) if isinstance(values, dict) else values
        rows[name] = deepcopy(settings)
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    return Recipe.model_validate(tree | {"arms": rows, "compare": [], "progressive": True})


def _changes(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """(row, what it changes), in the paper's order, for every row that the recipe has."""
    cfg, stages = recipe.adapt, recipe.stages
    cleaning = [stage for stage in ("filter", "keyframes", "align") if stage in stages]
    if cleaning != ["keyframes"]:
        yield "filter", {"stages": [*cleaning, "adapt"]}
    if "rewrite" in stages or "caption" in stages:
        yield "rewrite", {"stages": list(stages)}
    is_on = {
        "keyframes": cfg.input == "keyframes",
        "temporal": cfg.temporal.name != "mean",
        "interaction": bool(cfg.interaction or recipe.embed.rerank),
        "acg": cfg.wants_captions,
    }
    tree = recipe.model_dump(mode="json")
    for name, sections in OFF.items():
        if not is_on[name]:
            continue
        change = {section: _of_the_recipe(keys, tree[section]) for section, keys in sections.items()}
        if name == "acg":  # rows without captions have none to exchange
            change["embed"]["frame_ablations"] = list(recipe.embed.frame_ablations)
        if isinstance(cfg.interaction, CaptionGuidedMugConfig):  # the row acg adds the captions to what is Mug before
            if name == "interaction":
                change["adapt"]["interaction"] = cfg.interaction.without_captions().model_dump(mode="json")
            elif name == "acg":
                change["adapt"]["interaction"] = tree["adapt"]["interaction"]
        yield name, change


def _of_the_recipe(keys: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """The keys with the recipe's values; of `loss` only the terms that the row sets."""
    return {key: _of_the_recipe(off, tree[key]) if key == "loss" else tree[key] for key, off in keys.items()}
