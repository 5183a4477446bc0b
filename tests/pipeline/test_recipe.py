from pathlib import Path

import pytest

from m2raap.core.errors import UsageError
from m2raap.pipeline.plan import Step, plan
from m2raap.pipeline.recipe import Recipe, arms_of, load_for_stage, load_recipe, recipes_folder

RECIPES = sorted(recipes_folder().glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_parses_and_plans(path: Path, tmp_path: Path):
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    steps = plan(recipe, tmp_path, "corpus", {"b": "bench"})
    assert {step.arm for step in steps} == set(arms_of(recipe))


def test_recipes_are_found_by_name_and_unknown_ones_list_what_there_is():
    assert load_recipe("demo").name == load_recipe("recipes/demo.yaml").name == "demo"
    with pytest.raises(UsageError, match="^demoo: .*'demo'"):
        load_recipe("demoo")
    with pytest.raises(UsageError, match=f"^zzz: .*{', '.join(path.stem for path in RECIPES)}"):
        load_recipe("zzz")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("adapt.lr=abc", "demo.yaml with --set adapt.lr=abc: adapt.lr: .*'abc'"),
        ("adapt.temporal.layerz=3", "with --set adapt.temporal.layerz=3: .*did you mean 'layers'"),
        ("arms.m2raap.adapt.stepz=3", "arms.m2raap with --set arms.m2raap.adapt.stepz=3: .*did you mean 'steps'"),
        ("keyframes={z: 3}", "with --set keyframes={z: 3}: unknown key 'keyframes.z'"),
        ("adapt.seed=3", "with --set title=x, --set adapt.seed=3: 'seed'"),
        ("seed.x=3", "--set seed.x: 'seed'"),
    ],
)
def test_a_fault_in_an_assignment_names_the_option(item: str, message: str):
    with pytest.raises(UsageError, match=message):
        load_recipe("demo", ["title=x", item])
    with pytest.raises(UsageError) as error:
        load_recipe("demo", ["title=x", item], option="")
    assert item.partition("=")[0] in str(error.value) and "--set" not in str(error.value)


def test_a_fault_of_the_file_does_not_name_an_assignment(tmp_path: Path):
    with pytest.raises(UsageError) as error:
        load_recipe(write(tmp_path, "name: x\nkeyframez: {k: 3}\n"), ["adapt.steps=3"])
    assert "r.yaml: " in str(error.value) and "--set" not in str(error.value)
    with pytest.raises(UsageError, match=r"^--set adapt.lr=abc: adapt.lr: "):
        load_recipe(None, ["adapt.lr=abc"])


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nstages: [adapt]\n", "adapt reads .* keyframes"),
        ("name: x\nstages: [keyframes, filter]\n", "in the order .*: filter, keyframes"),
        ("name: x\nadapt: {seed: 3}\n", "'seed' .* adapt"),
        ("name: x\nadapt: {temporal: {name: stan, layerz: 3}}\n", r"unknown key 'adapt.temporal.stan.layerz'"),
        ("name: x\nkeyframez: {k: 3}\n", r"unknown key 'keyframez': did you mean 'keyframes'\?"),
        ("name: x\narms: {a: {filter: {textt: 1}}}\n", r"arms.a: unknown key 'filter.textt': did you mean 'text'\?"),
        ("name: x\narms: {a: {arms: {}}}\n", "arms.a: .*'arms'"),
        ("name: x\narms: {a: {}}\ncompare: [[a, b]]\n", "compare: .*'b': .*a"),
        ("name: x\narms: {../a: {}}\n", "arm"),
        ("langs: [en]\n", "r.yaml: name: "),
        ("name: x\nlangs: [en, zh, en]\n", "langs: en .*twice"),
        # With several seeds the name is that of a folder in --out.
        *(
            (f"name: {name}\nseeds: 2\n", "r.yaml: name: ")
            for name in ("../../x", "/tmp/x", "a/b", "a\\b", "''", "..", ".x")
        ),
        *((f"name: {name}\nseeds: 2\n", f"name: .*'{name}'") for name in ("report", "cache", "run.json", "previous")),
        ("name: x\narms: {a: {}, plan.json: {}}\n", "arms: .*'plan.json'"),
        *((f"name: x\narms: {{a: {{{key}: 3}}}}\n", f"arms.a: .*'{key}'") for key in ("name", "seeds", "title")),
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


def test_another_order_of_arms_makes_no_folder_anew(tmp_path: Path):
    arms = {"mean": {"adapt": {"temporal": {"name": "mean"}}}, "stan": {}}
    before = plan(Recipe.model_validate({"name": "x", "arms": arms}), tmp_path, "corpus", {"b": "bench"})
    earlier = {step.key: step.folder for step in before}

    def now(tree: dict) -> dict[tuple, Step]:
        steps = plan(Recipe.model_validate({"name": "x", "arms": tree}), tmp_path, "corpus", {"b": "bench"}, earlier)
        assert len({step.folder for step in steps}) == len({step.key for step in steps}), "two steps share a folder"
        names = [step.arm for step in steps]
        assert all(names.index(step.owner) <= place for place, step in enumerate(steps))
        return {(step.arm, step.stage, step.bench): step for step in steps}

    first = now({"adapter": {"adapt": {"temporal": {"name": "adapter"}}}} | arms)
    assert first["adapter", "filter", None].folder == tmp_path / "mean" / "filter"
    assert first["adapter", "filter", None].owner == "adapter"
    assert first["adapter", "adapt", None].folder == tmp_path / "adapter" / "adapt"
    assert [step for step in first.values() if step.arm != "adapter" and step.key not in earlier] == []
    without = now({"stan": arms["stan"]})
    assert without["stan", "keyframes", None].folder == tmp_path / "mean" / "keyframes", "the arm of its folder is gone"
    # The place of a folder of before is another step's now: that step is refused as ever, and nothing is mixed.
    stricter = {"filter": {"text": {"rules": {"text_too_short": {"en": 4}}}}}
    swapped = now({"mean": arms["mean"] | stricter, "stan": {}})
    assert swapped["mean", "filter", None].folder == tmp_path / "mean" / "filter"
    assert swapped["stan", "filter", None].folder == tmp_path / "stan" / "filter"


@pytest.mark.parametrize(
    ("item", "meant"), [("name=endpoint", "'rewrite.name'"), ("seeds=3", "seeds"), ("stages=[]", "stages")]
)
def test_a_command_of_one_stage_refuses_keys_of_runs(item: str, meant: str):
    with pytest.raises(UsageError, match=f"^--set {item.partition('=')[0]}: .*{meant}"):
        load_for_stage("rewrite", None, [item])
    assert load_for_stage("rewrite", "demo", ["langs=[en]"], 3).seed == 3
