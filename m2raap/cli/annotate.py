"""`annotate`: fit a tagger on frame vectors that are stored, and give clips their tags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2raap.cli import options
from m2raap.cli.stages import ArmOption, RecipeOption, open_input, show_counts

if TYPE_CHECKING:
    from m2raap.pipeline.recipe import Recipe

VectorsArgument = Annotated[
    Path, typer.Argument(metavar="VIEW", help="an align or embed folder, or a corpus that was imported with vectors")
]

app = typer.Typer(
    help="Tags of clips, from frame vectors that are stored.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("fit", help="Fit a tagger: labels from captions, a column or a csv; mixtures of experts.")
def fit(
    view: VectorsArgument,
    out: options.OutOption,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="captions, category, column, or a csv with clip_id (or url) and label"),
    ] = None,
    recipe: RecipeOption = None,
    arm: ArmOption = None,
    assignments: options.SetOption = None,
    limit: options.LimitOption = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.errors import M2raapError
    from m2raap.core.stage import StepInputs
    from m2raap.stages.annotate import FitStage

    more = [f"annotate.labels.source={labels}"] if labels is not None else []
    loaded = _load(recipe, [*(assignments or []), *more], arm)
    opened = open_input(view, loaded, limit)
    if opened.is_benchmark:
        raise M2raapError(
            f"{view}: this is the benchmark '{opened.corpus.benchmark}', on which no tagger may be fitted"
        )
    with options.open_engine(engine, workers, devices) as mapped:
        FitStage(loaded.annotate).run(StepInputs(opened, out, mapped, force=force))
    show_counts(out, as_json)


@app.command("apply", help="Give clips their tags, and refuse texts that contradict them.")
def apply(
    view: VectorsArgument,
    out: options.OutOption,
    tagger: Annotated[
        Path | None, typer.Option("--tagger", help="the --out of 'm2raap annotate fit' (default: one is fitted first)")
    ] = None,
    recipe: RecipeOption = None,
    arm: ArmOption = None,
    assignments: options.SetOption = None,
    limit: options.LimitOption = None,
    workers: options.WorkersOption = None,
    devices: options.DevicesOption = None,
    engine: options.EngineOption = "local",
    parts: options.PartsOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.errors import M2raapError, UsageError
    from m2raap.core.runner import run_stage
    from m2raap.core.stage import StepInputs
    from m2raap.stages.annotate import AnnotateStage

    loaded = _load(recipe, assignments, arm)
    cfg = loaded.annotate.model_copy(update={"tagger": tagger}) if tagger is not None else loaded.annotate
    opened, share = open_input(view, loaded, limit), options.parse_share(parts)
    if opened.is_benchmark and (cfg.tagger is None or cfg.least_support is not None):
        raise M2raapError(
            f"{view}: this is the benchmark '{opened.corpus.benchmark}': it can get tags of a tagger that is given (--tagger), "
            "and none of its texts is judged (annotate.least_support)"
        )
    if parts is not None and cfg.tagger is None:
        raise UsageError(
            "--parts: shares need a tagger that is there; fit it with 'm2raap annotate fit', and give it with --tagger"
        )
    with options.open_engine(engine, workers, devices) as mapped:
        step = StepInputs(opened, out, mapped, force=force, share=share)
        finished = run_stage(AnnotateStage(cfg), step)
    if finished:
        show_counts(out, as_json)


def _load(recipe: str | None, assignments: list[str] | None, arm: str | None) -> Recipe:
    from m2raap.pipeline.recipe import load_for_stage

    return load_for_stage("annotate", recipe, assignments, arm=arm)
