"""A recipe, carried out: every stage of every arm, each in its folder, then the report over all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2raap.adapt.config import AdaptConfig
from m2raap.core import talk
from m2raap.core.engine import Engine
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.core.lock import locked
from m2raap.core.stage import run_data_stage
from m2raap.core.view import View
from m2raap.models.builtin import BUILTIN
from m2raap.pipeline.plan import DATA_STAGE, Step, plan, settings_of
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.pipeline.run_folder import Inputs, write_run
from m2raap.stages import STAGES
from m2raap.stages.filter import with_scores
from m2raap.stages.train import is_worker_rank, run_adapt, train_as_worker
from m2raap.stages.whole import run_embed, run_evaluate
from m2raap.video.limits import VideoConfig


@dataclass(frozen=True)
class Options:
    """How to run, not what: nothing here may change a result."""

    first: str | None = None
    last: str | None = None
    force: bool = False
    share: tuple[int, int] = (1, 1)


def make_plan(recipe: Recipe, inputs: Inputs, out: Path) -> list[Step]:
    """Opens the corpora (so that what is missing is said before any work) and lays out the steps."""
    view = inputs.view(recipe.langs)
    benches = {name: inputs.bench(name, recipe.langs).digest for name in inputs.benches}
    return plan(recipe, out, view.digest, benches)


def run(recipe: Recipe, inputs: Inputs, out: Path, engine: Engine, options: Options | None = None) -> bool:
    """Carries out the recipe; True when everything that was asked for is finished (False: other --parts are missing).

    False too where this process of torchrun only helps to train. Raises M2raapError where another run of this folder is at
    work (other shares excepted).
    """
    options = options or Options()
    caches = out / "cache" / "prefix"  # of frozen layers, shared by all arms and seeds
    if is_worker_rank():
        train_as_worker(lambda folder: _adapt_job(recipe, inputs, out, folder), caches)
        return False
    with locked(out, shared=options.share != (1, 1), written=("run.json", "cache")):
        return _run(recipe, inputs, out, engine, options, caches)


def _run(recipe: Recipe, inputs: Inputs, out: Path, engine: Engine, options: Options, caches: Path) -> bool:
    steps = make_plan(recipe, inputs, out)
    arms = arms_of(recipe)
    _load_backbones(steps, arms, options)
    map_path = out / "run.json"
    before = map_path.read_bytes() if map_path.exists() else None
    write_run(recipe, inputs, out, steps)
    done: set[Path] = set()
    try:
        complete = _run_steps(steps, done, arms, inputs, engine, options, caches)
    except M2raapError:
        if before is not None and not done:  # a run that was refused leaves the map of the one that is here
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
    done: set[Path],
    arms: dict[str, Recipe],
    inputs: Inputs,
    engine: Engine,
    options: Options,
    caches: Path,
) -> bool:
    for step in steps:
        if step.folder in done or _after(step.stage, options.last):
            continue
        if options.first and STAGES.index(step.stage) < STAGES.index(options.first):
            if not (step.folder / "manifest.json").exists():
                raise M2raapError(
                    f"{step.folder}: is not finished, and --from {options.first} starts after it; leave --from out"
                )
            continue
        if step.owner == step.arm:
            talk.say(f"{step.arm}: {step.stage}{f' of {step.bench}' if step.bench else ''}")
        if not _run_step(step, arms[step.arm], inputs, engine, options, caches):
            return False
        done.add(step.folder)
    return True


def _adapt_job(recipe: Recipe, inputs: Inputs, out: Path, folder: Path) -> tuple[View, AdaptConfig, VideoConfig]:
    """What the arm that trains in `folder` reads, its settings, and the limits of its decoder."""
    step = next(step for step in make_plan(recipe, inputs, out) if step.stage == "adapt" and step.folder == folder)
    arm = arms_of(recipe)[step.arm]
    return _view(step, arm, inputs), arm.adapt_settings, arm.keyframes.decode


def _load_backbones(steps: list[Step], arms: dict[str, Recipe], options: Options) -> None:
    """Weights that cannot be had are said before anything is decoded, not hours later."""
    needed = {
        arms[step.arm].backbone.model_dump_json(): arms[step.arm].backbone
        for step in steps
        if step.stage in ("align", "caption", "adapt", "embed")
        and not _after(step.stage, options.last)
        and not (step.folder / "manifest.json").exists()
    }
    for _, cfg in sorted(needed.items()):
        if cfg.model not in BUILTIN:
            from m2raap.models.families import load_backbone

            load_backbone(cfg)


def _after(stage: str, last: str | None) -> bool:
    return last is not None and STAGES.index(stage) > STAGES.index(last)


def _run_step(step: Step, recipe: Recipe, inputs: Inputs, engine: Engine, options: Options, caches: Path) -> bool:
    view = _view(step, recipe, inputs)
    if step.stage == "adapt":
        run_adapt(view, recipe.adapt_settings, recipe.keyframes.decode, step.folder, options.force, caches)
        return True
    if step.stage == "embed":
        trained = [parent / "model" for parent in step.parents if parent.name == "adapt"]
        run_embed(view, recipe.embed, trained[0] if trained else recipe.backbone, step.folder, options.force)
        return True
    if step.stage == "evaluate":
        protocol = view.corpus.benchmark or ""
        run_evaluate(step.parents[0], protocol, recipe.seed, step.folder, options.force, recipe.evaluate)
        return True
    stage, settings = DATA_STAGE[step.stage], settings_of(recipe, step.stage, bench=bool(step.bench))
    if step.stage == "filter":
        view = with_scores(view, inputs.scores, settings)
    return run_data_stage(stage, view, settings, step.folder, engine, force=options.force, share=options.share)


def _view(step: Step, recipe: Recipe, inputs: Inputs) -> View:
    """What the step reads: its corpus, and over it what the data stages before it added or dropped."""
    view = inputs.bench(step.bench, recipe.langs) if step.bench else inputs.view(recipe.langs)
    for parent in step.parents:
        if parent.name in DATA_STAGE:
            view = view.over(parent)
    return view
