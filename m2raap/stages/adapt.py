"""adapt as a stage: trains on the clips of a view and writes a model folder, in one process or in all that torchrun started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from m2raap.adapt.config import AdaptConfig
from m2raap.core import talk
from m2raap.core.engine import torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.files import files_below
from m2raap.core.folder import plan_of
from m2raap.core.records import ModelJson, Plan, read_record
from m2raap.core.scores import PAIR_SIGNALS
from m2raap.core.split import open_tables, read_splits
from m2raap.core.stage import SingleStage, StepInputs
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.models.config import BackboneConfig
from m2raap.stages.embedder import model_input
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.shared import SHARED_KEYS, Shared
from m2raap.stages.source import ViewSource, drawn
from m2raap.stages.training_log import kept_text, training_summary
from m2raap.video.limits import VideoConfig

if TYPE_CHECKING:
    from m2raap.adapt.modalities import Modalities


def is_worker_rank() -> bool:
    """Whether this is a process of torchrun other than the first: such a process only trains, and prints nothing."""
    if "WORLD_SIZE" not in os.environ:
        return False
    from m2raap.adapt.distributed import join

    return not join().is_main


def train_as_worker(job_of: Callable[[Path], tuple[View, AdaptStage, Path | None]], caches: Path | None = None) -> None:
    """Trains, together with the first process, the adapt folders that it names, until it ends.

    `job_of` returns the view and the stage of a folder, and the model folder from which it starts, if any.
    """
    from m2raap.adapt.distributed import join

    talk.be_quiet(True)
    while folder := join().next_task():
        view, stage, start = job_of(Path(folder))
        _train(stage.cfg, stage.shared.decode, view, Path(folder), caches, start)


class AdaptStage(SingleStage[AdaptConfig]):
    """Train a temporal module on an image-text backbone."""

    name = "adapt"
    config = AdaptConfig
    version = 4
    needs = (KeyframesStage.name,)

    def __init__(self, cfg: AdaptConfig, shared: Shared | None = None) -> None:
        """Without `shared`, its keys are taken from `cfg`."""
        shared = shared or Shared(**{key: getattr(cfg, key) for key in SHARED_KEYS})
        super().__init__(cfg.model_copy(update={key: getattr(shared, key) for key in SHARED_KEYS}), shared)

    def backbones(self) -> list[BackboneConfig]:
        return [self.shared.backbone]

    @property
    def writes_signals(self) -> bool:
        return self.cfg.harmonize is not None

    def plan(self, step: StepInputs) -> Plan:
        inputs = model_input(step.model) if step.model else None
        return plan_of(self.name, self.version, step.view, self.settings(), inputs)

    def run(self, step: StepInputs) -> bool:
        self.run_on(step.view, step.folder, step.force, step.caches, step.model)
        return True

    def run_on(
        self, view: View, folder: Path, force: bool = False, caches: Path | None = None, start: Path | None = None
    ) -> None:
        """Trains on a view's clips into `folder`/model, from the backbone or from the model folder `start`."""

        def work(target: Path) -> StageOutput:
            # A model folder is complete or absent: this one was finished by a run that ended before it wrote its manifest.
            if (target / "model" / "model.json").exists():
                _refuse_lost_log(target, force)
            if not (target / "model" / "model.json").exists():
                _train(self.cfg, self.shared.decode, view, target, caches, start)
            shutil.rmtree(target / "scratch", ignore_errors=True)
            files = [*files_below(target, "model"), "train.jsonl"]
            files += [PAIR_SIGNALS] if self.writes_signals else []
            digest = read_record(ModelJson, target / "model" / "model.json")["digest"]
            return StageOutput(files, training_summary(target), {"model": digest})

        inputs = model_input(start) if start else None
        run_single_stage(self.name, self.version, self.settings(), folder, work, view=view, inputs=inputs, force=force)


def _refuse_lost_log(target: Path, force: bool) -> None:
    """Raises M2raapError where a finished model has no log of its training; with `force` the model is removed."""
    try:
        training_summary(target)
    except M2raapError as error:
        if not force:
            raise M2raapError(
                f"{error}; without its log the model cannot be reported: train again with --force"
            ) from None
        shutil.rmtree(target / "model")
        (target / "train.jsonl").unlink(missing_ok=True)


def _sources(
    cfg: AdaptConfig, limits: VideoConfig, view: View, target: Path, digests: VideoDigests, is_main: bool
) -> list[ViewSource]:
    """The training and the val clips, drawn as the settings say. The main process reads them; all map what it has written."""
    folders = {split: target / "scratch" / "tables" / split for split in ("train", "val")}
    if is_main:
        most = {"train": cfg.train_clips, "val": cfg.val_clips}
        for split, tables in zip(folders, read_splits(view, list(folders)), strict=True):
            count = most[split]
            (drawn(tables, count, cfg.seed) if count else tables).save(folders[split])
    sources = [ViewSource(view, split, limits, digests, open_tables(folder)) for split, folder in folders.items()]
    if cfg.loss.clip_sound.weight:
        sources[0].senses = _sound(view, sources[0], target / "scratch" / "senses", is_main)
    return sources


def _sound(view: View, source: ViewSource, folder: Path, is_main: bool) -> Modalities:
    """The sound of the clips, which the main process writes and all map."""
    from m2raap.adapt.modalities import open_modalities
    from m2raap.stages.senses import write_once, write_senses

    def write(target: Path) -> None:
        parts = source.tables.clips["part"].to_numpy()
        write_senses(view, source.clip_ids, parts, ("sound",), target, "set adapt.loss.clip_sound to 0")

    if is_main:
        write_once(folder, source.digest, write)
    return open_modalities(folder, ["sound"])


def _train(
    cfg: AdaptConfig, limits: VideoConfig, view: View, target: Path, caches: Path | None, start: Path | None
) -> None:
    import torch

    from m2raap.adapt.distributed import join
    from m2raap.adapt.loop import adapt
    from m2raap.adapt.readers import video_decoders

    dist_context = join()
    torch.set_num_threads(cfg.threads or torch_threads(dist_context.local_world_size))
    digests = VideoDigests(target / "cache" / "videos.json")
    source, val = _sources(cfg, limits, view, target, digests, dist_context.is_main)
    if source.num_clips < 2:
        raise M2raapError(
            f"{view.corpus_path}: {source.num_clips} training clips with frames and texts are left, but adapt needs at "
            "least 2; 'm2raap status' shows which stage dropped the others"
        )
    talk.log(f"adapt: {source.num_clips} training clips, {val.num_clips} for choosing the checkpoint")
    if not val.num_clips and cfg.keep == "best":
        talk.log("adapt: no clip has the split val, so that adapt.keep=best keeps the last step")
    if cfg.input == "video":
        count = video_decoders(cfg, dist_context.local_world_size)
        talk.log(f"adapt: raw video, decoded again every epoch in {count} processes; frozen layers have no cache")
        for split in (source, val):  # reads every file once; a run that resumes does not read them again
            for clip in range(split.num_clips):
                split.video_digest(clip)
        if dist_context.is_main:
            digests.save()
    if dist_context.is_main:
        dist_context.send_task(str(target))
    title = talk.title(target, "adapt")
    with talk.Phases(title) as phases:
        adapt(
            cfg,
            source,
            val if val.num_clips else None,
            target,
            phases,
            dist_context=dist_context,
            caches=caches,
            start=start,
        )
    if dist_context.is_main:
        talk.log(f"{title}: {kept_text(training_summary(target))}")
