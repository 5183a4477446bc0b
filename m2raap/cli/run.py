"""`run`, and every stage alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2raap.cli import options
from m2raap.core.errors import TooManyRefused, UsageError

if TYPE_CHECKING:
    from m2raap.core.view import View
    from m2raap.pipeline.recipe import Recipe
    from m2raap.pipeline.run import Options
    from m2raap.pipeline.run_folder import Inputs
    from m2raap.report.data import ReportData

CorpusArgument = Annotated[Path, typer.Argument(help="a corpus folder, or the folder of the stage before")]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="a recipe file or name; default: the defaults")]


def register(app: typer.Typer) -> None:
    app.command("run", help="Carry out a recipe: every stage it names, the benchmarks, the report.")(run_recipe)
    data_stages = (
        ("filter", "Refuse bad texts and unreadable videos before anything is decoded."),
        ("keyframes", "Choose exactly k representative frames a clip."),
        ("align", "Refuse what the frames show: mismatches, copies, black and frozen clips."),
        ("caption", "Describe key-frames: auxiliary captions."),
        ("rewrite", "One faithful caption out of raw texts and auxiliary captions."),
    )
    for name, help_text in data_stages:
        app.command(name, help=help_text)(_filter_command if name == "filter" else _data_stage_command(name))
    app.command("adapt", help="Train a temporal module on an image-text backbone.")(adapt)
    app.command("embed", help="Embed a benchmark, or any folder of videos: one vector a clip, one a text.")(embed)
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
    from m2raap.stages import STAGES

    for flag, stage in (("--from", first), ("--until", last)):
        if stage is not None and stage not in STAGES:
            raise UsageError(f"{flag} {stage}: no such stage; stages are {', '.join(STAGES)}")
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
    from m2raap.pipeline.estimate import estimate
    from m2raap.pipeline.recipe import with_remote_videos
    from m2raap.pipeline.run import make_plan, run
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.report import report as write_report

    allowed = options.parse_percent(allow_refused)
    recipe = with_remote_videos(recipe) if allow_remote else recipe
    if truth is not None and not truth.is_file():
        raise UsageError(f"--truth {truth}: no such file")
    if dry_run:
        _print_json_or_lines(estimate(recipe, inputs, out, make_plan(recipe, inputs, out)), as_json)
        return
    with options.open_engine(*mapped) as engine:
        complete = run(recipe, inputs, out, engine, how)
    if not complete or (how.last is not None and how.last != "report"):
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


def load(recipe: str | None, assignments: list[str] | None, seed: int | None = None) -> Recipe:
    from m2raap.core.config import build, parse_assignment, set_keys
    from m2raap.pipeline.recipe import Recipe, load_recipe

    if recipe is not None:
        return load_recipe(recipe, assignments, seed)
    settings = [parse_assignment(item) for item in assignments or []] + ([(["seed"], seed)] if seed is not None else [])
    return build(Recipe, set_keys({"name": "default"}, settings), "--set")


def _open(corpus: Path, recipe: Recipe, limit: int | None) -> View:
    from m2raap.core.view import open_view

    return open_view(corpus, recipe.langs).limited(limit)


def _data_stage_command(name: str):
    def command(
        corpus: CorpusArgument,
        out: options.OutOption,
        recipe: RecipeOption = None,
        assignments: options.SetOption = None,
        limit: options.LimitOption = None,
        workers: options.WorkersOption = None,
        devices: options.DevicesOption = None,
        engine: options.EngineOption = "local",
        parts: options.PartsOption = None,
        force: options.ForceOption = False,
        as_json: options.JsonOption = False,
    ) -> None:
        _run_data_stage(name, corpus, out, recipe, assignments, limit, workers, devices, engine, parts, force, as_json)

    return command


def _filter_command(
    corpus: CorpusArgument,
    out: options.OutOption,
    recipe: RecipeOption = None,
    assignments: options.SetOption = None,
    limit: options.LimitOption = None,
    scores: options.ScoresOption = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    parts: options.PartsOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    _run_data_stage(
        "filter",
        corpus,
        out,
        recipe,
        assignments,
        limit,
        workers,
        devices,
        engine,
        parts,
        force,
        as_json,
        tuple(scores or ()),
    )


def _run_data_stage(
    name: str,
    corpus: Path,
    out: Path,
    recipe: str | None,
    assignments: list[str] | None,
    limit: int | None,
    workers: int | None,
    devices: str | None,
    engine: str,
    parts: str | None,
    force: bool,
    as_json: bool,
    scores: tuple[Path, ...] = (),
) -> None:
    from m2raap.core.errors import M2raapError
    from m2raap.core.stage import run_data_stage
    from m2raap.pipeline.plan import DATA_STAGE, settings_of
    from m2raap.stages.filter import with_scores

    loaded = load(recipe, assignments)
    view = _open(corpus, loaded, limit)
    if view.is_benchmark and name != "keyframes":
        raise M2raapError(f"{corpus}: is the benchmark '{view.corpus.benchmark}'; a benchmark never passes {name}")
    settings = settings_of(loaded, name)
    if name == "filter":
        view = with_scores(view, scores, settings)
    share = options.parse_share(parts)
    with options.open_engine(engine, workers, devices) as mapped:
        finished = run_data_stage(DATA_STAGE[name], view, settings, out, mapped, force=force, share=share)
    if finished:
        _show_counts(out, as_json)


def _show_counts(folder: Path, as_json: bool) -> None:
    from m2raap.core.files import read_json

    counts = read_json(folder / "manifest.json")["counts"]
    if as_json:
        typer.echo(json.dumps(counts, sort_keys=True))
        return
    for key, value in sorted(counts.items()):
        typer.echo(f"{key:<44} {value}")


def adapt(
    corpus: CorpusArgument,
    out: options.OutOption,
    recipe: RecipeOption = None,
    assignments: options.SetOption = None,
    limit: options.LimitOption = None,
    seed: options.SeedOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.stages.train import is_worker_rank, run_adapt, train_as_worker

    loaded = load(recipe, assignments, seed)
    if is_worker_rank():
        train_as_worker(lambda _: (_open(corpus, loaded, limit), loaded.adapt_settings, loaded.keyframes.decode))
        return
    run_adapt(_open(corpus, loaded, limit), loaded.adapt_settings, loaded.keyframes.decode, out, force)
    _show_counts(out, as_json)


def embed(
    corpus: Annotated[Path, typer.Argument(help="the keyframes folder of a benchmark, or any folder of videos")],
    out: options.OutOption,
    model: Annotated[
        Path | None, typer.Option("--model", help="a model folder or an adapt folder; default: the bare backbone")
    ] = None,
    recipe: RecipeOption = None,
    assignments: options.SetOption = None,
    workers: options.WorkersOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.search.embed_folder import embed_folder, is_heap
    from m2raap.stages.whole import model_folder, run_embed

    loaded = load(recipe, assignments)
    chosen = model_folder(model) if model else loaded.backbone
    if is_heap(corpus):
        with options.open_engine("local", workers, None) as engine:
            embed_folder(corpus, loaded.keyframes, chosen, out, engine, force)
        _show_counts(out / "vectors", as_json)
        return
    run_embed(_open(corpus, loaded, None), loaded.embed, chosen, out, force)
    _show_counts(out, as_json)


def report(
    run: Annotated[Path, typer.Argument(help="the --out of 'm2raap run'")],
    truth: options.TruthOption = None,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.config import build
    from m2raap.pipeline.recipe import Recipe
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.report import report as write_report

    folder = RunFolder.open(run)
    _show(*write_report(folder, build(Recipe, folder.tree["recipe"], str(run / "run.json")), truth), as_json)
