"""What the models of a run are asked: the requests as Batch files, the answers back, and what they will cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from m2raap.stages.llm import cache_path
from m2raap.stages.rewrite import RewriteStage

GPU_FLOPS = 1.2e14  # a 300-TFLOP/s card in bf16 at 40%: reading prompts
GPU_BYTES = 1.0e12  # bytes a second of weights that it reads: writing answers
ANSWERS_AT_ONCE = 32  # sequences that share one reading of the weights
# Of an ordinary caption, a picture, an answer in one language; English and Chinese come out alike.
TOKENS_A_CAPTION, TOKENS_A_PICTURE, TOKENS_AN_ANSWER = 24, 400, 40


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
        request for part in view.parts(stage.reads) for request in pending(stage.requests(part, view), cache, repair)
    ]


def take_in(run: Path, answers: Path) -> Imported:
    """Puts the answers of a Batch file into a run's cache."""
    folder = RunFolder.open(run)
    with locked(run, shared=True, written=("cache",)):
        return import_answers(answers, Cache(folder.path.resolve() / "cache" / FILE))


def model_costs(arms: Mapping[str, Recipe], clips: int, texts: int, steps: Mapping[Path, Step]) -> list[dict[str, Any]]:
    """One row for every stage that asks a model, of upper bounds; `line` says it to people. Nothing is loaded or sent."""
    rows = []
    for step in steps.values():
        recipe = arms[step.arm]
        if step.stage not in ("caption", "rewrite") or step.owner != step.arm:
            continue
        asked = _asked_by_caption(recipe, clips) if step.stage == "caption" else _asked_by_rewrite(recipe, clips, texts)
        if asked is not None:
            model, requests, tokens_in, tokens_out = asked
            row = {"arm": step.arm, "stage": step.stage} | _cost(model, requests, tokens_in, tokens_out)
            size = f" (size not in its name: {row['assumed_size']} assumed)" if row["assumed_size"] else ""
            row["line"] = (
                f"{step.arm}/{step.stage} asks {model} at most {requests:,} times: about {row['tokens_in']:,} tokens in, "
                f"{row['tokens_out']:,} out, {row['gpu_hours']:.3g} h of one 300-TFLOP/s GPU{size}"
            )
            rows.append(row)
    return rows


def _asked_by_caption(recipe: Recipe, clips: int) -> tuple[str, int, float, float] | None:
    cfg = recipe.caption
    requests = clips * min(cfg.frames or recipe.keyframes.k, recipe.keyframes.k)
    if cfg.transformers:
        return cfg.transformers.model, requests, TOKENS_A_PICTURE, min(TOKENS_AN_ANSWER, cfg.transformers.max_tokens)
    if cfg.endpoint:
        prompt = len(load_prompt("describe", cfg.prompts).text) / 4
        written = min(TOKENS_AN_ANSWER * len(recipe.langs), cfg.endpoint.max_tokens)
        return cfg.endpoint.model, requests, prompt + TOKENS_A_PICTURE, written
    return None


def _asked_by_rewrite(recipe: Recipe, clips: int, texts: int) -> tuple[str, int, float, float] | None:
    cfg = recipe.rewrite
    model = cfg.endpoint or cfg.local
    if model is None:
        return None
    captioned = (
        min(recipe.caption.frames or recipe.keyframes.k, recipe.keyframes.k) if "caption" in recipe.stages else 0
    )
    prompt = len(load_prompt("rewrite", cfg.prompts).text) / 4
    tokens_in = prompt + TOKENS_A_CAPTION * (2 + captioned)
    return model.model, max(texts, clips), tokens_in, min(TOKENS_AN_ANSWER * len(recipe.langs), model.max_tokens)


def _cost(model: str, requests: int, tokens_in: float, tokens_out: float) -> dict[str, Any]:
    """Arithmetic from the size that the model's name states, else 7B."""
    stated = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", model.lower())
    weights = float(stated[1] if stated else 7.0) * 1e9
    seconds = requests * (2 * weights * tokens_in / GPU_FLOPS + tokens_out * 2 * weights / GPU_BYTES / ANSWERS_AT_ONCE)
    return {
        "model": model,
        "requests": requests,
        "tokens_in": round(requests * tokens_in),
        "tokens_out": round(requests * tokens_out),
        "gpu_hours": seconds / 3600,
        "assumed_size": None if stated else "7B",
    }
