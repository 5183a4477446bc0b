"""What --dry-run says rests on the corpus's own files, and does nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json
from m2raap.core.runner import run_stage
from m2raap.core.stage import StepInputs
from m2raap.core.view import View
from m2raap.models.config import BackboneConfig
from m2raap.models.on_this_machine import missing_weights
from m2raap.pipeline import sample
from m2raap.pipeline.dry_run import dry_run
from m2raap.pipeline.outlook import inputs_of, outlooks
from m2raap.pipeline.recipe import arms_of, load_recipe
from m2raap.pipeline.run import make_plan
from m2raap.pipeline.run_folder import Inputs, RunFolder
from m2raap.pipeline.this_machine import clock
from m2raap.stages import STAGES
from tests.conftest import digests, m2raap
from tests.runs import copied, words


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

    cost = tree["adapt"]["main"] if "main" in tree["adapt"] else next(iter(tree["adapt"].values()))
    splits = [row["split"] for row in View(small_world / "train").corpus.all_rows("clips", ["split"])]
    assert cost["val_clips"] == splits.count("val") > 0 and cost["decoded_clips_per_core_s"] > 0
    steps, every = cost["steps"], recipe.adapt.val_every_steps
    assert cost["validations"] == len({0, steps, *range(every, steps + 1, every)})
    (line,) = (line for line in tree["lines"] if "decodes clips" in line)
    assert f"{cost['decoded_clips']:,} times" in line and "clips/s a core" in line

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


def test_every_stage_states_the_plan_that_its_run_writes(small_world: Path, undisturbed: Path) -> None:
    """So that the dry run compares what the run compares."""
    run = RunFolder.open(undisturbed)
    arms = arms_of(run.recipe)
    for step in run.steps:
        stage = arms[step.arm].stage(step.stage, bench=bool(step.bench))
        written = read_json(step.folder / "plan.json")
        assert stage.plan(inputs_of(step, arms[step.arm], run.inputs)) | {"libraries": written["libraries"]} == written
    assert {step.stage for step in run.steps} == {*STAGES} - {"report", "cotrain", "annotate"}
    assert {row.state for row in outlooks(run.steps, arms, run.inputs).values()} == {"done"}


@pytest.mark.parametrize(
    ("setting", "stage", "reason", "reused"),
    [
        ("adapt.lr=5e-4", "adapt", "adapt.lr 0.0001 -> 0.0005", ""),
        (
            "filter.text.rules.text_too_short=5",
            "filter",
            "filter.text.rules.text_too_short.en.min 2.0 -> 5.0",
            "scores",
        ),
        ("bench_keyframes={k: 3}", "keyframes", "keyframes.k 4 -> 3", ""),
    ],
)
def test_a_dry_run_says_what_the_run_would_redo_and_why(
    small_world: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch,
    setting: str,
    stage: str,
    reason: str,
    reused: str,
) -> None:
    monkeypatch.setattr("m2raap.pipeline.dry_run.measure", lambda *_: ({}, {}))
    out, world = copied(undisturbed, small_world, tmp_path)
    before = digests(out)
    tree = json.loads(m2raap(*words(world, out, "--set", setting, "--dry-run", "--json")).stdout)
    assert digests(out) == before
    redone = [row for row in tree["steps"] if row["state"] == "redo"]
    first, *later = redone
    assert (first["stage"], first["reused"]) == (stage, reused) and reason in first["reason"]
    assert {row["state"] for row in tree["steps"]} == {"done", "redo"} and later
    assert all("before it is redone" in row["reason"] for row in later)
    assert any("--force" in line and first["folder"] in line for line in tree["lines"])
    places = [list(STAGES).index(row["stage"]) for row in tree["steps"]]
    assert places == sorted(places), "in the order of the stages"
    told = m2raap(*words(world, out, "--set", setting), check=1).stderr
    assert f"{first['folder']}: was made with {reason.partition(' ->')[0]}" in told, "as the run says"


def test_a_dry_run_sees_what_is_lost_and_what_the_run_would_refuse(
    small_world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, world = copied(undisturbed, small_world, tmp_path)
    folder, arms = out / "m2raap" / "filter", arms_of(RunFolder.open(out).recipe)

    def state() -> tuple[str, str]:
        run = RunFolder.open(out)
        row = outlooks(run.steps, arms, run.inputs)[folder]
        return row.state, row.reason

    (folder / "plan.json").unlink()
    before = digests(out)
    assert state() == ("done", "") and digests(out) == before, "the manifest holds the plan, too"
    lost = next((folder / "dropped").iterdir())
    lost.unlink()
    assert state() == ("redo", f"{lost} is missing")
    shutil.rmtree(folder)
    assert state() == ("to do", "")
    told = m2raap(*words(world, out, "--dry-run", "--from", "keyframes"), check=1).stderr
    assert str(folder) in told and "--from keyframes" in told
    folder.mkdir()
    (folder / "mine.txt").touch()
    with pytest.raises(M2raapError, match=r"filter: .*mine\.txt"):
        state()
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(M2raapError, match="filter: is a file"):
        state()


def test_only_train_clips_are_counted(small_world: Path, tmp_path: Path) -> None:
    sets = [
        "arms={}",
        "compare=[]",
        "stages=[keyframes,adapt]",
        "adapt.batch_size=8",
        "adapt.epochs=2",
        "adapt.steps=null",
    ]
    recipe, inputs = load_recipe("demo", sets), Inputs(small_world / "train")
    tree = dry_run(recipe, inputs, tmp_path / "out", make_plan(recipe, inputs, tmp_path / "out"))
    clips = View(small_world / "train").corpus.all_rows("clips", ["split"])
    number = sum(row["split"] == "train" for row in clips)
    assert number < len(clips) and tree["adapt"]["demo"]["clips"] == number
    assert tree["adapt"]["demo"]["steps"] == 2 * (number // 8)
    assert any(
        "this machine" in line and re.search(r"about (\d+ s|\d+ min|\d+:\d\d h) on", line) for line in tree["lines"]
    )


def test_what_this_machine_lacks_is_named(small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("KEY_OF_THE_TEST", raising=False)
    endpoint = "{base_url: 'http://127.0.0.1:9/v1', model: m-7b, api_key_env: KEY_OF_THE_TEST}"
    sets = ["arms={}", "compare=[]", "stages=[keyframes,rewrite,adapt]"]
    sets += [f"rewrite={{name: endpoint, endpoint: {endpoint}}}", "backbone={model: 'hf-hub:org/name'}"]
    recipe, inputs, out = load_recipe("demo", sets), Inputs(small_world / "train"), tmp_path / "out"
    warnings = dry_run(recipe, inputs, out, make_plan(recipe, inputs, out))["warnings"]
    assert [w.partition(":")[0] for w in warnings] == ["backbone 'hf-hub", "rewrite"] and "KEY_OF_THE_TEST" in warnings[
        1
    ]
    monkeypatch.setenv("KEY_OF_THE_TEST", "x")
    weights = tmp_path / "hub" / "models--org--name" / "snapshots" / "1" / "open_clip_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert dry_run(recipe, inputs, out, make_plan(recipe, inputs, out))["warnings"] == []


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"model": "builtin:tiny"}, None), ({"model": "local-dir:/nowhere"}, "/nowhere"), ({"model": "ViT-B-32"}, "pretrained"),
        ({"model": "ViT-B-32", "random_init": True}, None), ({"model": "ViT-B-32", "pretrained": "openais"}, "openais"),
        ({"model": "ViT-B-32", "pretrained": "openai"}, "not on this machine"), ({"model": "ViT-B-33"}, "ViT-B-32"),
        ({"family": "python:mine:warm", "model": "of-mine"}, None),
    ],
)  # fmt: skip
def test_weights_are_looked_for_without_loading_them(tmp_path: Path, monkeypatch, changes: dict, missing: str | None):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    told = missing_weights(BackboneConfig(**changes))
    assert told is None if missing is None else told is not None and missing in told


def test_files_of_scores_that_do_not_fit_are_refused(small_world: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"clip_id": ["unknown"], "nsfw": [0.5]}), tmp_path / "s.parquet")
    recipe = load_recipe("demo", ["arms={}", "compare=[]", "stages=[filter]", "filter.scores={nsfw: {max: 0.5}}"])
    inputs = Inputs(small_world / "train", scores=(tmp_path / "s.parquet",))
    with pytest.raises(M2raapError, match="s.parquet"):
        dry_run(recipe, inputs, tmp_path / "out", make_plan(recipe, inputs, tmp_path / "out"))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.01, "1 s"), (58.5, "59 s"), (61, "2 min"), (3600, "1:00 h"), (9000, "2:30 h")]
)
def test_times_of_training_have_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert clock(seconds / 3600) == shown


def test_what_a_part_needs_is_not_taken_for_what_a_clip_needs() -> None:
    seconds = [(0, 1.0), (1, 5.0), (2, 1.0), (3, 6.0), (3, 2.0)]
    assert sample._of_clips(seconds, {1, 3}, 4) == 5.0 + 8.0 - 2 * 1.0
    assert sample._of_clips(seconds, set(), 4) == 0.0
    measured = sample.Sample(8, core_s=4.0, num_bytes=80.0, fixed_s=10.0, fixed_bytes=100.0)
    assert (measured.seconds_for(200), measured.bytes_for(200)) == (110.0, 2100.0)


@pytest.mark.parametrize("num_parts", [16, 64])
def test_an_estimate_does_not_grow_with_the_number_of_parts(small_world: Path, tmp_path: Path, num_parts: int) -> None:
    """In most parts lies none of the eight clips: what these parts need is counted once, not for every clip."""
    corpus, recipe = (
        View(small_world / "train").corpus,
        load_recipe("demo", ["arms={}", "compare=[]", "stages=[filter]"]),
    )
    clips, texts = corpus.all_rows("clips"), corpus.all_rows("texts")
    write_corpus(tmp_path / "c", clips, texts, video_root=corpus.video_root, source={}, num_parts=num_parts)
    inputs, out = Inputs(tmp_path / "c"), tmp_path / "out"
    row = dry_run(recipe, inputs, out, make_plan(recipe, inputs, out))["steps"][0]
    folder = tmp_path / "filter"
    run_stage(recipe.stage("filter"), StepInputs(View(tmp_path / "c"), folder, LocalEngine(1)))
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    assert row["disk_mb"] == pytest.approx(written, rel=0.5)
