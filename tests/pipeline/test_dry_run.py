"""What --dry-run says rests on the corpus's own files, and does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_stage
from m2raap.core.stage import StepInputs
from m2raap.core.view import View
from m2raap.pipeline.dry_run import dry_run
from m2raap.pipeline.recipe import load_recipe
from m2raap.pipeline.run import make_plan
from m2raap.pipeline.run_folder import Inputs
from tests.conftest import digests


def test_every_data_stage_is_measured_on_the_corpus(small_world: Path, tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["arms={}", "compare=[]", "keyframes.k=4"])
    inputs, out = Inputs(small_world / "train", {"motion": small_world / "test"}), tmp_path / "out"
    before = digests(small_world)
    tree = dry_run(recipe, inputs, out, make_plan(recipe, inputs, out))
    assert not out.exists() and digests(small_world) == before
    rows = {(row["stage"], "bench" in row["folder"]): row for row in tree["steps"]}
    assert all(row["state"] == "to do" for row in rows.values())
    measured = {name for (name, _), row in rows.items() if row["core_minutes"] is not None}
    assert measured == {"filter", "keyframes", "align", "caption", "rewrite"}
    assert all(row["note"].startswith("measured on ") for row in rows.values() if row["core_minutes"] is not None)

    folder = tmp_path / "frames"
    run_stage(recipe.stage("keyframes"), StepInputs(View(small_world / "train"), folder, LocalEngine(1)))
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    assert rows["keyframes", False]["disk_mb"] == pytest.approx(written, rel=0.5)


def test_what_would_ask_a_model_or_load_weights_is_counted_and_not_done(small_world: Path, tmp_path: Path) -> None:
    endpoint = "{base_url: 'http://127.0.0.1:9/v1', model: m-7b}"
    sets = ["arms={}", "compare=[]", f"rewrite={{name: endpoint, endpoint: {endpoint}}}", "backbone={model: ViT-B-32}"]
    recipe, inputs = load_recipe("demo", sets), Inputs(small_world / "train")
    tree = dry_run(recipe, inputs, tmp_path / "out", make_plan(recipe, inputs, tmp_path / "out"))
    rows = {row["stage"]: row for row in tree["steps"]}
    assert rows["rewrite"]["core_minutes"] is None and "asks a model" in rows["rewrite"]["note"]
    assert rows["align"]["core_minutes"] is None and "ViT-B-32" in rows["align"]["note"]
    texts = View(small_world / "train").corpus.counts["texts"]
    assert [(row["model"], row["requests"]) for row in tree["models"]] == [("m-7b", texts)]


def test_a_finished_step_costs_nothing_and_serves_the_next(small_world: Path, tmp_path: Path) -> None:
    sets = ["arms={}", "compare=[]", "stages=[filter,keyframes]"]
    recipe, inputs = load_recipe("demo", sets), Inputs(small_world / "train")
    steps = make_plan(recipe, inputs, tmp_path)
    first = next(step for step in steps if step.stage == "filter")
    run_stage(recipe.stage("filter"), StepInputs(inputs.view(recipe.langs), first.folder, LocalEngine(1)))
    rows = {row["stage"]: row for row in dry_run(recipe, inputs, tmp_path, steps)["steps"]}
    assert rows["filter"]["state"] == "done" and rows["filter"]["core_minutes"] is None
    assert rows["keyframes"]["note"].startswith("measured on ")
