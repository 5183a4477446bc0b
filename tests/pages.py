"""Pages of docs/ as tests read them: their code blocks, and their commands as the command line would parse them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer

from m2raap.cli.main import app

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page (its path below the repository) in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands(page: str) -> list[list[str]]:
    """Every command line of the page's sh blocks, a continued line as one."""
    joined = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def parse(words: list[str]) -> list[str]:
    """Reads a command as the command line would, without doing anything. Returns its names; fails for what it refuses."""
    assert words[0] == "m2raap", words
    command, names, rest = typer.main.get_command(app), [], words[1:]
    while hasattr(command, "resolve_command"):  # a group: typer brings its own click, or uses the one installed
        context = command.make_context("m2raap", list(rest[:1]), resilient_parsing=True)
        name, command, rest = command.resolve_command(context, list(rest))
        assert name and command, words
        names.append(name)
    with command.make_context(" ".join(names), list(rest)):
        return names
