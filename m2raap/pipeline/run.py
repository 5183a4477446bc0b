"""A run: every stage of every arm of a recipe, each in its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from m2raap import stages
from m2raap.core import talk
from m2raap.core.config import canonical
from m2raap.core.engine import Engine
from m2raap.core.errors import BudgetSpent, M2raapError, TooManyRefused
from m2raap.core.files import write_atomic
from m2raap.core.lock import locked
from m2raap.core.runner import run_stage
from m2raap.core.state import remember_run
from m2raap.core.view import View
from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig
from m2raap.pipeline.outlook import Outlook, inputs_of, outlooks, view_of
from m2raap.pipeline.plan import Step, plan
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.pipeline.run_folder import Inputs, earlier_folders, refuse_other_run, write_run
from m2raap.stages.adapt import AdaptStage, is_worker_rank, train_as_worker
from m2raap.stages.shared import warn_of_drawings
from m2raap.stages.tag_signals import tags_folder


@dataclass(frozen=True)
class Options:
    """How a recipe is run; no field changes a result. `first` and `last` are the stages of --from and --until, and
    `allow_refused` is the share of the clips that a stage may lose to missing files."""

    first: str | None = None
    last: str | None = None
    force: bool = False
    share: tuple[int, int] = (1, 1)
    allow_refused: float = 0.05


def make_plan(recipe: Recipe, inputs: Inputs, out: Path) -> list[Step]:
    """The steps of the run. Raises M2raapError for a missing corpus, or tags of other corpora, before any work is done."""
    view = inputs.view(recipe.langs)
    benches = {name: inputs.bench(name, recipe.langs) for name in inputs.benches}
    for arm in arms_of(recipe).values():
        for bench in benches.values() if arm.evaluate.tags else ():
            tags_folder(arm.evaluate.tags, bench)
    return plan(recipe, out, view.digest, {name: bench.digest for name, bench in benches.items()}, earlier_folders(out))


def run(recipe: Recipe, inputs: Inputs, out: Path, engine: Engine, options: Options | None = None) -> bool:
    """Runs the recipe. True when all stages that `options` select are finished; False when shares of other machines are
    missing, or when this process of torchrun takes part in the training only.

    Raises M2raapError while another command, except for one with other --parts, writes into the folder.
    """
    options = options or Options()
    caches = out / "cache" / "prefix"  # outputs of frozen layers, which all arms and seeds share
    if is_worker_rank():
        train_as_worker(lambda folder: _adapt_job(recipe, inputs, out, folder), caches)
        return False
    with locked(out, shared=options.share != (1, 1), written=("run.json", "cache")):
        return _run(recipe, inputs, out, engine, options, caches)


def _run(recipe: Recipe, inputs: Inputs, out: Path, engine: Engine, options: Options, caches: Path) -> bool:
    refuse_other_run(recipe, out, options.force)
    steps = make_plan(recipe, inputs, out)
    refuse_unfinished(steps, options)
    arms = arms_of(recipe)
    _load_backbones(steps_within(steps, options), arms, inputs)
    _warn_of_drawings(steps_within(steps, options), arms, inputs)
    map_path = out / "run.json"
    before = map_path.read_bytes() if map_path.exists() else None
    write_run(recipe, inputs, out, steps)
    for corpus in inputs.corpora.values():
        remember_run(corpus, out)
    finished: set[Path] = set()
    try:
        complete = _run_steps(steps, finished, arms, inputs, engine, options, caches)
    except M2raapError as error:
        did_work = finished or isinstance(error, TooManyRefused | BudgetSpent)
        if before is not None and not did_work:  # then it leaves the map of the run before it
            write_atomic(map_path, before)
        raise
    if complete and caches.is_dir():
        from m2raap.adapt.prefix_cache import drop_caches

        drop_caches(caches)
        if not any(caches.parent.iterdir()):
            caches.parent.rmdir()
    return complete


def _run_steps(
    steps: list[Step],
    finished: set[Path],
    arms: dict[str, Recipe],
    inputs: Inputs,
    engine: Engine,
    options: Options,
    caches: Path,
) -> bool:
    for arm, owner in dict.fromkeys((step.arm, step.owner) for step in steps if step.owner != step.arm):
        shared = dict.fromkeys(step.stage for step in steps if (step.arm, step.owner) == (arm, owner))
        talk.log(f"{arm}: {', '.join(shared)}: those of {owner}")
    for step in steps:
        if step.folder in finished or _after(step.stage, options.last):
            continue
        if options.first and _position(step.stage) < _position(options.first):
            continue
        if step.owner == step.arm:
            talk.log(f"{step.arm}: {step.stage}{f' of {step.bench}' if step.bench else ''}")
        if not _run_step(step, arms[step.arm], inputs, engine, options, caches):
            return False
        finished.add(step.folder)
    return True


def _adapt_job(recipe: Recipe, inputs: Inputs, out: Path, folder: Path) -> tuple[View, AdaptStage, Path | None]:
    """The view that the training in `folder` reads, its configured stage, and the model folder from which it starts."""
    for step in make_plan(recipe, inputs, out):
        arm = arms_of(recipe)[step.arm]
        stage = arm.stage(step.stage, bench=bool(step.bench))
        if step.folder == folder and isinstance(stage, AdaptStage):
            return view_of(step, arm, inputs), stage, step.model and step.model / "model"
    raise M2raapError(
        f"{folder}: the first process of torchrun trains in this folder, but the recipe of this process has no such step; "
        "start all processes with the same command"
    )


def _load_backbones(steps: list[Step], arms: dict[str, Recipe], inputs: Inputs) -> None:
    """Loads every backbone that the run needs once, so that missing weights fail before anything is decoded."""
    for cfg in backbones_of(steps, arms, outlooks(steps, arms, inputs)):
        if cfg.model not in BUILTIN:
            from m2raap.models.families import load_backbone

            load_backbone(cfg)


def backbones_of(steps: list[Step], arms: dict[str, Recipe], states: dict[Path, Outlook]) -> list[BackboneConfig]:
    """The backbones whose weights the steps load that are not done, each once."""
    stages_to_do = [
        arms[step.arm].stage(step.stage, bench=bool(step.bench)) for step in steps if not states[step.folder].is_done
    ]
    by_content = {canonical(cfg): cfg for stage in stages_to_do for cfg in stage.backbones()}
    return [by_content[key] for key in sorted(by_content)]


def _warn_of_drawings(steps: list[Step], arms: dict[str, Recipe], inputs: Inputs) -> None:
    """Warns once where a stage of the run uses the tiny model on corpora other than the synthetic world."""
    models = {
        cfg.model for step in steps for cfg in arms[step.arm].stage(step.stage, bench=bool(step.bench)).backbones()
    }
    for model in sorted(models & BUILTIN.keys()):
        warn_of_drawings(model, *map(View, inputs.corpora.values()))


def steps_within(steps: list[Step], options: Options) -> list[Step]:
    """The steps of a run from `options.first` until `options.last`."""
    first = _position(options.first) if options.first else 0
    return [step for step in steps if first <= _position(step.stage) and not _after(step.stage, options.last)]


def refuse_unfinished(steps: list[Step], options: Options) -> None:
    """Raises M2raapError where a stage before `options.first`, which the run does not make, is not finished."""
    for step in steps:
        is_before = options.first and _position(step.stage) < _position(options.first)
        if is_before and not (step.folder / "manifest.json").exists():
            raise M2raapError(
                f"{step.folder}: this stage is not finished, and --from {options.first} starts after it; leave --from out"
            )


def is_last(last: str | None) -> bool:
    """Whether a run until `last` reaches the end of the stage table, so that a report follows."""
    return last is None or last == list(stages.STAGES)[-1]


def _position(stage: str) -> int:
    return list(stages.STAGES).index(stage)


def _after(stage: str, last: str | None) -> bool:
    return last is not None and _position(stage) > _position(last)


def _run_step(step: Step, recipe: Recipe, inputs: Inputs, engine: Engine, options: Options, caches: Path) -> bool:
    step_inputs = replace(
        inputs_of(step, recipe, inputs),
        engine=engine,
        caches=caches,
        force=options.force,
        share=options.share,
        allow_refused=options.allow_refused,
    )
    return run_stage(recipe.stage(step.stage, bench=bool(step.bench)), step_inputs)
