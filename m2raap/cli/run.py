"""`run`: a whole recipe, from the stages over the benchmarks to the report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2raap import stages
from m2raap.cli import options
from m2raap.cli.emit import emit
from m2raap.cli.inspect import flow_lines
from m2raap.cli.report import emit_report
from m2raap.core.errors import TooManyRefused, UsageError

STAGE_NAMES = ", ".join(stages.STAGES)

if TYPE_CHECKING:
    from m2raap.pipeline.run_folder import RunFolder


def register(app: typer.Typer) -> None:
    app.command(
        "run", help="Run a recipe: its stages, the benchmarks and the report; with --ablate, what each part of it adds."
    )(run_recipe)


def run_recipe(
    context: typer.Context,
    out: options.OutOption,
    recipe: Annotated[str | None, typer.Argument(help="a recipe file, or the name of a shipped one")] = None,
    data: options.DataOption = None,
    bench: options.BenchOption = None,
    assignments: options.SetOption = None,
    ablate: Annotated[
        bool,
        typer.Option("--ablate", help="train one arm for each part of the recipe, and report what the part adds"),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=1, max=100, help="number of training seeds of each arm (default: the recipe's seeds)"
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", help=f"start at this stage; those before it must be finished ({STAGE_NAMES})"),
    ] = None,
    last: Annotated[str | None, typer.Option("--until", help=f"stop after this stage ({STAGE_NAMES})")] = None,
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
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            metavar="FILE",
            help="write the requests that --stage of the run in --out still has for its endpoint, as an OpenAI Batch file; "
            "nothing is sent",
        ),
    ] = None,
    stage: Annotated[
        Literal["rewrite", "caption"] | None, typer.Option("--stage", help="the stage whose requests --requests writes")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            metavar="FILE",
            help="read the answers to --requests into the cache of the run in --out; the same run command then uses them",
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    if requests is not None or answers is not None:
        used = ("requests", "stage") if requests is not None else ("answers",)
        options.refuse_ignored(context, f"run --{used[0]}", ("out", *used, "as_json"))
        _exchange_requests(out, requests, stage, answers, as_json)
        return
    if recipe is None or data is None:
        raise UsageError("run: give a recipe and --data CORPUS")
    if stage is not None:
        raise UsageError("run: --stage belongs to --requests; to run only some stages give --from and --until")
    from m2raap.core.config import suggestion
    from m2raap.pipeline.ablate import progressive
    from m2raap.pipeline.dry_run import dry_run as plan_and_cost
    from m2raap.pipeline.inspect import status
    from m2raap.pipeline.recipe import load_recipe, with_remote_videos
    from m2raap.pipeline.run import Options, is_last, make_plan, refuse_unfinished, steps_within
    from m2raap.pipeline.run import run as run_stages
    from m2raap.pipeline.run_folder import Inputs, RunFolder
    from m2raap.report.report import report as write_report

    for flag, name in (("--from", first), ("--until", last)):
        if name is not None and name not in stages.STAGES:
            raise UsageError(f"{flag} {name}: no such stage: {suggestion(name, stages.STAGES)}")
    if first is not None and last is not None and list(stages.STAGES).index(first) > list(stages.STAGES).index(last):
        raise UsageError(f"--until {last}: this stage comes before --from {first}, so there is nothing to run")
    inputs = Inputs(data, options.parse_benches(bench), limit, tuple(scores or ()))
    allowed = options.parse_percent(allow_refused)
    how = Options(first, last, force, options.parse_share(parts), allowed)
    loaded = load_recipe(recipe, [*(assignments or []), *([f"seeds={seeds}"] if seeds else [])], seed)
    loaded = progressive(loaded) if ablate else loaded
    loaded = with_remote_videos(loaded) if allow_remote else loaded
    if truth is not None and not truth.is_file():
        raise UsageError(f"--truth {truth}: no such file")
    if dry_run:
        steps = make_plan(loaded, inputs, out)
        refuse_unfinished(steps, how)
        tree = plan_and_cost(loaded, inputs, out, steps_within(steps, how), force)
        emit(tree, tree["lines"], as_json)
        return
    with options.open_engine(engine, workers, devices) as mapped:
        complete = run_stages(loaded, inputs, out, mapped, how)
    if not complete:
        return
    folder = RunFolder.open(out)
    if is_last(last):
        emit_report(*write_report(folder, loaded, truth), as_json)
    else:
        stages_done = {str(step.folder) for step in steps_within(folder.steps, how)}
        rows = [row for row in status(folder) if row["folder"] in stages_done]
        emit(rows, [line for row in rows for line in flow_lines(row)], as_json)
    _refuse_too_many_unreadable(folder, allowed)


def _exchange_requests(
    run: Path, requests: Path | None, stage: Literal["rewrite", "caption"] | None, answers: Path | None, as_json: bool
) -> None:
    """Writes the requests of a run's stage to a file, or reads answers from a file into the run's cache."""
    from m2raap.pipeline.llm_requests import export_stage, import_into

    if answers is not None:
        imported = import_into(run, answers)
        line = (
            f"{imported.answers} answers read, {imported.failed} failed requests, {imported.unknown} answers to requests "
            "that this run does not have"
        )
        emit(imported._asdict(), [line], as_json)
    elif requests is not None:
        if stage is None:
            raise UsageError("run: --requests FILE needs --stage rewrite or --stage caption")
        number, arms = export_stage(run, stage, requests)
        line = (
            f"{requests}: {number} requests of {', '.join(arms)}; read the answers with "
            f"'m2raap run --out {shlex.quote(str(run))} --answers FILE'"
        )
        emit({"requests": number, "arms": arms, "file": str(requests)}, [line], as_json)


def _refuse_too_many_unreadable(folder: RunFolder, allowed: float) -> None:
    from m2raap.pipeline.run_folder import unreadable_share

    unreadable, total = unreadable_share(folder)
    if unreadable > allowed * total:
        raise TooManyRefused(
            f"finished, but {unreadable} of {total} clips could not be read ({unreadable / total:.1%}, more than the "
            f"{allowed:.1%} of --allow-refused); the report, and dropped/ in the stage folders, give the reasons"
        )
