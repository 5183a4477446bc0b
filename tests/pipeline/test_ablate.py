import itertools
import json
from pathlib import Path

import pytest

from m2raap.core.errors import UsageError
from m2raap.core.folder import finish
from m2raap.pipeline.ablate import progressive
from m2raap.pipeline.plan import Step, plan
from m2raap.pipeline.recipe import Recipe, arm_recipe, load_recipe
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.data import ReportData
from m2raap.report.html import render
from m2raap.report.progressive import progressive_rows
from tests.conftest import m2raap
from tests.stages.embedded import write_run

WHOLE = ["baseline", "filter", "rewrite", "keyframes", "temporal", "interaction", "acg"]
SECTIONS = ("stages", "adapt", "embed", "filter", "keyframes", "align", "caption", "rewrite")


def test_the_last_row_is_the_recipe_and_each_row_changes_one_thing():
    recipe = load_recipe("ablate")
    rows = progressive(recipe)
    assert list(rows.arms) == WHOLE and rows.progressive
    arms = [arm_recipe(rows, arm) for arm in rows.arms]
    for section in SECTIONS:
        assert getattr(arms[-1], section) == getattr(recipe, section), section
    first = arms[0].adapt
    assert (first.temporal.name, first.input, first.loss.interaction.weight, first.acg) == ("mean", "video", 0.0, None)
    changed = [
        [section for section in SECTIONS if getattr(a, section) != getattr(b, section)]
        for a, b in itertools.pairwise(arms)
    ]
    assert changed == [
        ["stages"], ["stages"], ["adapt"], ["adapt"], ["adapt", "embed"],
        ["adapt", "embed"],
    ]  # fmt: skip


def test_rows_before_the_interaction_learn_by_the_plain_loss_and_rows_without_captions_exchange_none():
    alone = progressive(load_recipe("webvid_mugstan"))
    losses = [arm_recipe(alone, arm).adapt.loss for arm in alone.arms]
    assert [loss.plain.weight for loss in losses] == [1.0] * (len(losses) - 1) + [0.0]
    rows = progressive(load_recipe("ablate", ["embed.frame_ablations=[shuffled, other_captions]"]))
    ablations = [arm_recipe(rows, arm).embed.frame_ablations for arm in rows.arms]
    assert ablations == [("shuffled",)] * (len(ablations) - 1) + [("shuffled", "other_captions")]


def test_rows_of_what_a_recipe_does_not_have_are_left_out():
    mean = Recipe.model_validate(
        {"name": "x", "stages": ["keyframes", "adapt"], "adapt": {"temporal": {"name": "mean"}, "input": "video"}}
    )
    assert list(progressive(mean).arms) == ["baseline"]
    assert list(progressive(load_recipe("stan_b32")).arms) == ["baseline", "filter", "rewrite", "keyframes", "temporal"]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "x", "arms": {"a": {}}}, "'x'.*--ablate.*progressive: true"),
        ({"name": "x", "stages": ["filter"]}, "'x'.*adapt"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(tree: dict, message: str):
    with pytest.raises(UsageError, match=message):
        progressive(Recipe.model_validate(tree))


def test_progressive_arms_of_a_file_stay(tmp_path: Path):
    recipe = Recipe.model_validate({"name": "x", "progressive": True, "arms": {"a": {"stages": []}, "b": {}}})
    assert progressive(recipe) is recipe


def test_unchanged_stages_are_shared_by_all_rows(tmp_path: Path):
    steps = plan(progressive(load_recipe("ablate", ["seeds=3"])), tmp_path, "corpus", {"b": "bench"})
    folders = {stage: {step.folder for step in steps if step.stage == stage and not step.bench} for stage in STAGES}
    assert {stage: len(found) for stage, found in folders.items()} == STAGES


# keyframes: of all clips (baseline), and of what filter left; one training a row and seed
STAGES = {"filter": 1, "keyframes": 2, "align": 1, "caption": 1, "rewrite": 1, "adapt": 21}


def test_the_table_says_what_each_row_brought(tmp_path: Path):
    arms = {"a": {"noise": 4.0}, "b": {"noise": 0.5}, "b~1": {"noise": 0.5, "seed": 1}}
    run = RunFolder.open(write_run(tmp_path, arms))
    recipe = Recipe.model_validate({"name": "r", "progressive": True, "seeds": 2, "arms": {"a": {}, "b": {}}})
    trained = [
        Step(
            arm,
            arm,
            "adapt",
            None,
            _folder(tmp_path / arm / "adapt", '{"seconds": 2.0, "step": 1, "data_wait_s": 0.5}'),
            (),
        )
        for arm in arms
    ]
    curated = [
        Step(
            arm, arm, "keyframes", None, _folder(tmp_path / arm / "keyframes", '{"seconds": 7.0, "phase": "score"}'), ()
        )
        for arm in arms
    ]
    for step in curated:
        finish(step.folder, "keyframes", 1, None, {}, {}, {"clips_out": 40, "texts_out": 80})
    rows = progressive_rows([*run.steps, *trained, *curated], recipe)
    assert [(row.arm, row.lang, len(row.seeds_r1)) for row in rows] == [
        ("a", "en", 1), ("a", "zh", 1), ("b", "en", 2), ("b", "zh", 2),
    ]  # fmt: skip
    assert rows[0].step is None and rows[0].whole is None
    better = rows[2]
    assert better.step == better.whole and better.step is not None
    assert better.step[0] == pytest.approx(better.r1 - rows[0].r1, abs=1e-5) and better.step[1] > 0
    assert better.mean_recall_step is not None and better.mean_recall_step[1] > 0
    assert better.mean_recall_step[0] == pytest.approx(better.mean_recall - rows[0].mean_recall, abs=1e-5)
    low, high = better.mean_recall_interval
    assert low < better.mean_recall < high and better.mean_recall > better.r1
    assert (better.clips, better.texts, better.curation_s, better.train_s) == (40, 80, 7.0, 2.0)
    page = render(ReportData(title="t", synthetic=False, progressive=rows))
    assert "What each step brings" in page and page.count("<tr>") >= len(rows)
    assert "6 comparisons; neither intervals nor p are corrected" in page, "three differences in two languages"


def _folder(path: Path, timing: str) -> Path:
    path.mkdir(parents=True)
    (path / "timings.jsonl").write_text(timing + "\n")
    return path


def test_rows_are_carried_out_and_set_beside_each_other(small_world: Path, tmp_path: Path):
    """Two rows of a progressive recipe; raw video, which the first row reads, is trained on in test_inputs.py."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "name: tiny\nprogressive: true\nstages: [keyframes, adapt]\nkeyframes: {k: 4, short_side_px: 96}\n"
        "adapt: {temporal: {name: mean}, steps: 2, batch_size: 8, num_frames: 4, val_every_steps: 2}\n"
        "arms: {mean: {}, stan: {adapt: {temporal: {name: stan, layers: 1}}}}\n"
    )
    corpora = ("--data", small_world / "train", "--bench", f"motion={small_world / 'test'}", "--limit", 16)
    done = m2raap("run", recipe, "--ablate", *corpora, "--out", tmp_path / "A", "--allow-refused", "100%", "--json")
    rows = json.loads(done.stdout)["progressive"]
    assert [(row["arm"], row["lang"]) for row in rows] == [
        (arm, lang) for arm in ("mean", "stan") for lang in ("en", "zh")
    ]
    assert rows[0]["step"] is None and all(len(row["step"]) == len(row["whole"]) == 3 for row in rows[2:])
    assert len(list((tmp_path / "A").glob("*/keyframes"))) == 1, "the rows share one"
    assert "Progressive table" in m2raap("report", "write", tmp_path / "A").stdout
