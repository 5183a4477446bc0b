"""`ablate`: a recipe taken apart into the paper's progressive table."""

from __future__ import annotations

from typing import Annotated

import typer

from m2raap.cli import options


def register(app: typer.Typer) -> None:
    app.command("ablate", help="Take a recipe apart: what each step brings, with paired intervals.")(ablate)


def ablate(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped one; without arms")],
    data: options.DataOption,
    out: options.OutOption,
    bench: options.BenchOption = None,
    assignments: options.SetOption = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="training seeds a row (the recipe's seeds)")
    ] = None,
    limit: options.LimitOption = None,
    scores: options.ScoresOption = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    seed: options.SeedOption = None,
    dry_run: options.DryRunOption = False,
    force: options.ForceOption = False,
    allow_refused: options.AllowRefusedOption = "5%",
    allow_remote: options.AllowRemoteOption = False,
    truth: options.TruthOption = None,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.cli.run import carry_out
    from m2raap.pipeline.ablate import progressive
    from m2raap.pipeline.recipe import load_recipe
    from m2raap.pipeline.run import Options
    from m2raap.pipeline.run_folder import Inputs

    wanted = [*(assignments or []), *([f"seeds={seeds}"] if seeds else [])]
    rows = progressive(load_recipe(recipe, wanted, seed))
    inputs = Inputs(data, options.parse_benches(bench), limit, tuple(scores or ()))
    mapped = options.Mapping(engine, workers, devices)
    carry_out(rows, inputs, out, mapped, Options(force=force), dry_run, allow_refused, allow_remote, truth, as_json)
