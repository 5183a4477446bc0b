"""A recipe, carried out: every stage of every arm, each in its folder, then the report over all of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2raap.adapt.config import AdaptConfig
from m2raap.core import talk
from m2raap.core.engine import Engine, available_cores
from m2raap.core.errors import UNREADABLE, M2raapError
from m2raap.core.files import read_json, write_atomic, write_json
from m2raap.core.stage import run_data_stage
from m2raap.core.tables import read_part
from m2raap.core.tombstones import refuse_unfinished
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View
from m2raap.core.whole import Made, run_whole_stage
from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages import STAGES
from m2raap.stages.bank import Bank, make_bank
from m2raap.stages.embed import embed
from m2raap.stages.evaluate import evaluate_folder
from m2raap.stages.filter import with_scores
from m2raap.stages.plan import DATA_STAGE, Step, plan, settings_of
from m2raap.stages.recipe import Recipe, arms_of
from m2raap.stages.source import ViewSource
from m2raap.stages.training_log import training_summary
from m2raap.video.limits import VideoConfig


@dataclass(frozen=True)
class Inputs:
    """The corpora of a run. `data` is the training corpus; benches are by name."""

    data: Path
    benches: dict[str, Path] = field(default_factory=dict)
    limit: int | None = None
    scores: tuple[Path, ...] = ()

    def view(self, langs: tuple[str, ...]) -> View:
        view = View(self.data, langs=langs).limited(self.limit)
        if view.is_benchmark:
            raise M2raapError(
                f"{self.data}: is the benchmark '{view.corpus.benchmark}'; it can be a --bench, never --data"
            )
        return view

    def bench(self, name: str, langs: tuple[str, ...]) -> View:
        view = View(self.benches[name], langs=langs)
        if not view.is_benchmark:
            raise M2raapError(f"{self.benches[name]}: is a training corpus; cut a benchmark out of one with --holdout")
        return view


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

    False too where this process of torchrun only helps to train.
    """
    options = options or Options()
    caches = out / "cache" / "prefix"  # of frozen layers, shared by all arms and seeds
    if helps():
        help_train(lambda folder: _adapt_job(recipe, inputs, out, folder), caches)
        return False
    steps = make_plan(recipe, inputs, out)
    arms = arms_of(recipe)
    _load_backbones(steps, arms, options)
    map_path = out / "run.json"
    before = map_path.read_bytes() if map_path.exists() else None
    _write_run(recipe, inputs, out, steps)
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


def _adapt_job(recipe: Recipe, inputs: Inputs, out: Path, folder: Path) -> tuple[View, Recipe]:
    """View and recipe of the arm that trains in `folder`."""
    arms = arms_of(recipe)
    step = next(step for step in make_plan(recipe, inputs, out) if step.stage == "adapt" and step.folder == folder)
    view = inputs.view(recipe.langs)
    for parent in step.parents:
        view = view.over(parent)
    return view, arms[step.arm]


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
            from m2raap.models.backbone import load_backbone

            load_backbone(cfg)


def _after(stage: str, last: str | None) -> bool:
    return last is not None and STAGES.index(stage) > STAGES.index(last)


def _run_step(step: Step, recipe: Recipe, inputs: Inputs, engine: Engine, options: Options, caches: Path) -> bool:
    if step.bench:
        view = inputs.bench(step.bench, recipe.langs)
        if step.stage == "keyframes":
            settings = (recipe.bench_keyframes or recipe.keyframes).settings()
            stage = DATA_STAGE["keyframes"]
            return run_data_stage(stage, view, settings, step.folder, engine, force=options.force, share=options.share)
        if step.stage == "caption":
            stage, settings = DATA_STAGE["caption"], settings_of(recipe, "caption")
            view = view.over(step.parents[0])
            return run_data_stage(stage, view, settings, step.folder, engine, force=options.force, share=options.share)
        if step.stage == "embed":
            trained = [parent for parent in step.parents if parent.name == "adapt"]
            model = trained[0] / "model" if trained else recipe.backbone
            for parent in step.parents[: len(step.parents) - len(trained)]:
                view = view.over(parent)
            run_embed(view, recipe, model, step.folder, options.force)
        else:
            protocol = view.corpus.benchmark or ""
            run_evaluate(step.parents[0], protocol, recipe.seed, step.folder, options.force, recipe.evaluate)
        return True
    view = inputs.view(recipe.langs)
    for parent in step.parents:
        view = view.over(parent)
    if step.stage == "adapt":
        run_adapt(view, recipe, step.folder, options.force, caches)
        return True
    stage, settings = DATA_STAGE[step.stage], settings_of(recipe, step.stage)
    if step.stage == "filter":
        view = with_scores(view, inputs.scores, settings)
    return run_data_stage(stage, view, settings, step.folder, engine, force=options.force, share=options.share)


def helps() -> bool:
    """Whether this is a process of torchrun other than the first: it runs no stage, says nothing, and helps to train."""
    if "WORLD_SIZE" not in os.environ:
        return False
    from m2raap.adapt.distributed import join

    return not join().leads


def help_train(job_of: Callable[[Path], tuple[View, Recipe]], caches: Path | None = None) -> None:
    """Trains with the first process whatever adapt folder it names, until it ends. `job_of`: what belongs to a folder."""
    from m2raap.adapt.distributed import join

    talk.be_quiet(True)
    while folder := join().next_task():
        view, recipe = job_of(Path(folder))
        _train(recipe.adapt_settings, recipe.keyframes.decode, view, Path(folder), caches)


def run_adapt(view: View, recipe: Recipe, folder: Path, force: bool, caches: Path | None = None) -> None:
    cfg = recipe.adapt_settings

    def work(target: Path) -> Made:
        # A model folder is whole or absent: one that is here was finished by a run that died before it could sign.
        if not (target / "model" / "model.json").exists():
            _train(cfg, recipe.keyframes.decode, view, target, caches)
        shutil.rmtree(target / "scratch", ignore_errors=True)
        files = ["model/model.json", "model/model.safetensors", "train.jsonl"]
        return Made(files, training_summary(target), {"model": read_json(target / "model" / "model.json")["digest"]})

    run_whole_stage("adapt", 1, cfg.model_dump(mode="json"), folder, work, view=view, force=force)


def _train(cfg: AdaptConfig, limits: VideoConfig, view: View, target: Path, caches: Path | None) -> None:
    import torch

    from m2raap.adapt.distributed import join
    from m2raap.adapt.loop import adapt

    team = join()
    torch.set_num_threads(cfg.threads or max(1, available_cores() // team.on_this_machine))
    digests = VideoDigests(target / "cache" / "videos.json")
    source, val = (ViewSource(view, split, limits, digests) for split in ("train", "val"))
    if cfg.train_clips:
        source.draw(cfg.train_clips, cfg.seed)
    if source.num_clips < 2:
        raise M2raapError(
            f"{view.corpus_path}: {source.num_clips} training clips with frames and texts are left; adapt needs at "
            "least 2. 'm2raap status' shows where the others went"
        )
    talk.say(f"adapt: {source.num_clips} training clips, {val.num_clips} for choosing the checkpoint")
    if cfg.input == "video":
        count = cfg.decoders or available_cores()
        talk.say(f"adapt: raw video, decoded anew every epoch in {count} processes; frozen layers have no cache")
        for one in (source, val):  # all bytes are read once; a killed run does not read them again
            for clip in range(one.num_clips):
                one.video_digest(clip)
        if team.leads:
            digests.save()
    if team.leads:
        team.hand_over(str(target))
    with talk.Phases(f"{target.parent.name}/adapt") as phases:
        adapt(cfg, source, val if val.num_clips else None, target, phases, team=team, caches=caches)


def model_folder(path: Path) -> Path:
    """The `model/` folder of an adapt stage, or the folder itself where it holds none."""
    return path / "model" if (path / "model" / "model.json").is_file() else path


def run_embed(view: View, recipe: Recipe, model: Path | BackboneConfig, folder: Path, force: bool) -> None:
    def work(target: Path) -> Made:
        return embed(view, recipe.embed, model, target)

    settings = recipe.embed.model_dump(mode="json")
    run_whole_stage("embed", 2, settings, folder, work, view=view, inputs=_model_input(model), force=force)


def _model_input(model: Path | BackboneConfig) -> dict[str, str]:
    if not isinstance(model, Path):
        return {"model": model.model_dump_json()}
    manifest = model.parent / "manifest.json"
    return {"model": read_json(manifest if manifest.exists() else model / "model.json")["digest"]}


def run_evaluate(
    embedded: Path,
    protocol: str,
    seed: int,
    folder: Path,
    force: bool,
    cfg: EvaluateConfig | None = None,
    bank: Bank | None = None,
) -> None:
    cfg = cfg or EvaluateConfig()

    def work(target: Path) -> Made:
        return evaluate_folder(embedded, protocol, seed, target, cfg, bank)

    inputs = {"embed": read_json(embedded / "manifest.json")["digest"]} | ({"bank": bank.digest} if bank else {})
    settings = {"protocol": protocol, "seed": seed, "rows": cfg.model_dump(mode="json")}
    run_whole_stage("evaluate", 2, settings, folder, work, inputs=inputs, force=force)


def run_bank(view: View, without: list[View], model: Path | BackboneConfig, folder: Path, force: bool) -> None:
    def work(target: Path) -> Made:
        return make_bank(view, without, model, target)

    inputs = _model_input(model) | {f"without{i}": other.digest for i, other in enumerate(without)}
    run_whole_stage("bank", 1, {}, folder, work, view=view, inputs=inputs, force=force)


def _write_run(recipe: Recipe, inputs: Inputs, out: Path, steps: list[Step]) -> None:
    """run.json: the map of the run, for `status`, `explain` and `report`. No stage reads it."""
    here = out.resolve()
    write_json(
        out / "run.json",
        {
            "kind": "run",
            "recipe": recipe.model_dump(mode="json", exclude_unset=True),
            "data": os.path.relpath(inputs.data.resolve(), here),
            "benches": {name: os.path.relpath(path.resolve(), here) for name, path in inputs.benches.items()},
            "limit": inputs.limit,
            "scores": [os.path.relpath(path.resolve(), here) for path in inputs.scores],
            "steps": [
                {
                    "arm": step.arm,
                    "owner": step.owner,
                    "stage": step.stage,
                    "bench": step.bench,
                    "folder": os.path.relpath(step.folder.resolve(), here),
                    "parents": [os.path.relpath(parent.resolve(), here) for parent in step.parents],
                }
                for step in steps
            ],
        },
        sort_keys=False,  # the order of a recipe's arms is the order of its tables
    )


@dataclass(frozen=True)
class RunFolder:
    """A run as it lies on disk."""

    path: Path
    tree: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Raises M2raapError where there is no run."""
        refuse_unfinished(path)
        if not (path / "run.json").exists():
            raise M2raapError(f"{path}: holds no run (no run.json); it is the --out of 'm2raap run'")
        return cls(path, read_json(path / "run.json"))

    def resolve(self, relative: str) -> Path:
        return Path(os.path.normpath(self.path / relative))

    @property
    def inputs(self) -> Inputs:
        benches = {name: self.resolve(path) for name, path in self.tree["benches"].items()}
        return Inputs(
            self.resolve(self.tree["data"]), benches, self.tree["limit"], tuple(map(self.resolve, self.tree["scores"]))
        )

    @property
    def steps(self) -> list[Step]:
        return [
            Step(
                row["arm"], row["owner"], row["stage"], row["bench"], self.resolve(row["folder"]),
                tuple(self.resolve(parent) for parent in row["parents"]),
            )
            for row in self.tree["steps"]
        ]  # fmt: skip

    def arms(self) -> list[str]:
        return list(dict.fromkeys(row["arm"] for row in self.tree["steps"]))


def unreadable_share(run: RunFolder) -> tuple[int, int]:
    """(clips that could not be read, all clips) over the training corpus and the benchmarks, each clip once."""
    unreadable: set[tuple[str | None, str]] = set()
    total = View(run.inputs.data).corpus.counts["clips"] if run.inputs.limit is None else run.inputs.limit
    total += sum(View(path).corpus.counts["clips"] for path in run.inputs.benches.values())
    for step in {step.folder: step for step in run.steps if step.stage in ("filter", "keyframes")}.values():
        for table in ("dropped", "missing"):
            for path in sorted((step.folder / table).glob("part-*.parquet")):
                for row in read_part(step.folder, table, int(path.stem.removeprefix("part-"))):
                    if row["reason"] in UNREADABLE:
                        unreadable.add((step.bench, row["clip_id"]))
    return len(unreadable), total
