"""A new stage needs one file, one line of the table and one field of the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from m2raap import stages
from m2raap.cli import stages as stage_commands
from m2raap.core.config import build
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.tables import Row, read_part
from m2raap.core.view import open_view
from m2raap.pipeline import recipe as recipe_module
from m2raap.pipeline import run_folder
from m2raap.pipeline.explain import explain, tell
from m2raap.pipeline.inspect import check, status
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run import Options, run
from m2raap.pipeline.run_folder import Inputs, RunFolder
from m2raap.report.report import report
from tests.stages.toy import SCORED, ToyConfig


class ToyRecipe(Recipe):
    toy: ToyConfig = Field(default_factory=ToyConfig, description="Vowels.")


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the stage table with the toy's line after filter's."""
    lines = list(stages.STAGES.items())
    monkeypatch.setattr(stages, "STAGES", dict([lines[0], ("toy", "tests.stages.toy:ToyStage"), *lines[1:]]))
    for module in (recipe_module, run_folder):
        monkeypatch.setattr(module, "Recipe", ToyRecipe)
    SCORED.clear()


def carry_out(corpus: Path, out: Path, force: bool = False, **toy: object) -> ToyRecipe:
    tree = {"name": "toy", "langs": ["en"], "stages": ["filter", "toy", "rewrite"], "toy": toy}
    recipe = build(ToyRecipe, tree, "test")
    assert run(recipe, Inputs(corpus), out, LocalEngine(1), Options(force=force))
    return recipe


def dropped(out: Path) -> list[Row]:
    num_parts = open_view(out / "toy").num_parts
    return [row for part in range(num_parts) for row in read_part(out / "toy", "dropped", part)]


def test_it_runs_resumes_drops_explains_and_is_reported(small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = carry_out(small_world / "train", out)
    scored = len(SCORED)
    assert scored and (out / "toy" / "manifest.json").exists()
    rows = [row for row in dropped(out) if row["reason"] == "too_many_vowels"]
    assert rows and all(row["score"] > row["threshold"] == 12 and row["stage"] == "toy" for row in rows)
    after = {text["text_id"] for part in open_view(out / "rewrite").parts() for text in part.texts}
    assert not after & {row["text_id"] for row in rows}, "the stages after it do not see what it dropped"

    SCORED.clear()  # resumed after a kill: what is done is not done again
    record = sorted((out / "toy" / "done").glob("score-*.json"))[0]
    again = len(json.loads(record.read_text())["clips"])
    for path in (out / "toy" / "manifest.json", record):
        path.unlink()
    carry_out(small_world / "train", out)
    assert len(SCORED) == again < scored
    assert {row["state"] for row in check(out)} == {"ok"}

    folder = RunFolder.open(out)
    row = next(row for row in status(folder) if row["stage"] == "toy")
    assert row["state"] == "done" and row["counts"]["texts_dropped:too_many_vowels"] == len(rows)
    story = explain(out, rows[0]["clip_id"])
    assert any("failed too_many_vowels/1 (num_vowels" in line for line in tell(story))
    data, page = report(folder, recipe)
    funnel = [stage for stage in data.funnel if stage.stage == "toy" and stage.table == "texts"]
    assert funnel[0].dropped["too_many_vowels"] == len(rows)
    assert "the text has more vowels than toy.most" in page.read_text(encoding="utf-8")
    assert stages.reasons()["too_many_vowels"] == "the text has more vowels than toy.most"


def test_each_key_redoes_no_more_than_it_has_to(small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    carry_out(small_world / "train", out)
    drops = len(dropped(out))
    SCORED.clear()
    carry_out(small_world / "train", out, patience_s=9.0)
    with pytest.raises(M2raapError, match=r"toy.*most 12.*most 9"):
        carry_out(small_world / "train", out, most=9)
    carry_out(small_world / "train", out, force=True, most=9)
    assert not SCORED and len(dropped(out)) > drops
    carry_out(small_world / "train", out, force=True, most=9, vowels="ae")
    assert SCORED


def test_the_recipe_knows_its_place() -> None:
    tree = {"name": "toy", "stages": ["toy"]}
    with pytest.raises(UsageError, match="toy reads .* filter"):
        build(ToyRecipe, tree, "test")
    with pytest.raises(UsageError, match="in the order .*: filter, toy"):
        build(ToyRecipe, tree | {"stages": ["toy", "filter"]}, "test")
    with pytest.raises(UsageError, match=r"unknown stage 'toi'.*did you mean 'toy'"):
        build(ToyRecipe, tree | {"stages": ["filter", "toi"]}, "test")
    assert "toy" in ToyRecipe(name="x").stages


def test_it_has_a_command_with_its_help(small_world: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    stage_commands.register(app)
    assert "Drop texts with too many vowels." in CliRunner().invoke(app, ["--help"]).output
    words = ["toy", str(small_world / "train"), "--out", str(tmp_path / "toy"), "--set", "toy.most=9", "--json"]
    alone = CliRunner().invoke(app, words)
    assert isinstance(alone.exception, M2raapError) and "m2raap filter" in str(alone.exception)
    CliRunner().invoke(app, ["filter", str(small_world / "train"), "--out", str(tmp_path / "filter")])
    words[1] = str(tmp_path / "filter")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["texts_dropped:too_many_vowels"] > 0
