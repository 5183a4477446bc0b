"""An arm whose filter reads what another arm's training measured: train a little, filter, train."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from m2raap.core.errors import UsageError
from m2raap.pipeline.plan import plan
from m2raap.pipeline.recipe import load_recipe
from m2raap.pipeline.run_folder import RunFolder
from tests.runs import m2raap

FIRST = {"loss": {"clip_caption": 1.0}, "harmonize": {}}
SECOND = {"signals_of": "first", "filter": {"scores": {"conflict": {"highest": 0.3}}}}


def recipe_file(path: Path, **arms: Any) -> str:
    tree = {
        "name": "twice", "backbone": {"model": "builtin:tiny"}, "keyframes": {"k": 2, "short_side_px": 48},
        "stages": ["keyframes", "caption", "adapt"], "langs": ["en"],
        "adapt": {"steps": 2, "batch_size": 4, "num_frames": 2, "val_every_steps": 2, "temporal": {"name": "mean"}},
        "arms": arms,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            {"first": {}, "second": SECOND | {"stages": ["filter", "keyframes", "adapt"]}},
            "no training of .first. writes signals",
        ),
        ({"second": SECOND}, "it is the first arm"),
        ({"first": {"adapt": FIRST}, "second": SECOND | {"signals_of": "frist"}}, "did you mean 'first'"),
        ({"first": {"adapt": FIRST}, "second": SECOND}, "only `filter` reads signals"),
        ({"second": SECOND, "first": {"adapt": FIRST}}, "it is the first arm"),
    ],
)
def test_signals_that_cannot_be_there_are_refused(arms: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe_file(tmp_path / "r.yaml", **arms))
    path = Path(recipe_file(tmp_path / "r.yaml", first={"adapt": FIRST}))
    with pytest.raises(UsageError, match="write it in that arm"):
        load_recipe(str(path), ["signals_of=first"])


def test_the_filter_of_the_second_arm_is_planned_behind_the_first_training(tmp_path: Path) -> None:
    arms = {"first": {"adapt": FIRST}, "second": SECOND | {"stages": ["filter", "keyframes", "caption", "adapt"]}}
    recipe = load_recipe(recipe_file(tmp_path / "r.yaml", **arms), ["seeds=2"])
    steps = plan(recipe, tmp_path / "R", "c", {})
    reading = {step.arm: step.signals for step in steps if step.stage == "filter"}
    assert reading == dict.fromkeys(("second", "second~1"), tmp_path / "R" / "first" / "adapt")
    assert not any(step.signals for step in steps if step.stage != "filter")
    cotrained = {"stages": ["keyframes", "caption", "cotrain", "adapt"], "keyframes": {"senses": ["motion"]}}
    arms["first"] = cotrained | {"cotrain": {"texts": ["en"], "senses": ["motion"]}}
    of_cotrain = plan(load_recipe(recipe_file(tmp_path / "c.yaml", **arms)), tmp_path / "R", "c", {})
    assert [step.signals for step in of_cotrain if step.stage == "filter"] == [tmp_path / "R" / "first" / "cotrain"]
    arms["first"] = {"adapt": FIRST}
    changed = load_recipe(recipe_file(tmp_path / "r.yaml", **arms), ["seeds=2", "arms.first.adapt.lr=0.5"])
    others = plan(changed, tmp_path / "R", "c", {})
    keys = [[step.key for step in some if step.stage == "filter"] for some in (steps, others)]
    assert keys[0] != keys[1], "another first training is another filter"


def test_a_run_filters_by_what_the_first_training_measured(small_world: Path, tmp_path: Path) -> None:
    arms = {"first": {"adapt": FIRST}, "second": SECOND | {"stages": ["filter", "keyframes", "caption", "adapt"]}}
    run = ("run", recipe_file(tmp_path / "r.yaml", **arms), "--data", small_world / "train", "--out", tmp_path / "R")
    m2raap(*run, "--limit", "40", "--allow-refused", "1")
    scores = pq.read_table(tmp_path / "R/first/adapt/signals/pairs.parquet").to_pydict()
    conflict = dict(zip(scores["text_id"], scores["conflict"], strict=True))
    rows = pq.read_table(tmp_path / "R/second/filter/dropped").to_pylist()
    dropped = {row["text_id"] for row in rows if row["reason"] == "user_score"}
    assert dropped and dropped < conflict.keys()
    assert min(conflict[i] for i in dropped) > max(conflict[i] for i in conflict.keys() - dropped)
    assert any(step.signals for step in RunFolder.open(tmp_path / "R").steps)
    assert "signals/pairs.parquet" in json.loads((tmp_path / "R/first/adapt/manifest.json").read_text())["files"]
    again = m2raap(*run, "--limit", "40", "--allow-refused", "1")
    assert "already finished" in again.stderr
