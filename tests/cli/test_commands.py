"""Few commands, each with a sentence of help, a place in the docs and a test that calls it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from m2raap.cli.main import app
from tests.pages import ROOT

MOST = 28
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
README = (ROOT / "README.md").read_text(encoding="utf-8")  # whose commands tests/test_readme.py runs
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def leaves(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, (*names, name))
    if not hasattr(command, "commands"):
        yield names, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_commands_are_few() -> None:
    assert 20 < len(COMMANDS) <= MOST, sorted(map(" ".join, COMMANDS))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_a_command_is_described_documented_and_tested(names: tuple[str, ...]) -> None:
    assert len((COMMANDS[names].help or "").split()) >= 3
    line = " ".join(names)
    assert re.search(rf"m2raap {line}\b", PAGES)
    words = ", ".join(f'"{name}"' for name in names)
    in_tests = re.search(rf"[(\[]\s*(?:monkeypatch, )?(?:\"-q\", |\"--quiet\", )?{words}\s*[,)\]]", TESTS)
    assert in_tests or re.search(rf"^m2raap {line} ", README, re.MULTILINE)


def test_options_have_help() -> None:
    for names, command in COMMANDS.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), (names, parameter.name)
