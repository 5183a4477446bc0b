"""The requests of a run to language models: whether its budgets suffice for them, as Batch files, and the answers to those
files (`run --dry-run`, `run --requests`, `run --answers`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
from m2raap.stages.llm import budget_of, cache_path
from m2raap.stages.rewrite import RewriteStage


def export_stage(run: Path, stage: str, out: Path) -> tuple[int, list[str]]:
    """Writes the requests of a stage that have no answer yet to a Batch file; (number of requests, arms that send them).

    Raises M2raapError where the stage sends no requests, or the stages before it are not finished.
    """
    folder = RunFolder.open(run)
    arms = arms_of(folder.recipe)
    steps = [step for step in folder.steps if step.stage == stage and not step.bench and step.owner == step.arm]
    with_endpoint = [step for step in steps if _endpoint_of(arms[step.arm], stage)]
    if not with_endpoint:
        raise M2raapError(
            f"{run}: no arm has the stage {stage} with an endpoint ({stage}.name: endpoint in the recipe)"
        )
    requests: dict[str, Request] = {}
    with locked(run, shared=True, written=("cache",)):
        cache = Cache(folder.path.resolve() / "cache" / FILE)
        for step in with_endpoint:
            assert cache_path(step.folder) == cache.path, "the stages of a run share one cache of answers"
            requests |= {request.key: request for request in _requests(folder, step, arms[step.arm], cache)}
        return export_requests(list(requests.values()), out, cache), [step.arm for step in with_endpoint]


def scarce_budgets(rows: Iterable[Mapping[str, Any]], arms: Mapping[str, Recipe]) -> list[str]:
    """A line for every limit of a budget that is below the estimate. `rows`: dicts with arm, stage, requests (the largest
    number), tokens_in and tokens_out (their likely sums)."""
    lines = []
    for row in rows:
        if (model := budget_of(arms[row["arm"]].stage(row["stage"]).cfg)) is None:
            continue
        key, budget = model
        requests, tokens_in, tokens_out = row["requests"], row["tokens_in"], row["tokens_out"]
        estimates = (requests, tokens_in + tokens_out, budget.cost(tokens_in, tokens_out))
        names = ("max_requests", "max_tokens", "max_cost")
        lines += [
            f"{row['arm']}/{row['stage']} may need {estimate:,.10g} and {row['stage']}.{key}.{name} is {limit:,.10g}: where it "
            "is spent, the stage stops unfinished (exit code 3), and the same command with a higher budget goes on"
            for name, limit, estimate in zip(names, budget.limits, estimates, strict=True)
            if estimate > limit
        ]
    return lines


def _endpoint_of(recipe: Recipe, stage: str) -> EndpointConfig | None:
    """The server that a stage sends its requests to, if it has one."""
    return getattr(recipe.stage(stage).cfg, "endpoint", None)


def _requests(folder: RunFolder, step: Step, recipe: Recipe, cache: Cache) -> list[Request]:
    view = folder.inputs.view(recipe.langs)
    for parent in step.parents:
        if not (parent / "manifest.json").exists():
            raise M2raapError(
                f"{parent}: this stage is not finished, and {step.stage} reads its output; run it first (m2raap run ... "
                f"--until {parent.name})"
            )
        view = view.over(parent)
    stage = recipe.stage(step.stage)
    assert isinstance(stage, RewriteStage | CaptionStage), "only these stages have an endpoint"
    stage.folder = step.folder
    repair = load_prompt("repair", stage.cfg.prompts)
    return [
        request for part in view.parts(stage.tables) for request in pending(stage.requests(part, view), cache, repair)
    ]


def import_into(run: Path, answers: Path) -> Imported:
    """Reads the answers of a Batch file into a run's cache. Raises M2raapError naming file and line of what is none."""
    folder = RunFolder.open(run)
    with locked(run, shared=True, written=("cache",)):
        return import_answers(answers, Cache(folder.path.resolve() / "cache" / FILE))
