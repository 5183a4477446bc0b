"""Measures what the data stages of a run need: a few clips of each corpus pass the unfinished ones in a temporary folder.

Nothing is downloaded, no request is sent, and no weights are loaded except those in the package.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.folder import read_timings
from m2raap.core.runner import run_stage
from m2raap.core.signed import is_finished
from m2raap.core.stage import DataStage, StepInputs
from m2raap.core.view import View
from m2raap.models.builtin import BUILTIN
from m2raap.pipeline.outlook import Outlook
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run_folder import Inputs
from m2raap.stages.llm import model_of

SAMPLE_CLIPS = 8  # number of clips of each corpus that are measured


@dataclass(frozen=True)
class Sample:
    """What a stage needed in one process, or why it was not measured.

    `core_s` and `num_bytes` are for the sampled clips; `fixed_s` and `fixed_bytes` for the parts of the corpus, in most of which
    no sampled clip lies, and for the folder: however many clips there are, they are needed once.
    """

    clips: int
    core_s: float = 0.0
    num_bytes: float = 0.0
    fixed_s: float = 0.0
    fixed_bytes: float = 0.0
    note: str = ""

    def seconds_for(self, clips: int) -> float:
        """Core seconds for so many clips of the corpus."""
        return self.fixed_s + self.core_s * clips / self.clips

    def bytes_for(self, clips: int) -> float:
        """Bytes on disk for so many clips of the corpus."""
        return self.fixed_bytes + self.num_bytes * clips / self.clips


def measure(
    steps: list[Step], arms: dict[str, Recipe], inputs: Inputs, scratch: Path, states: dict[Path, Outlook]
) -> tuple[dict[Path, Sample], dict[Path, Path | None]]:
    """Runs every unfinished data stage on a few clips, over the output of the stages before it.

    Returns folder -> measurement, and folder -> the folder with its output: for the sample, or its own where it is finished.
    """
    samples: dict[Path, Sample] = {}
    outputs: dict[Path, Path | None] = {}  # folder of a step -> folder with its output for the sample, if there is one
    for number, step in enumerate(steps):
        arm = arms[step.arm]
        stage = arm.stage(step.stage, bench=bool(step.bench))
        if not isinstance(stage, DataStage):
            continue
        if states[step.folder].is_done:
            outputs[step.folder] = step.folder
            continue
        for parent in step.parents:  # those that --from leaves out
            outputs.setdefault(parent, parent if is_finished(parent) else None)
        view = _sampled(step, arm, inputs)
        for parent in step.parents:
            if folder := outputs.get(parent):
                view = view.over(folder)
        lacking = [parent.name for parent in step.parents if parent.name in stage.needs and not outputs.get(parent)]
        target = scratch / str(number) / step.stage
        scores = () if step.bench else inputs.scores
        if lacking:
            samples[step.folder] = Sample(0, note=f"not measured, because {lacking[0]} was not")
        else:
            with talk.quietly():
                samples[step.folder] = _measured(_offline(stage), view, scores, target)
        outputs[step.folder] = None if samples[step.folder].note else target
    return samples, outputs


def _sampled(step: Step, recipe: Recipe, inputs: Inputs) -> View:
    if step.bench:
        return inputs.bench(step.bench, recipe.langs).limited(SAMPLE_CLIPS)
    return inputs.view(recipe.langs).limited(min(SAMPLE_CLIPS, inputs.limit or SAMPLE_CLIPS))


def _offline(stage: DataStage[Any]) -> DataStage[Any]:
    """The stage without permission to download videos."""
    remote = getattr(stage.cfg, "remote", None)
    if remote is None:
        return stage
    cfg = stage.cfg.model_copy(update={"remote": remote.model_copy(update={"allow_remote": False})})
    return type(stage)(cfg, stage.shared)


def _measured(stage: DataStage[Any], view: View, scores: tuple[Path, ...], target: Path) -> Sample:
    clips_in = {part.index: len(part.clips) for part in view.parts(())}
    clips = sum(clips_in.values())
    if model_of(stage.cfg):
        return Sample(clips, note="not measured: it asks a model")
    if missing := [cfg.model for cfg in stage.backbones() if cfg.model not in BUILTIN]:
        return Sample(clips, note=f"not measured: it needs the weights of {missing[0]}")
    if not clips:
        return Sample(clips, note="not measured: no clip of the sample is left")
    engine = LocalEngine(1)
    try:
        # Run on one clip first, so that the measurement does not include loading and starting things once.
        run_stage(stage, StepInputs(view.limited(1), target.parent / "first", engine, scores=scores))
        start = time.monotonic()
        run_stage(stage, StepInputs(view, target, engine, scores=scores))
        seconds = time.monotonic() - start
    except M2raapError as error:
        return Sample(clips, note=f"not measured: {error}")
    finally:
        engine.close()
    occupied = {part for part, number in clips_in.items() if number}
    files = [path for path in target.rglob("*") if path.is_file()]
    num_bytes = sum(path.stat().st_size for path in files)
    in_part = [(int(name[1]), path.stat().st_size) for path in files if (name := _OF_PART.search(path.name))]
    timings = [(row["part"], row["seconds"]) for row in read_timings(target) if "part" in row]
    clips_s, clips_bytes = _of_clips(timings, occupied, view.num_parts), _of_clips(in_part, occupied, view.num_parts)
    if len(occupied) == view.num_parts:  # nothing tells what an empty part needs
        clips_s, clips_bytes = seconds, num_bytes
    return Sample(clips, clips_s, clips_bytes, seconds - clips_s, num_bytes - clips_bytes)


_OF_PART = re.compile(r"-(\d{5,7})\.\w+$")


def _of_clips(rows: Iterable[tuple[int, float]], occupied: set[int], num_parts: int) -> float:
    """What the parts with sampled clips need more than as many empty ones. `rows`: (part, seconds or bytes)."""
    whole = empty = 0.0
    for part, value in rows:
        whole, empty = (whole + value, empty) if part in occupied else (whole, empty + value)
    return max(0.0, whole - empty * len(occupied) / max(num_parts - len(occupied), 1))
