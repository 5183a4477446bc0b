"""`recipe`: print recipes and their schema, and measure the cost of their modules."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer

from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption, SetOption
from m2raap.core.errors import UsageError

app = typer.Typer(
    help="Print recipes, their schema, and the cost of their modules.", no_args_is_help=True, rich_markup_mode=None
)


def _first_sentence(path: Path) -> str:
    """Of the comment with which a recipe begins."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return shorten(comment.partition(". ")[0].rstrip("."), 110, placeholder=" ...")


@app.callback()
def group() -> None:
    """Keeps `recipe show` a command of a group: Typer turns a group of one command without a callback into the command."""


@app.command("show", help="Print a recipe with all defaults, the schema of recipes, or the cost of a recipe's modules.")
def show(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="a recipe file or name, with --cost also a run; default: list the shipped recipes"
        ),
    ] = None,
    assignments: SetOption = None,
    arm: Annotated[str | None, typer.Option("--arm", help="apply the overrides of this arm")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON Schema of recipes, for editors")] = False,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost",
            help="print parameters, FLOP and ms per clip of the modules of every arm; for a run also the gates of the kept step",
        ),
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="torch threads that --cost measures with")] = 1,
    as_json: JsonOption = False,
) -> None:
    from m2raap.pipeline.recipe import Recipe, load_recipe, of_arm, recipes_folder

    if schema:
        if recipe is not None or cost:
            raise UsageError("recipe show: --schema prints the schema of all recipes; leave the recipe and --cost out")
        typer.echo(json.dumps(Recipe.model_json_schema(), indent=1, ensure_ascii=False))
    elif cost:
        if recipe is None or arm is not None:
            raise UsageError(
                "recipe show: --cost measures every arm of one recipe or run: give the recipe or run, and leave --arm out"
            )
        _cost(recipe, threads, assignments, as_json)
    elif recipe is None:
        about = {path.stem: _first_sentence(path) for path in sorted(recipes_folder().glob("*.yaml"))}
        emit(list(about), (f"{name:<24} {sentence}" for name, sentence in about.items()), as_json)
    else:
        import yaml

        loaded = load_recipe(recipe, assignments)
        tree = (of_arm(loaded, arm) if arm is not None else loaded).model_dump(mode="json")
        emit(tree, [yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)], as_json)


def _cost(recipe_or_run: str, threads: int, assignments: list[str] | None, as_json: bool) -> None:
    from m2raap.pipeline.recipe import load_recipe
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.console import print_modules
    from m2raap.report.cost import cost_of_recipe, cost_of_run

    if (Path(recipe_or_run) / "run.json").is_file():
        if assignments:
            raise UsageError("--set changes a recipe, but a run is measured with its own recipe: leave --set out")
        rows = cost_of_run(RunFolder.open(Path(recipe_or_run)), threads)
    else:
        rows = cost_of_recipe(load_recipe(recipe_or_run, assignments), threads)
    emit([asdict(row) for row in rows], lambda: print_modules(rows), as_json)
