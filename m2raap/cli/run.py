"""`run` and `report`: a whole recipe, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2raap import stages
from m2raap.cli import options
from m2raap.cli.emit import emit
from m2raap.cli.report import emit_report
from m2raap.core.errors import TooManyRefused, UsageError

if TYPE_CHECKING:
    from m2raap.pipeline.run_folder import RunFolder


def register(app: typer.Typer) -> None:
    app.command(
        "run", help="Carry out a recipe: every stage it names, the benchmarks, the report; --ablate takes it apart."
    )(run_recipe)


def run_recipe(
    out: options.OutOption,
    recipe: Annotated[str | None, typer.Argument(help="a recipe file, or the name of a shipped one")] = None,
    data: options.DataOption = None,
    bench: options.BenchOption = None,
    assignments: options.SetOption = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="take the recipe apart: what each step brings, with paired intervals")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="training seeds of every arm (default: the recipe's seeds)")
    ] = None,
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
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            metavar="FILE",
            help="of the run in --out: write what --stage still has to ask its endpoint as OpenAI Batch JSONL; nothing is sent",
        ),
    ] = None,
    stage: Annotated[
        Literal["rewrite", "caption"] | None, typer.Option("--stage", help="the stage whose --requests are written")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            metavar="FILE",
            help="put the answers to --requests into the cache of the run in --out; the same run command then uses them",
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    if requests is not None or answers is not None:
        if recipe is not None or data is not None:
            raise UsageError("run: --requests and --answers are of the run in --out; leave the recipe and --data out")
        _exchange_requests(out, requests, stage, answers, as_json)
        return
    if recipe is None or data is None:
        raise UsageError("run: give a recipe and --data CORPUS")
    from m2raap.pipeline.ablate import progressive
    from m2raap.pipeline.dry_run import dry_run as plan_and_cost
    from m2raap.pipeline.recipe import load_recipe, with_remote_videos
    from m2raap.pipeline.run import Options, is_last, make_plan, steps_within
    from m2raap.pipeline.run import run as run_plan
    from m2raap.pipeline.run_folder import Inputs, RunFolder
    from m2raap.report.report import report as write_report

    for flag, name in (("--from", first), ("--until", last)):
        if name is not None and name not in stages.STAGES:
            raise UsageError(f"{flag} {name}: no such stage; stages are {', '.join(stages.STAGES)}")
    if first is not None and last is not None and list(stages.STAGES).index(first) > list(stages.STAGES).index(last):
        raise UsageError(f"--until {last} stands before --from {first}: there is nothing to run")
    inputs = Inputs(data, options.parse_benches(bench), limit, tuple(scores or ()))
    how = Options(first, last, force, options.parse_share(parts))
    loaded = load_recipe(recipe, [*(assignments or []), *([f"seeds={seeds}"] if seeds else [])], seed)
    loaded = progressive(loaded) if ablate else loaded
    allowed = options.parse_percent(allow_refused)
    loaded = with_remote_videos(loaded) if allow_remote else loaded
    if truth is not None and not truth.is_file():
        raise UsageError(f"--truth {truth}: no such file")
    if dry_run:
        tree = plan_and_cost(loaded, inputs, out, steps_within(make_plan(loaded, inputs, out), how))
        emit(tree, tree["lines"], as_json)
        return
    with options.open_engine(engine, workers, devices) as mapped:
        complete = run_plan(loaded, inputs, out, mapped, how)
    if not complete:
        return
    folder = RunFolder.open(out)
    if is_last(last):
        emit_report(*write_report(folder, loaded, truth), as_json)
    _refuse_too_many_unreadable(folder, allowed)


def _exchange_requests(
    run: Path, requests: Path | None, stage: Literal["rewrite", "caption"] | None, answers: Path | None, as_json: bool
) -> None:
    """Requests of a run's stage to a file, or answers from one into the run's cache."""
    from m2raap.pipeline.llm_requests import export, take_in

    if (requests is None) == (answers is None):
        raise UsageError("run: --requests writes a file and --answers reads one; give one of them")
    if (requests is None) != (stage is None):
        raise UsageError("run: --requests FILE needs --stage rewrite or --stage caption, and nothing else does")
    if requests is not None and stage is not None:
        number, arms = export(run, stage, requests)
        line = f"{requests}: {number} requests of {', '.join(arms)}; put the answers in with 'm2raap run --out {run} --answers'"
        emit({"requests": number, "arms": arms, "file": str(requests)}, [line], as_json)
    elif answers is not None:
        imported = take_in(run, answers)
        line = (
            f"{imported.answers} answers taken in, {imported.failed} that failed, {imported.unknown} that this run never "
            "asked for"
        )
        emit(imported._asdict(), [line], as_json)


def _refuse_too_many_unreadable(folder: RunFolder, allowed: float) -> None:
    from m2raap.pipeline.run_folder import unreadable_share

    unreadable, total = unreadable_share(folder)
    if unreadable > allowed * total:
        raise TooManyRefused(
            f"done, but {unreadable} of {total} clips could not be read ({unreadable / total:.1%}, allowed {allowed:.1%}); "
            "the report and 'm2raap status' say why"
        )
