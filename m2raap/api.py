"""The Python API, which `m2raap.load`, `m2raap.run` and `m2raap.evaluate` give access to."""

from __future__ import annotations

import json
from pathlib import Path

from m2raap.core.engine import LocalEngine
from m2raap.core.extension import code_allowed
from m2raap.interop.evaluate import evaluate
from m2raap.models.video_clip import VideoCLIP
from m2raap.pipeline.recipe import load_recipe
from m2raap.pipeline.run import Options
from m2raap.pipeline.run import run as run_stages
from m2raap.pipeline.run_folder import Inputs, RunFolder
from m2raap.report.report import report
from m2raap.stages.embedder import model_folder

__all__ = ["evaluate", "load", "run"]


def load(path: str | Path, *, allow_code: bool = False) -> VideoCLIP:
    """The adapted model in a model folder, or in the adapt folder above it. Raises M2raapError where there is none.

    `allow_code`: as --allow-code; without it a model with a module from outside of the package is refused.
    """
    with code_allowed(allow_code):
        return VideoCLIP.load(model_folder(Path(path)))


def run(
    recipe: str,
    *,
    data: str | Path,
    out: str | Path,
    benches: dict[str, str | Path] | None = None,
    settings: dict[str, object] | None = None,
    workers: int | None = None,
    force: bool = False,
    allow_code: bool = False,
) -> Path:
    """Carries out a recipe (a file or the name of a shipped one) and returns the path of its report.

    `settings` maps dotted keys of the recipe to values, such as {"adapt.steps": 100}. Raises M2raapError with the sentence
    that the command line would print. `allow_code`: as --allow-code, whether settings may name code (`python:module:name`).
    """
    with code_allowed(allow_code):
        return _run(recipe, Path(data), Path(out), benches or {}, settings or {}, workers, force)


def _run(
    recipe: str,
    data: Path,
    out: Path,
    benches: dict[str, str | Path],
    settings: dict[str, object],
    workers: int | None,
    force: bool,
) -> Path:
    assignments = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    loaded = load_recipe(recipe, assignments, option="")
    inputs = Inputs(data, {name: Path(path) for name, path in benches.items()})
    engine = LocalEngine(workers)
    try:
        run_stages(loaded, inputs, out, engine, Options(force=force))
    finally:
        engine.close()
    return report(RunFolder.open(out), loaded)[1]
