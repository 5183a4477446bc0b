"""Runs that several files look at, each made once. Read only: whoever changes one copies it first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import m2raap, made_once

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
    run_copy = home / "deep" / "deeper" / "run"
    world_copy = Path(os.path.normpath(run_copy / os.path.relpath(world, run)))
    assert world_copy.is_relative_to(home)
    shutil.copytree(run, run_copy, ignore=shutil.ignore_patterns("report"))  # another process may be writing it
    shutil.copytree(world, world_copy)
    return run_copy, world_copy


@pytest.fixture(scope="session")
def undisturbed(small_world: Path, tmp_path_factory) -> Path:
    """OUT of the small recipe with one worker; OUT/../opened.txt lists the files that it opened before the report."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-c", WATCHED, str(folder / "opened.txt")]
        done = subprocess.run(
            [*command, *words(small_world, folder / "run", "--workers", 1, "--until", "evaluate")],
            capture_output=True,
            text=True,
            timeout=115,
        )
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "chain", make) / "run"


@pytest.fixture(scope="session")
def curated(small_world: Path, tmp_path_factory) -> Path:
    """OUT of the stages that need no model, one arm: filter, keyframes, rewrite."""

    def make(folder: Path) -> None:
        settings = ("arms={}", "compare=[]", "stages=[filter,keyframes,rewrite]")
        sets = [word for item in settings for word in ("--set", item)]
        data = ("run", RECIPE, "--data", small_world / "train", "--out", folder / "run")
        m2raap(*data, "--workers", 1, "--until", "rewrite", *sets)

    return made_once(tmp_path_factory, "curated", make) / "run"
