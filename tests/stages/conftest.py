"""Runs that several files look at, each made once. Read only: whoever changes one copies it first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import m2raap

RECIPE = Path(__file__).parent / "small.yaml"
# Runs the command line and lists every file that it, or the code it runs in this process, opens.
WATCHED = """
import sys
opened = open(sys.argv.pop(1), "w")
def watch(event, args):
    if event == "open" and isinstance(args[0], str):
        opened.write(args[0] + "\\n"); opened.flush()
sys.addaudithook(watch)
from m2raap.cli import main
sys.argv[0] = "m2raap"
main.main()
"""


def words(world: Path, out: Path, *more: object) -> list[str]:
    data = ["run", RECIPE, "--data", world / "train", "--bench", f"motion={world / 'test'}", "--out", out]
    return [str(word) for word in (*data, "--allow-refused", "20%", *more)]


def copied(run: Path, world: Path, home: Path) -> tuple[Path, Path]:
    """Copies of a run and its world below `home`; the run finds the world where it did before."""
    there = home / "deep" / "deeper" / "run"
    beside = Path(os.path.normpath(there / os.path.relpath(world, run)))
    assert beside.is_relative_to(home)
    shutil.copytree(run, there)
    shutil.copytree(world, beside)
    return there, beside


@pytest.fixture(scope="session")
def undisturbed(small_world: Path, tmp_path_factory) -> Path:
    """OUT of the small recipe with one worker; OUT/../opened.txt lists the files that it opened before the report."""
    out = tmp_path_factory.mktemp("chain") / "run"
    command = [sys.executable, "-c", WATCHED, str(out.parent / "opened.txt")]
    done = subprocess.run(
        [*command, *words(small_world, out, "--workers", 1, "--until", "evaluate")],
        capture_output=True,
        text=True,
        timeout=115,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def curated(small_world: Path, tmp_path_factory) -> Path:
    """OUT of the stages that need no model, one arm: filter, keyframes, rewrite."""
    out = tmp_path_factory.mktemp("curated") / "run"
    settings = [w for item in ("arms={}", "compare=[]", "stages=[filter,keyframes,rewrite]") for w in ("--set", item)]
    m2raap(
        "run", RECIPE, "--data", small_world / "train", "--out", out, "--workers", 1, "--until", "rewrite", *settings
    )
    return out
