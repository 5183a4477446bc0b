"""Extensions: settings that name code of the user's, `python:module:name`, run only with --allow-code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

import m2raap as package
from m2raap.core import extension
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.tables import read_all
from tests.conftest import m2raap
from tests.runs import RECIPE

CODE = Path(__file__).parent / "outside_code.py"
WORDS = "python:outside_code:word_counts"
WIDTH = "python:outside_code:width"
CHANGES = "python:outside_code:Changes"


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """The current folder, which holds the user's module."""
    (tmp_path / "outside_code.py").write_bytes(CODE.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(home: Path, **keys: object) -> Path:
    tree = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | {"arms": {}} | keys
    (home / "mine.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return home / "mine.yaml"


def run(home: Path, world: Path, *more: object, out: str = "R", **options) -> str:
    words = ("run", "mine.yaml", "--data", world / "train", "--out", out, "--allow-refused", "20%")
    return m2raap(*words, *more, cwd=home, **options).stderr


def test_rules(home: Path, small_world: Path) -> None:
    """In two worker processes; every command that reads works without the code."""
    filter_keys = {"text": {"rules": {WORDS: {"en": 8, "zh": False}}}, "video": {"rules": {WIDTH: {"max": 96}}}}
    recipe(home, stages=["filter"], filter=filter_keys)
    refused = run(home, small_world, check=2)
    assert f"filter.text.rules: {WORDS}" in refused and "--allow-code" in refused and len(refused.splitlines()) == 1
    assert not (home / "R").exists()
    run(home, small_world, "--until", "filter", "--workers", 2, "--allow-code")
    dropped = [row for row in read_all(home / "R" / "filter", "dropped") if row["reason"] == WORDS]
    texts = {row["text_id"]: row["text"] for row in read_all(small_world / "train", "texts")}
    assert dropped and all(row["score"] == len(texts[row["text_id"]].split()) > 8 for row in dropped)
    wide = {row["clip_id"] for row in read_all(home / "R" / "filter", "dropped") if row["reason"] == WIDTH}
    widths = {row["clip_id"]: row["width"] for row in read_all(home / "R" / "filter", "signals") if row["width"]}
    assert wide == {clip for clip, width in widths.items() if width > 96}
    told = m2raap("explain", dropped[0]["clip_id"], "--in", home / "R").stdout
    assert WORDS in told and (WIDTH in told or not wide)
    m2raap("status", home / "R", "--verify")
    with (home / "outside_code.py").open("a") as source:
        source.write("# another version\n")
    changed = run(home, small_world, "--until", "filter", "--allow-code", check=1)
    assert "was made with" in changed and f"filter.code.{WORDS}" in changed


def test_a_whole_run(home: Path, small_world: Path) -> None:
    name = "python:outside_code:"
    adapt = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["adapt"] | {
        "temporal": {"name": CHANGES, "options": {"step": 2}},
        "objective": name + "halved", "mug_weight": 0.1, "mug_form": name + "mean_match", "steps": 4, "keep": "last",
    }  # fmt: skip
    recipe(
        home,
        backbone={"family": name + "tiny", "model": "builtin:tiny"},
        stages=["filter", "keyframes", "caption", "rewrite", "adapt"],
        caption={"name": name + "Captions"},
        rewrite={"name": name + "Shorter"},
        adapt=adapt,
        embed={"mug": {"form": name + "mean_match"}},
    )
    run(home, small_world, "--bench", f"motion={small_world / 'test'}", "--workers", 1, "--allow-code")
    producers = {row["producer"] for table in ("caption", "rewrite") for row in read_all(home / "R" / table, "texts")}
    assert producers == {"outside"}
    m2raap("report", "write", home / "R")
    model = home / "R" / "adapt" / "model"
    saved = json.loads((model / "model.json").read_text(encoding="utf-8"))
    assert saved["temporal"] == {"name": CHANGES, "options": {"step": 2}} and list(saved["code"]) == [CHANGES]
    refused = m2raap("model", "export", model, "--to", "hub", "--out", home / "hub", check=2).stderr
    assert CHANGES in refused and "--allow-code" in refused
    m2raap("model", "export", model, "--to", "hub", "--out", home / "hub", "--allow-code")
    m2raap("--allow-code", "model", "interpolate", model, "--alpha", 0.5, "--out", home / "half")
    with pytest.raises(UsageError, match=CHANGES):
        package.load(home / "hub")
    loaded = package.load(home / "hub", allow_code=True)
    assert loaded.digest == saved["digest"] and loaded.temporal.step == 2
    assert extension.ALLOWED_FROM not in os.environ
    (home / "outside_code.py").write_text(CODE.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(M2raapError, match="another version of .*outside_code.py"):
        package.load(home / "hub", allow_code=True)
