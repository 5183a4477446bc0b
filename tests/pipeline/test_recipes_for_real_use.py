"""Every recipe for real weights: planned and priced as it stands, and its training run for two steps on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from m2raap.adapt.loop import adapt
from m2raap.adapt.optim import lr_multiplier
from m2raap.adapt.sources import ListSource
from m2raap.core.config import merge
from m2raap.models.config import BackboneConfig, StanConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.pipeline.plan import plan
from m2raap.pipeline.recipe import Recipe, arms_of, load_recipe, recipes_folder
from m2raap.pipeline.train_cost import as_tree, cost_lines, training_cost
from tests.adapt.world import ordered
from tests.models.test_families import write_family
from tests.pipeline.test_train_cost import SMALL

torch.set_num_threads(1)
# Recipe -> clips of the corpus it is for, and the GPUs that its title promises: (gigabytes of each, how many).
REAL = {
    "stan_b32": (1_000_000, (24, 1)),
    "m2raap_b16_24gb": (1_000_000, (24, 1)),
    "m2raap_cnclip_b16_24gb": (1_000_000, (24, 1)),
    "m2raap_siglip2": (1_000_000, None),
    "m2raap_pe_core_b16": (1_000_000, (24, 1)),
    "m2raap_metaclip2_l14": (1_000_000, (48, 1)),
    "m2raap_8gpu": (1_000_000, (80, 8)),
    "webvid_mugstan": (10_700_000, None),
    "clip4clip_msrvtt": (9_000, None),
    "stan_msrvtt": (9_000, None),
}
# Recipe -> the shrunken model of its own family that it is trained on; the others are trained on a small ViT.
FAMILY = {"m2raap_pe_core_b16": "pe_core", "m2raap_metaclip2_l14": "metaclip_2"}
# What makes it small. Everything else of the recipe stays.
TINY: dict[str, Any] = {
    "steps": 2, "batch_size": 4, "num_frames": 3, "val_every_steps": 2, "checkpoint_every_steps": 2, "device": "cpu",
}  # fmt: skip


def small_backbone(name: str, folder: Path) -> dict[str, Any]:
    """backbone of a recipe, for a small model with random weights that is written into the folder."""
    if name in FAMILY:
        return write_family(FAMILY[name], folder).model_dump()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    return {"model": f"local-dir:{folder}", "random_init": True}


@pytest.fixture(scope="module")
def source() -> ListSource:
    return ordered(8, seed=0, frames=6)


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_for_real_use(name: str, source: ListSource, tmp_path: Path):
    recipe = load_recipe(name)
    clips, promised = REAL[name]
    steps = plan(recipe, tmp_path, "corpus", {"b": "bench"})
    assert {step.arm for step in steps} == set(arms_of(recipe)), "planned"
    done = set()
    (tmp_path / "small").mkdir()
    backbone = small_backbone(name, tmp_path / "small")
    for arm, one in arms_of(recipe).items():
        if "adapt" not in one.stages:
            continue
        cost = training_cost(one, clips)
        said = " ".join(cost_lines(arm, as_tree(cost, one)))
        assert f"{cost.steps:,} steps of {one.adapt.batch_size:,} pairs" in said and "GB on one GPU" in said
        if promised:
            # A fifth is left to what the arithmetic leaves out.
            assert cost.memory_bytes(promised[1]) < 0.8 * promised[0] * 1e9, said
        if one.adapt.temporal.name not in done:
            done.add(one.adapt.temporal.name)
            train(one, backbone, source, tmp_path / arm)


@pytest.mark.parametrize("path", sorted(recipes_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_the_warm_up_of_every_recipe_is_shorter_than_its_run(path: Path):
    """For the corpus it is for and for a small one: the rates reach their full value, and fall for longer than they rise."""
    for arm, one in arms_of(load_recipe(str(path))).items():
        for clips in (REAL.get(path.stem, (5000, None))[0], 5000):
            cfg, steps = one.adapt, training_cost(one, clips).steps
            rates = [lr_multiplier(step, steps, cfg.warmup, cfg.lr_floor) for step in range(1, steps + 1)]
            top = rates.index(max(rates))
            assert max(rates) > 0.9 and top < len(rates) / 4, f"{arm}, {clips} clips"


def train(recipe: Recipe, backbone: dict[str, Any], source: ListSource, out: Path) -> None:
    over = TINY | {"micro_batch": 2 if recipe.adapt.micro_batch else None}
    layers = load_backbone(BackboneConfig.model_validate(backbone)).num_layers
    over |= {"train_vision_layers": min(recipe.adapt.train_vision_layers, layers)}
    over |= {"text_length": min(recipe.adapt.text_length or 99, SMALL["text_cfg"]["context_length"])}
    temporal = recipe.adapt.temporal
    if isinstance(temporal, StanConfig) and temporal.layers > layers:
        over |= {"temporal": {"layers": layers}}
    tree = recipe.model_dump(mode="json", exclude_unset=True) | {"backbone": backbone}
    cfg = Recipe.model_validate(merge(tree, {"adapt": over})).stage("adapt").cfg
    found = adapt(cfg, source, None, out)
    assert found.finished and found.steps == 2
    assert VideoCLIP.load(found.model_dir).temporal_cfg == cfg.temporal
