"""A command for every stage: those of the data stages are built from the stage table; adapt and embed are written out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2raap import stages
from m2raap.cli import options
from m2raap.cli.emit import emit
from m2raap.stages import help_of

if TYPE_CHECKING:
    from m2raap.core.stage import Stage
    from m2raap.core.view import View
    from m2raap.pipeline.recipe import Recipe

CorpusArgument = Annotated[Path, typer.Argument(help="a corpus folder, or the folder of the stage before it")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="a recipe file or name (default: a recipe of defaults)")
]
ArmOption = Annotated[str | None, typer.Option("--arm", help="the arm of the recipe whose settings count")]


def register(app: typer.Typer) -> None:
    """Adds a command for every stage of the table, except evaluate and report, which other modules add."""
    written_out: dict[str, Callable[..., None] | None] = {
        "adapt": adapt, "annotate": None, "cotrain": cotrain, "embed": embed, "evaluate": None, "report": None,
    }  # fmt: skip
    for name in stages.STAGES:
        if command := written_out.get(name, data_stage_command(name)):
            app.command(name, help=help_of(name))(command)


def open_input(corpus: Path, recipe: Recipe, limit: int | None) -> View:
    from m2raap.core.view import open_view

    return open_view(corpus, recipe.langs).limited(limit)


def data_stage_command(name: str) -> Callable[..., None]:
    """The command of a data stage."""

    def command(
        corpus: CorpusArgument,
        out: options.OutOption,
        recipe: RecipeOption = None,
        arm: ArmOption = None,
        assignments: options.SetOption = None,
        limit: options.LimitOption = None,
        scores: options.ScoresOption = None,
        workers: options.WorkersOption = None,
        devices: options.DevicesOption = None,
        engine: options.EngineOption = "local",
        parts: options.PartsOption = None,
        force: options.ForceOption = False,
        allow_refused: options.AllowRefusedOption = "5%",
        as_json: options.JsonOption = False,
    ) -> None:
        from m2raap.core.errors import M2raapError, UsageError
        from m2raap.core.runner import run_stage
        from m2raap.core.stage import DataStage, StepInputs
        from m2raap.pipeline.recipe import load_for_stage
        from m2raap.stages.shared import warn_of_drawings

        loaded = load_for_stage(name, recipe, assignments, arm=arm)
        view = open_input(corpus, loaded, limit)
        stage = loaded.stage(name)
        assert isinstance(stage, DataStage)
        if view.is_benchmark and not stage.on_benchmarks:
            raise M2raapError(f"{corpus}: this is the benchmark '{view.corpus.benchmark}', which may not pass {name}")
        _refuse_without_needs(stage, view, corpus)
        if scores and not stage.reads_scores:
            raise UsageError(f"--scores: {name} does not use scores; give them to 'm2raap filter' (filter.scores)")
        if stage.backbones() or name == "rewrite":  # which takes captions that the backbone chose
            warn_of_drawings(loaded.backbone.model, view)
        share = options.parse_share(parts)
        allowed = options.parse_percent(allow_refused)
        with options.open_engine(engine, workers, devices) as mapped:
            how = {"force": force, "share": share, "allow_refused": allowed}
            step = StepInputs(view, out, mapped, scores=tuple(scores or ()), **how)
            finished = run_stage(stage, step)
        if finished:
            show_counts(out, as_json)

    return command


def _refuse_without_needs(stage: Stage[Any], view: View, corpus: Path) -> None:
    """Raises M2raapError where the view lacks the folder of a stage that has to run before this one."""
    from m2raap.core.errors import M2raapError
    from m2raap.core.signed import stage_manifest

    done = {stage_manifest(folder)["stage"] for folder in view.folders}
    for need in stage.needs:
        if need not in done:
            raise M2raapError(
                f"{corpus}: {stage.name} reads the output of {need}; run 'm2raap {need}' on it first and give its --out here"
            )


def show_counts(folder: Path, as_json: bool) -> None:
    from m2raap.core.signed import read_manifest

    counts = read_manifest(folder)["counts"]
    emit(counts, (f"{key:<44} {value}" for key, value in sorted(counts.items())), as_json)


def adapt(
    corpus: CorpusArgument,
    out: options.OutOption,
    recipe: RecipeOption = None,
    arm: ArmOption = None,
    assignments: options.SetOption = None,
    limit: options.LimitOption = None,
    start: Annotated[
        Path | None,
        typer.Option("--start", help="a model folder or a cotrain folder to start from (default: the backbone)"),
    ] = None,
    seed: options.SeedOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.pipeline.recipe import load_for_stage
    from m2raap.stages.adapt import AdaptStage, is_worker_rank, train_as_worker
    from m2raap.stages.embedder import model_folder
    from m2raap.stages.shared import warn_of_drawings

    loaded = load_for_stage("adapt", recipe, assignments, seed, arm)
    stage = AdaptStage(loaded.adapt, loaded.shared)
    begin = model_folder(start) if start else None
    if is_worker_rank():
        train_as_worker(lambda _: (open_input(corpus, loaded, limit), stage, begin))
        return
    view = open_input(corpus, loaded, limit)
    _refuse_without_needs(stage, view, corpus)
    warn_of_drawings(loaded.backbone.model, view)
    stage.run_on(view, out, force, start=begin)
    show_counts(out, as_json)


def cotrain(
    corpus: CorpusArgument,
    out: options.OutOption,
    recipe: RecipeOption = None,
    arm: ArmOption = None,
    assignments: options.SetOption = None,
    limit: options.LimitOption = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    seed: options.SeedOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.stage import StepInputs
    from m2raap.pipeline.recipe import load_for_stage
    from m2raap.stages.cotrain import CotrainStage
    from m2raap.stages.shared import warn_of_drawings

    loaded = load_for_stage("cotrain", recipe, assignments, seed, arm)
    view, stage = open_input(corpus, loaded, limit), CotrainStage(loaded.cotrain, loaded.shared)
    _refuse_without_needs(stage, view, corpus)
    warn_of_drawings(loaded.backbone.model, view)
    with options.open_engine(engine, workers, devices) as mapped:
        stage.run(StepInputs(view, out, mapped, force=force))
    show_counts(out, as_json)


def embed(
    corpus: Annotated[Path, typer.Argument(help="the keyframes folder of a benchmark, or any folder of videos")],
    out: options.OutOption,
    model: Annotated[
        Path | None, typer.Option("--model", help="a model folder or an adapt folder (default: the bare backbone)")
    ] = None,
    recipe: RecipeOption = None,
    arm: ArmOption = None,
    assignments: options.SetOption = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    parts: options.PartsOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.errors import UsageError
    from m2raap.pipeline.recipe import load_for_stage
    from m2raap.search.embed_folder import embed_folder, is_video_folder
    from m2raap.stages.embed import EmbedStage
    from m2raap.stages.embedder import model_folder

    loaded = load_for_stage("embed", recipe, assignments, arm=arm)
    chosen = model_folder(model) if model else loaded.backbone
    share, is_folder = options.parse_share(parts), is_video_folder(corpus)
    if is_folder and parts:
        raise UsageError(
            "--parts: a folder of videos is embedded by one command; import it as a corpus, or leave --parts out"
        )
    with options.open_engine(engine, workers, devices) as mapped:
        if is_folder:
            embed_folder(corpus, loaded.keyframes, chosen, out, mapped, force)
            show_counts(out / "vectors", as_json)
            return
        view, stage = open_input(corpus, loaded, None), EmbedStage(loaded.embed, loaded.shared)
        finished = stage.run_on(view, chosen, out, force, mapped, share)
    if finished:
        show_counts(out, as_json)
