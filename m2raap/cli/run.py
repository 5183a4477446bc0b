"""`run` and `report`: a whole recipe, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2raap import stages
from m2raap.cli import options
from m2raap.core.errors import TooManyRefused, UsageError

if TYPE_CHECKING:
    from m2raap.pipeline.recipe import Recipe
    from m2raap.pipeline.run import Options
    from m2raap.pipeline.run_folder import Inputs
    from m2raap.report.data import ReportData


def register(app: typer.Typer) -> None:
    app.command("run", help="Carry out a recipe: every stage it names, the benchmarks, the report.")(run_recipe)
    app.command("report", help="Write report.html over a run.")(report)


def run_recipe(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped one")],
    data: options.DataOption,
    out: options.OutOption,
    bench: options.BenchOption = None,
    assignments: options.SetOption = None,
    first: Annotated[
        str | None, typer.Option("--from", help="start at this stage; those before must be finished")
    ] = None,
    last: Annotated[str | None, typer.Option("--until", help="stop after this stage")] = None,
    limit: options.LimitOption = None,
    scores: options.ScoresOption = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    parts: options.PartsOption = None,
    seed: options.SeedOption = None,
    dry_run: options.DryRunOption = False,
    force: options.ForceOption = False,
    allow_refused: options.AllowRefusedOption = "5%",
    allow_remote: options.AllowRemoteOption = False,
    truth: options.TruthOption = None,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.pipeline.recipe import load_recipe
    from m2raap.pipeline.run import Options
    from m2raap.pipeline.run_folder import Inputs

    for flag, stage in (("--from", first), ("--until", last)):
        if stage is not None and stage not in stages.STAGES:
            raise UsageError(f"{flag} {stage}: no such stage; stages are {', '.join(stages.STAGES)}")
    inputs = Inputs(data, options.parse_benches(bench), limit, tuple(scores or ()))
    how = Options(first, last, force, options.parse_share(parts))
    mapped = options.Mapping(engine, workers, devices)
    loaded = load_recipe(recipe, assignments, seed)
    carry_out(loaded, inputs, out, mapped, how, dry_run, allow_refused, allow_remote, truth, as_json)


def carry_out(
    recipe: Recipe,
    inputs: Inputs,
    out: Path,
    mapped: options.Mapping,
    how: Options,
    dry_run: bool,
    allow_refused: str,
    allow_remote: bool,
    truth: Path | None,
    as_json: bool,
) -> None:
    """The run of a recipe and its report; of --dry-run, the plan and its cost."""
    from m2raap.pipeline.dry_run import dry_run as plan_and_cost
    from m2raap.pipeline.recipe import with_remote_videos
    from m2raap.pipeline.run import is_last, make_plan, run
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.report import report as write_report

    allowed = options.parse_percent(allow_refused)
    recipe = with_remote_videos(recipe) if allow_remote else recipe
    if truth is not None and not truth.is_file():
        raise UsageError(f"--truth {truth}: no such file")
    if dry_run:
        _print_json_or_lines(plan_and_cost(recipe, inputs, out, make_plan(recipe, inputs, out)), as_json)
        return
    with options.open_engine(*mapped) as engine:
        complete = run(recipe, inputs, out, engine, how)
    if not complete or not is_last(how.last):
        return
    folder = RunFolder.open(out)
    _show(*write_report(folder, recipe, truth), as_json)
    _judge_refused(folder, allowed)


def _show(data: ReportData, path: Path, as_json: bool) -> None:
    from m2raap.report.console import print_report
    from m2raap.report.data import to_json

    if as_json:
        typer.echo(json.dumps(to_json(data), ensure_ascii=False, sort_keys=True))
    else:
        print_report(data)
        typer.echo(f"\nreport: {path}")


def _judge_refused(folder, allowed: float) -> None:
    from m2raap.pipeline.run_folder import unreadable_share

    unreadable, total = unreadable_share(folder)
    if unreadable > allowed * total:
        raise TooManyRefused(
            f"done, but {unreadable} of {total} clips could not be read ({unreadable / total:.1%}, allowed {allowed:.1%}); "
            "the report and 'm2raap status' say why"
        )


def _print_json_or_lines(tree: dict, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(tree, ensure_ascii=False, sort_keys=True, indent=1))
        return
    for line in tree["lines"]:
        typer.echo(line)


def report(
    run: Annotated[Path, typer.Argument(help="the --out of 'm2raap run'")],
    truth: options.TruthOption = None,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.report import report as write_report

    folder = RunFolder.open(run)
    _show(*write_report(folder, folder.recipe, truth), as_json)
