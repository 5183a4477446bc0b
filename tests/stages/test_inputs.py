"""Raw video, uniform frames and key-frames as inputs of one training, at the scale of a test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json
from m2raap.core.folder import read_timings
from m2raap.core.videos import VideoDigests
from m2raap.core.view import open_view
from m2raap.pipeline.dry_run import dry_run
from m2raap.pipeline.plan import plan
from m2raap.pipeline.recipe import load_recipe
from m2raap.pipeline.run import make_plan
from m2raap.pipeline.run_folder import Inputs
from m2raap.stages.source import ViewSource
from m2raap.video.limits import VideoConfig
from tests.conftest import m2raap

SMALL = ("--set", "adapt.steps=2", "--set", "adapt.batch_size=8", "--workers", 1, "--allow-refused", "20%")


@pytest.fixture(scope="module")
def out(small_world: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("inputs") / "run"
    bench = f"motion={small_world / 'test'}"
    m2raap("run", "inputs", "--data", small_world / "train", "--bench", bench, "--out", out, "--limit", 14, *SMALL)
    return out


def test_the_arms_differ_in_their_input_alone(tmp_path: Path):
    recipe = load_recipe("inputs")
    steps = plan(recipe, tmp_path, "corpus", {"b": "bench"})
    owner = {(step.arm, step.stage, step.bench): step.owner for step in steps}
    assert {owner[arm, "keyframes", "b"] for arm in recipe.arms} == {"raw_video"}, "one decode of the benchmark"
    assert {owner[arm, "filter", None] for arm in recipe.arms} == {"raw_video"}
    assert owner["keyframes", "keyframes", None] == "raw_video" and owner["uniform", "keyframes", None] == "uniform"
    assert {owner[arm, "adapt", None] for arm in recipe.arms} == set(recipe.arms)


def test_the_plan_says_what_raw_video_costs(small_world: Path, tmp_path: Path):
    recipe, inputs = load_recipe("inputs"), Inputs(small_world / "train")
    lines = dry_run(recipe, inputs, tmp_path, make_plan(recipe, inputs, tmp_path))["lines"]
    (line,) = (line for line in lines if "raw_video reads raw video" in line)
    assert "every clip is decoded again" in line and "frozen layers have no cache" in line


def test_training_time_stands_beside_r1(out: Path):
    tree = json.loads((out / "report" / "report.json").read_text())
    rows = {row["arm"]: row for row in tree["costs"]}
    assert list(rows) == ["raw_video", "uniform", "keyframes"]
    assert [row["input"] for row in rows.values()] == ["raw video", "uniform-8 stored", "keyframe-8 stored"]
    assert rows["raw_video"]["frames_s"] is None and min(rows[a]["frames_s"] for a in ("uniform", "keyframes")) > 0
    for arm, row in rows.items():
        assert row["steps"] == 2 and set(row["r1"]) == {"motion en", "motion zh"}
        spent = sum(line["seconds"] for line in read_timings(out / arm / "adapt") if "phase" not in line)
        assert 0 <= row["waited_s"] <= row["train_s"] == pytest.approx(spent)
    assert "Training time" in m2raap("report", "write", out).stdout


def test_every_arm_has_a_model_of_its_own(out: Path):
    folders = {arm: out / arm / "adapt" for arm in ("raw_video", "uniform", "keyframes")}
    assert [read_json(folder / "manifest.json")["counts"]["steps"] for folder in folders.values()] == [2, 2, 2]
    models = {(folder / "model" / "model.safetensors").read_bytes() for folder in folders.values()}
    assert len(models) == 3
    assert not any((folder / "scratch").exists() for folder in folders.values())


def test_a_video_that_is_lost_before_training_is_named(out: Path, tmp_path: Path):
    view = open_view(out / "raw_video" / "keyframes")
    source = ViewSource(view, "train", VideoConfig(), VideoDigests(tmp_path / "videos.json"))
    file = source.video(0)
    assert file.path.is_file() and source.video_digest(0) == VideoDigests(tmp_path / "v").of("x", file.path, 2**40)
    vars(view)["corpus"] = replace(view.corpus, stated_video_root=tmp_path)  # as if the videos had been moved away
    with pytest.raises(
        M2raapError, match=rf"clip '{source.clip_ids[0]}': adapt.input=video needs its file.*missing_file"
    ):
        source.video(0)
    videos = pa.array(["https://example.org/a.mp4", *source.tables.clips["video"].to_pylist()[1:]])
    place = source.tables.clips.schema.get_field_index("video")
    source.tables = replace(source.tables, clips=source.tables.clips.set_column(place, "video", videos))
    with pytest.raises(M2raapError, match=rf"'{source.clip_ids[0]}': .*adapt.input=video"):
        source.video(0)
