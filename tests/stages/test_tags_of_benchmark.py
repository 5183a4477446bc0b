"""Slices by tag: from an annotate folder over the benchmark to results.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run import make_plan
from m2raap.pipeline.run_folder import Inputs
from m2raap.retrieval.config import EvaluateConfig
from m2raap.retrieval.embeddings import Embeddings
from m2raap.stages.evaluate import EvaluateStage, read_ranks, side_lines
from m2raap.stages.tag_signals import probable_tags, tags_folder
from tests.conftest import m2raap
from tests.stages.tagged import tagged

NAMES = [f"v{i:03d}" for i in range(40)]
RED = "red / 红色"


def bench(folder: Path, names: list[str] = NAMES) -> View:
    clips = [{"clip_id": name, "video": f"{name}.mp4", "split": "test"} for name in names]
    texts = [
        {"text_id": f"{name}.en", "clip_id": name, "lang": "en", "text": name, "origin": "raw", "active": True}
        for name in names
    ]
    write_corpus(folder, clips, texts, video_root=folder, source={}, benchmark="custom", num_parts=2)
    return View(folder)


def embedded(view: View, folder: Path) -> Path:
    video = np.random.default_rng([1]).normal(size=(40, 8)).astype(np.float32)
    text = video + np.random.default_rng([2]).normal(size=video.shape).astype(np.float32)
    texts = [f"{name}.en" for name in NAMES]

    def work(target: Path) -> StageOutput:
        embeddings = Embeddings(video, text, NAMES, texts, NAMES, ["en"] * 40, NAMES, NAMES)
        return StageOutput(embeddings.save(target))

    run_single_stage("embed", 2, {}, folder, work, view=view)
    return folder


@pytest.fixture
def view(tmp_path: Path) -> View:
    return bench(tmp_path / "B")


@pytest.fixture
def tags(view: View, tmp_path: Path) -> Path:
    half = {name: {RED: 0.9, "circle": 0.49} for name in NAMES[:25]}
    return tagged(view, tmp_path / "A", half | {name: {"circle": 0.5} for name in NAMES[25:30]})


def test_results_by_tag_stand_beside_the_headline(view: View, tags: Path, tmp_path: Path) -> None:
    folder = embedded(view, tmp_path / "E")
    for name, cfg in (("plain", EvaluateConfig()), ("by_tag", EvaluateConfig(tags=(tags,)))):
        EvaluateStage(cfg).run_on(folder, "custom", tmp_path / name)
    plain, tree = (json.loads((tmp_path / name / "results.json").read_text("utf-8")) for name in ("plain", "by_tag"))
    rows = tree.pop("by_tag")
    assert tree == plain, "the slices change nothing else"
    assert [(row["slice"], row["direction"], row["queries"], row["gallery"]) for row in rows] == [
        (RED, "t2v", 25, 40), (RED, "v2t", 25, 40),
    ]  # fmt: skip
    ranks = read_ranks(tmp_path / "by_tag" / "ranks.parquet")
    hits = [
        row["rank_pessimistic"] == 1 for row in ranks if row["direction"] == "t2v" and row["video_id"] in NAMES[:25]
    ]
    assert rows[0]["metrics"]["R@1"] == pytest.approx(100 * np.mean(hits))
    assert {tuple(row["tags"]) for row in ranks} == {(RED,), ("circle",), ()}
    assert "tags" not in read_ranks(tmp_path / "plain" / "ranks.parquet")[0]


def test_other_tags_are_other_settings(tags: Path, tmp_path: Path) -> None:
    settings = EvaluateStage(EvaluateConfig(tags=(tags,))).settings()
    assert settings != EvaluateStage(EvaluateConfig()).settings()
    moved = tags.rename(tmp_path / "moved")
    assert EvaluateStage(EvaluateConfig(tags=(moved,))).settings() == settings, "a place is no setting"


def test_the_command_prints_them(view: View, tags: Path, tmp_path: Path) -> None:
    folder = embedded(view, tmp_path / "E")
    done = m2raap("evaluate", folder, "--tags", tags, "--out", tmp_path / "V")
    lines = done.stdout.splitlines()
    start = lines.index("By tag, which a tagger gives: a video may have several")
    assert lines[start + 2].startswith(f"{RED}  en    t2v") and lines[start + 2].endswith("25")
    assert json.loads(m2raap("evaluate", folder, "--tags", tags, "--out", tmp_path / "V", "--json").stdout)["by_tag"]


def test_tags_that_no_slice_comes_of_are_told(view: View, tmp_path: Path) -> None:
    few = tagged(view, tmp_path / "A", {NAMES[0]: {RED: 0.9}})
    EvaluateStage(EvaluateConfig(tags=(few,))).run_on(embedded(view, tmp_path / "E"), "custom", tmp_path / "V")
    assert any(line.startswith("no slices by tag") for line in side_lines(tmp_path / "V"))


def test_tags_of_another_corpus_are_refused_by_name(view: View, tags: Path, tmp_path: Path) -> None:
    other = tagged(bench(tmp_path / "other", NAMES[:30]), tmp_path / "O", {})
    folder = embedded(view, tmp_path / "E")
    done = m2raap("evaluate", folder, "--tags", other, "--out", tmp_path / "V", check=1)
    assert f"{other} holds tags of {tmp_path / 'other'}" in done.stderr and str(tmp_path / "B") in done.stderr
    assert tags_folder([other, tags], view) == tags
    with pytest.raises(M2raapError, match="give one"):
        tags_folder([tags, tags], view)
    with pytest.raises(M2raapError, match=r"some clips of .*B"):
        tags_folder([tagged(view.limited(5), tmp_path / "L", {})], view)
    with pytest.raises(M2raapError, match="holds no tags .it is of 'corpus'"):
        tags_folder([tmp_path / "B"], view)
    with pytest.raises(M2raapError, match="holds no tags .it is of 'embed'"):
        tags_folder([folder], view)


def test_a_tag_without_a_probability_is_a_message() -> None:
    assert probable_tags({"tags": ["a", "b"], "tags_p": [0.5, 0.49]}) == ["a"] and probable_tags({}) == []
    with pytest.raises(M2raapError, match="clip v: has 2 tags and 1 probabilities"):
        probable_tags({"clip_id": "v", "tags": ["a", "b"], "tags_p": [0.5]})


def test_a_run_refuses_tags_of_another_corpus_before_it_begins(view: View, tags: Path, tmp_path: Path) -> None:
    other = bench(tmp_path / "other", NAMES[:30])
    train = [{"clip_id": "t", "video": "t.mp4", "split": "train"}]
    write_corpus(tmp_path / "C", train, [], video_root=tmp_path, source={}, benchmark=None, num_parts=1)
    recipe = Recipe.model_validate({"name": "r", "stages": [], "evaluate": {"tags": [str(tags)]}})
    steps = make_plan(recipe, Inputs(tmp_path / "C", {"mine": view.corpus_path}), tmp_path / "R")
    assert [step.stage for step in steps] == ["keyframes", "embed", "evaluate"]
    both = {"mine": view.corpus_path, "other": other.corpus_path}
    with pytest.raises(M2raapError, match=f"not of the benchmark {other.corpus_path}"):
        make_plan(recipe, Inputs(tmp_path / "C", both), tmp_path / "R")
