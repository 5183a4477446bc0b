"""Few commands, each with a sentence of help, a place in the docs and a test that calls it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from m2raap.cli.main import app
from tests.pages import ROOT
from tests.stages.test_two_writers import STAGES  # each of them is run by its command there
from tests.test_readme import commands  # all of which are run there

MOST = 31
RUNNERS = {"m2raap", "m2raap_here", "here", "on_terminal", "on_command_line", "started"}
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def leaves(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, (*names, name))
    if not hasattr(command, "commands"):
        yield names, command


def command_lines() -> Iterator[tuple[str, ...]]:
    """The first words of every command line that a test gives: arguments of a call that runs them, or a list of two at least.

    A list that begins with the name of a stage may be anything, so of a list only names of two words count.
    """
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNNERS:
                words = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)]
                yield from (tuple(words[:count]) for count in (1, 2))
            elif isinstance(node, ast.List | ast.Tuple):
                words = [item.value for item in node.elts if isinstance(item, ast.Constant)]
                if len(words) >= 2:
                    yield tuple(words[:2])
    yield from (tuple(words[1 : 1 + count]) for words in commands() if words[0] == "m2raap" for count in (1, 2))
    yield from ((stage,) for stage in STAGES)


COMMANDS = dict(leaves(typer.main.get_command(app)))
COMMAND_LINES = set(command_lines())


def test_commands_are_few() -> None:
    assert 20 < len(COMMANDS) <= MOST, sorted(map(" ".join, COMMANDS))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_a_command_is_described_documented_and_tested(names: tuple[str, ...]) -> None:
    assert len((COMMANDS[names].help or "").split()) >= 3
    line = " ".join(names)
    assert re.search(rf"m2raap {line}\b", PAGES)
    assert names in COMMAND_LINES


def test_options_have_help() -> None:
    for names, command in COMMANDS.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), (names, parameter.name)


def test_a_closed_pipe_is_no_bug() -> None:
    script = f"{sys.executable} -m m2raap.cli.main recipe show demo | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "bug" not in done.stderr and done.returncode in (0, 1)
