"""`recipe show|schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from m2raap.cli.options import JsonOption, SetOption

app = typer.Typer(help="Look at recipes.", no_args_is_help=True, rich_markup_mode=None)


@app.command("show")
def show(
    recipe: Annotated[str | None, typer.Argument(help="a recipe file or name; none: list the shipped ones")] = None,
    assignments: SetOption = None,
    arm: Annotated[str | None, typer.Option("--arm", help="with the overrides of this arm")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a recipe with every default filled in."""
    import yaml

    from m2raap.core.errors import UsageError
    from m2raap.pipeline.recipe import arms_of, load_recipe, recipes_folder

    if recipe is None:
        names = sorted(path.stem for path in recipes_folder().glob("*.yaml"))
        typer.echo(json.dumps(names) if as_json else "\n".join(names))
        return
    loaded = load_recipe(recipe, assignments)
    if arm is not None:
        arms = arms_of(loaded)
        if arm not in arms:
            raise UsageError(f"--arm {arm}: arms of {recipe} are {', '.join(arms)}")
        loaded = arms[arm]
    tree = loaded.model_dump(mode="json")
    typer.echo(
        json.dumps(tree, ensure_ascii=False) if as_json else yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    )


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from m2raap.pipeline.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=1, ensure_ascii=False))
