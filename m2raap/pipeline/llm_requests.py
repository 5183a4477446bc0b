"""What the models of a run are asked: the requests as Batch files, and the answers back."""

from __future__ import annotations

from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.core.lock import locked
from m2raap.curate.llm.ask import pending
from m2raap.curate.llm.batch import Imported, export_requests, import_answers
from m2raap.curate.llm.cache import FILE, Cache
from m2raap.curate.llm.endpoint import EndpointConfig
from m2raap.curate.llm.prompts import load_prompt
from m2raap.curate.llm.schema import Request
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.pipeline.run_folder import RunFolder
from m2raap.stages.caption import CaptionStage
from m2raap.stages.llm import cache_path
from m2raap.stages.rewrite import RewriteStage


def export(run: Path, stage: str, out: Path) -> tuple[int, list[str]]:
    """Writes what a stage of a run still has to ask its endpoint; (number of requests, arms that ask).

    Raises M2raapError where the stage asks nobody, or the stages before it are not finished.
    """
    folder = RunFolder.open(run)
    arms = arms_of(folder.recipe)
    steps = [step for step in folder.steps if step.stage == stage and not step.bench and step.owner == step.arm]
    asking = [step for step in steps if _endpoint_of(arms[step.arm], stage)]
    if not asking:
        raise M2raapError(f"{run}: no arm has a stage {stage} that asks an endpoint ({stage}.name: endpoint)")
    requests: dict[str, Request] = {}
    with locked(run, shared=True, written=("cache",)):
        cache = Cache(folder.path.resolve() / "cache" / FILE)
        for step in asking:
            assert cache_path(step.folder) == cache.path, "a stage below a run uses the run's answers"
            requests |= {request.key: request for request in _requests(folder, step, arms[step.arm], cache)}
        return export_requests(list(requests.values()), out, cache), [step.arm for step in asking]


def _endpoint_of(recipe: Recipe, stage: str) -> EndpointConfig | None:
    """What a stage asks over HTTP, if it asks anybody so."""
    return getattr(recipe.stage(stage).cfg, "endpoint", None)


def _requests(folder: RunFolder, step: Step, recipe: Recipe, cache: Cache) -> list[Request]:
    view = folder.inputs.view(recipe.langs)
    for parent in step.parents:
        if not (parent / "manifest.json").exists():
            raise M2raapError(
                f"{parent}: is not finished, and {step.stage} reads it; run up to it first (m2raap run ... --until {parent.name})"
            )
        view = view.over(parent)
    stage = recipe.stage(step.stage)
    assert isinstance(stage, RewriteStage | CaptionStage), "only these ask an endpoint"
    stage.folder = step.folder
    repair = load_prompt("repair", stage.cfg.prompts)
    return [
        request for part in view.parts(stage.tables) for request in pending(stage.requests(part, view), cache, repair)
    ]


def take_in(run: Path, answers: Path) -> Imported:
    """Puts the answers of a Batch file into a run's cache."""
    folder = RunFolder.open(run)
    with locked(run, shared=True, written=("cache",)):
        return import_answers(answers, Cache(folder.path.resolve() / "cache" / FILE))
