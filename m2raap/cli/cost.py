"""`cost`: parameters, FLOP and time of every arm's modules."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.options import JsonOption, SetOption


def register(app: typer.Typer) -> None:
    app.command("cost", help="Parameters, FLOP and ms a clip of every arm's modules; of a run its final gates too.")(
        cost
    )


def cost(
    what: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="a recipe, or the --out of 'm2raap run'")],
    threads: Annotated[int, typer.Option("--threads", min=1, help="of torch while it is timed")] = 1,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    import json

    from m2raap.core.errors import UsageError
    from m2raap.pipeline.recipe import load_recipe
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.console import print_modules
    from m2raap.report.cost import cost_of_recipe, cost_of_run

    if (Path(what) / "run.json").is_file():
        if assignments:
            raise UsageError("--set changes a recipe; a run is priced as it was carried out")
        rows = cost_of_run(RunFolder.open(Path(what)), threads)
    else:
        rows = cost_of_recipe(load_recipe(what, assignments), threads)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], sort_keys=True))
    else:
        print_modules(rows)
