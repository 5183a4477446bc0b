from pathlib import Path

import pytest

from m2raap.core.errors import UsageError
from m2raap.pipeline.plan import plan
from m2raap.pipeline.recipe import Recipe, arms_of, load_recipe, recipes_folder

RECIPES = sorted(recipes_folder().glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_parses_and_plans(path: Path, tmp_path: Path):
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    steps = plan(recipe, tmp_path, "corpus", {"b": "bench"})
    assert {step.arm for step in steps} == set(arms_of(recipe))


def test_recipes_are_found_by_name_and_unknown_ones_list_what_there_is():
    assert load_recipe("demo").name == load_recipe("recipes/demo.yaml").name == "demo"
    shipped = ", ".join(path.stem for path in RECIPES)
    with pytest.raises(UsageError, match=rf"no recipe of that name is shipped \(shipped: {shipped}\)"):
        load_recipe("demoo")


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nstages: [adapt]\n", "keyframes has to stand"),
        ("name: x\nstages: [keyframes, filter]\n", "stages run in this order: filter, keyframes"),
        ("name: x\nadapt: {seed: 3}\n", "'seed' belongs at the top"),
        ("name: x\nadapt: {temporal: {name: stan, layerz: 3}}\n", r"unknown key 'adapt.temporal.stan.layerz'"),
        ("name: x\nkeyframez: {k: 3}\n", r"unknown key 'keyframez': did you mean 'keyframes'\?"),
        ("name: x\narms: {a: {filter: {textt: 1}}}\n", r"arms.a: unknown key 'filter.textt': did you mean 'text'\?"),
        ("name: x\narms: {a: {arms: {}}}\n", "'arms' cannot stand in an arm"),
        ("name: x\narms: {a: {}}\ncompare: [[a, b]]\n", "compare names the arm 'b'; arms are: a"),
        ("name: x\narms: {../a: {}}\n", "arm"),
        ("langs: [en]\n", "name: this key is needed"),
    ],
)
def test_a_bad_recipe_is_said_with_its_key(tmp_path: Path, text: str, message: str):
    with pytest.raises(UsageError, match=message):
        load_recipe(write(tmp_path, text))


def test_arms_share_what_agrees_and_the_first_owns_it(tmp_path: Path):
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "arms": {
                "zero": {"stages": []},
                "mean": {"adapt": {"temporal": {"name": "mean"}}},
                "noisy": {"stages": ["keyframes", "adapt"]},
                "full": {"filter": {"text": {"rules": {"text_too_short": {"en": 4}}}}},
            },
        }
    )
    steps = plan(recipe, tmp_path, "corpus", {"b": "bench"})
    owner = {(step.arm, step.stage, step.bench): step.owner for step in steps}
    assert owner["mean", "keyframes", "b"] == owner["full", "keyframes", "b"] == "zero", "one decode of the benchmark"
    assert owner["noisy", "keyframes", None] == "noisy", "its clips were not filtered"
    assert owner["full", "filter", None] == "full"
    assert owner["full", "embed", "b"] == "full"
    same = Recipe.model_validate({"name": "x", "arms": {"a": {}, "b": {}}})
    assert {step.owner for step in plan(same, tmp_path, "corpus", {"b": "bench"})} == {"a"}


def test_a_seed_reaches_training_only(tmp_path: Path):
    recipe = Recipe.model_validate({"name": "x", "arms": {"a": {}, "b": {"seed": 1}}})
    owner = {(step.arm, step.stage, step.bench): step.owner for step in plan(recipe, tmp_path, "corpus", {})}
    assert owner["b", "rewrite", None] == "a" and owner["b", "adapt", None] == "b"
