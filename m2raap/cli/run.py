"""`run`, and every stage alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2raap.cli import options
from m2raap.cli.emit import emit
from m2raap.cli.report import emit_report
from m2raap.core.errors import TooManyRefused, UsageError

if TYPE_CHECKING:
    from m2raap.core.view import View
    from m2raap.pipeline.recipe import Recipe
    from m2raap.pipeline.run_folder import RunFolder

CorpusArgument = Annotated[Path, typer.Argument(help="a corpus folder, or the folder of the stage before")]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="a recipe file or name; default: the defaults")]


def register(app: typer.Typer) -> None:
    app.command(
        "run", help="Carry out a recipe: every stage it names, the benchmarks, the report; --ablate takes it apart."
    )(run_recipe)
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
    from m2raap.pipeline.estimate import estimate
    from m2raap.pipeline.recipe import load_recipe, with_remote_videos
    from m2raap.pipeline.run import Options, make_plan
    from m2raap.pipeline.run import run as run_plan
    from m2raap.pipeline.run_folder import Inputs, RunFolder
    from m2raap.report.report import report as write_report
    from m2raap.stages import STAGES

    for flag, name in (("--from", first), ("--until", last)):
        if name is not None and name not in STAGES:
            raise UsageError(f"{flag} {name}: no such stage; stages are {', '.join(STAGES)}")
    inputs = Inputs(data, options.parse_benches(bench), limit, tuple(scores or ()))
    how = Options(first, last, force, options.parse_share(parts))
    loaded = load_recipe(recipe, [*(assignments or []), *([f"seeds={seeds}"] if seeds else [])], seed)
    loaded = progressive(loaded) if ablate else loaded
    allowed = options.parse_percent(allow_refused)
    loaded = with_remote_videos(loaded) if allow_remote else loaded
    if truth is not None and not truth.is_file():
        raise UsageError(f"--truth {truth}: no such file")
    if dry_run:
        tree = estimate(loaded, inputs, out, make_plan(loaded, inputs, out))
        emit(tree, tree["lines"], as_json)
        return
    with options.open_engine(engine, workers, devices) as mapped:
        complete = run_plan(loaded, inputs, out, mapped, how)
    if not complete or (last is not None and last != "report"):
        return
    folder = RunFolder.open(out)
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
    emit(counts, (f"{key:<44} {value}" for key, value in sorted(counts.items())), as_json)


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
    from m2raap.stages.train import help_train, helps, run_adapt

    loaded = load(recipe, assignments, seed)
    if helps():
        help_train(lambda _: (_open(corpus, loaded, limit), loaded.adapt_settings, loaded.keyframes.decode))
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
