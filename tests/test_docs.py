"""The pages of docs/: every command parses, every recipe loads, every example of docs/extend.md does what it says.

docs/evaluate-your-model.md is run by tests/interop/test_page.py, the user's code in docs/extend.md by tests/test_outside.py.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from m2raap.cli.main import app
from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_data_stage
from m2raap.core.tables import read_part
from m2raap.core.view import View
from m2raap.pipeline.recipe import load_recipe
from tests.pages import ROOT, blocks, commands, parse
from tests.stages.embedded import write_embedded
from tests.stages.pictures import drawn_corpus

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str, tmp_path: Path, monkeypatch) -> None:
    here = commands(page)
    assert here or page == "docs/reference.md"
    for number, text in enumerate(blocks(page, "yaml")):
        if text.startswith("name:"):
            (tmp_path / f"{number}.yaml").write_text(text, encoding="utf-8")
            loaded = load_recipe(str(tmp_path / f"{number}.yaml"))
            (tmp_path / f"{number}.yaml").rename(tmp_path / f"{loaded.name}.yaml")
    monkeypatch.chdir(tmp_path)
    for words in here:
        if parse(words) == ["run"] and not words[2].startswith("--"):
            settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
            assert load_recipe(words[2], settings), words


def test_the_reference_is_what_the_code_gives() -> None:
    """`python docs/reference.py` brings it up to date."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    new, here = made.page(), (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert new == here, "\n".join(difflib.unified_diff(here.splitlines(), new.splitlines(), n=0, lineterm=""))[:2000]
    keys = re.findall(r"^\| (`[\w.]+`[^|]*) \|[^|]*\|[^|]*\| *\|$", new, re.MULTILINE)
    assert not keys, f"nothing says what these are: {keys}"


DIFFERENCE = re.compile(r"\([+-][\d.]+ to\s+([+-])[\d.]+\)")  # the ends of its interval


def test_each_section_of_the_results_says_how_many_comparisons_it_holds() -> None:
    head, *sections = (ROOT / "docs" / "method.md").read_text(encoding="utf-8").split("\n## ")
    counts = {section.partition("\n")[0]: len(DIFFERENCE.findall(section)) for section in sections}
    stated = {name: int(number) for name, number in zip(counts, map(_comparisons, sections), strict=True)}
    assert stated == counts and sum(counts.values()) > 100
    ends = re.findall(r"\(([+-])[\d.]+ to\s+([+-])[\d.]+\)", "".join(sections))
    assert f"prints {sum(counts.values())} comparisons" in head
    assert f"({sum(low == high for low, high in ends)} do)" in head


def _comparisons(section: str) -> str:
    stated = re.search(r"(\d+) comparisons", section)
    return stated[1] if stated else "0"


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/glossary.md"])
def test_paths_that_a_page_names_are_there(page: str) -> None:
    """Files and folders of the repository, and links between pages."""
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:m2raap|data_tools|docs|recipes|bench|tests)/[\w./]*)`", text)
    links = [link for link in re.findall(r"\]\(([\w./-]+)\)", text) if "://" not in link]
    named = {ROOT / path for path in paths} | {(ROOT / page).parent / link for link in links}
    assert [str(path) for path in named if not path.exists()] == []


def test_a_stage_is_added(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    (text,) = (block for block in blocks("docs/extend.md", "python") if "LoudStage" in block)
    exec(compile(text, "docs/extend.md", "exec", dont_inherit=True), names)
    stage = names["LoudStage"](names["LoudConfig"]())
    texts = {"calm": [("en", "a dog runs")], "loud": [("en", "WOW!! a dog!"), ("en", "a dog runs!")]}
    corpus = drawn_corpus(tmp_path / "C", texts, num_parts=1)
    assert run_data_stage(stage, View(corpus), tmp_path / "loud", LocalEngine(1))
    rows = read_part(tmp_path / "loud", "dropped", 0)
    assert [(row["text_id"], row["reason"], row["score"]) for row in rows] == [("loud.0", "too_loud", 3.0)]


def test_a_benchmark_is_declared(tmp_path: Path) -> None:
    (text,) = (block for block in blocks("docs/extend.md", "yaml") if block.startswith("kitchen"))
    (tmp_path / "kitchen.yaml").write_text(text.replace("500", "40"), encoding="utf-8")
    write_embedded(tmp_path / "E")
    (words,) = (words for words in commands("docs/extend.md") if words[1] == "evaluate")
    words = [str(tmp_path / word) if word in ("E", "V", "kitchen.yaml") else word for word in words[1:]]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "kitchen-val" in (tmp_path / "V" / "results.json").read_text(encoding="utf-8")
    (tmp_path / "kitchen.yaml").write_text(text, encoding="utf-8")
    words[words.index(str(tmp_path / "V"))] = str(tmp_path / "V500")
    refused = CliRunner().invoke(app, words)
    assert "40 videos instead of 500" in str(refused.exception)
