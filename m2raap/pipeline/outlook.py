"""What a run would do with each of its stage folders, by the comparison that the run itself makes before a stage's work.

`run` uses it to load the models that it needs, `run --dry-run` to say what is done, what is redone, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from m2raap.core.engine import LocalEngine
from m2raap.core.folder import begun_plan
from m2raap.core.part_work import phase_digest
from m2raap.core.plan_changes import changes
from m2raap.core.scores import PAIR_SIGNALS
from m2raap.core.signed import absent_files, is_finished
from m2raap.core.stage import DataStage, Stage, StepInputs
from m2raap.core.view import View
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run_folder import Inputs
from m2raap.stages import data_stages


@dataclass(frozen=True)
class Outlook:
    """What a run would do with a stage folder. `reason`: what differs, or which stage is made before; '' where nothing is there.

    `reused` says what of a folder that is redone is kept: the scores of all clips, so that only decisions are repeated, or the
    scores of the clips that have not changed.
    """

    state: Literal["done", "to do", "resume", "redo"]
    reason: str = ""
    reused: Literal["", "scores", "unchanged clips"] = ""

    @property
    def is_done(self) -> bool:
        return self.state == "done"


def outlooks(steps: list[Step], arms: dict[str, Recipe], inputs: Inputs) -> dict[Path, Outlook]:
    """The outlook of every stage folder of the steps, which are in the order in which they run.

    Raises M2raapError for inputs that the run would refuse, such as files of scores that do not fit the corpus.
    """
    known: dict[Path, Outlook] = {}
    for step in steps:
        if step.folder not in known:
            known[step.folder] = _outlook(step, arms[step.arm], inputs, known)
    return known


def _outlook(step: Step, recipe: Recipe, inputs: Inputs, known: dict[Path, Outlook]) -> Outlook:
    stage = recipe.stage(step.stage, bench=bool(step.bench))
    # A stage before the first step of the run is not in `known`: it has to be finished.
    before = [folder for folder in (*step.parents, step.model, step.signals) if folder and not _is_done(folder, known)]
    new = None if before else stage.plan(inputs_of(step, recipe, inputs))
    old = begun_plan(step.folder, new["num_parts"] if new else 0)
    if old is None:
        return Outlook("to do")
    if new is None:  # its inputs are not known yet
        unknown_inputs = {"stage": stage.name, "version": stage.version, "settings": stage.settings(), "inputs": None}
        first = known.get(before[0])
        why = "is redone" if first and first.state == "redo" else "is not done"
        return Outlook("redo", f"{before[0].name} before it {why}", _reused(stage, old, unknown_inputs))
    if old == new:
        if not (step.folder / "manifest.json").exists():
            return Outlook("resume")
        lost = absent_files(step.folder)
        return Outlook("redo", f"{lost[0]} is missing", _reused(stage, old, new)) if lost else Outlook("done")
    return Outlook("redo", changes(old, new), _reused(stage, old, new))


def _is_done(folder: Path, known: dict[Path, Outlook]) -> bool:
    return known[folder].is_done if folder in known else is_finished(folder)


def _reused(
    stage: Stage[Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> Literal["", "scores", "unchanged clips"]:
    """What a stage keeps of a folder that has the plan `old`, for the plan `new`."""
    if not isinstance(stage, DataStage) or not isinstance(old.get("settings"), dict):
        return ""
    scored = [phase_digest(p.get("stage", ""), p.get("version", 0), "score", p["settings"]) for p in (old, new)]
    if scored[0] != scored[1]:
        return ""
    return "scores" if old.get("inputs") == new["inputs"] else "unchanged clips"


def inputs_of(step: Step, recipe: Recipe, inputs: Inputs) -> StepInputs:
    """The inputs of a step, without what says how it is run."""
    return StepInputs(
        view=view_of(step, recipe, inputs),
        folder=step.folder,
        engine=LocalEngine(1),
        parents=step.parents,
        model=step.model and step.model / "model",
        scores=() if step.bench else (*inputs.scores, *([step.signals / PAIR_SIGNALS] if step.signals else [])),
    )


def view_of(step: Step, recipe: Recipe, inputs: Inputs) -> View:
    """What the step reads: its corpus, with the folders of the data stages before it."""
    view = inputs.bench(step.bench, recipe.langs) if step.bench else inputs.view(recipe.langs)
    for parent in step.parents:
        if parent.name in data_stages():
            view = view.over(parent)
    return view
