"""`run --dry-run`: the steps of a run and their estimated cost: disk, core time, requests to models, training.

Core time and bytes are measured on a few clips (pipeline/sample.py). Filters drop clips, so all counts are upper bounds.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from m2raap.core.config import digest
from m2raap.core.engine import available_cores
from m2raap.core.errors import M2raapError
from m2raap.core.split import read_splits
from m2raap.core.stage import Stage
from m2raap.core.view import View
from m2raap.curate.llm.client import HttpBackend
from m2raap.curate.llm.endpoint import EndpointConfig
from m2raap.curate.llm.prompts import load_prompt
from m2raap.models.on_this_machine import is_in_hub_cache, missing_weights
from m2raap.pipeline.llm_requests import scarce_budgets
from m2raap.pipeline.loading import Loading, loading_hours, loading_line, measured_loading
from m2raap.pipeline.outlook import Outlook, outlooks, view_of
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.pipeline.run import backbones_of
from m2raap.pipeline.run_folder import Inputs, refuse_other_run
from m2raap.pipeline.sample import Sample, measure
from m2raap.pipeline.this_machine import SHARE, clock, training_rate
from m2raap.pipeline.train_cost import Cost, as_tree, cost_lines, training_cost
from m2raap.stages import STAGES
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.caption import CaptionConfig, CaptionStage
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.llm import model_of
from m2raap.stages.rewrite import RewriteConfig

# Typical numbers of tokens, which are about the same for English and Chinese; an answer is in one language.
TOKENS_PER_CAPTION, TOKENS_PER_PICTURE, TOKENS_PER_ANSWER = 24, 400, 40


def dry_run(recipe: Recipe, inputs: Inputs, out: Path, steps: list[Step], force: bool = False) -> dict[str, Any]:
    """The estimate: `lines` are printed; `steps`, `models`, `adapt`, `warnings` and `plan_digest` are for programs.

    `force`: whether the run would be given --force. Raises M2raapError for inputs that the run would refuse.
    """
    refuse_other_run(recipe, out, force)
    arms = arms_of(recipe)
    states = outlooks(steps, arms, inputs)
    clips, texts = _training_rows(inputs)
    bench_clips = {name: View(path).corpus.counts["clips"] for name, path in inputs.benches.items()}
    lines = [
        f"recipe {recipe.name}: {clips} clips in the training corpus, arms {', '.join(arms)}, benchmarks {bench_clips or 'none'}"
    ]
    by_folder: dict[Path, Step] = {}
    for step in steps:
        by_folder.setdefault(step.folder, step)
    unique = list(by_folder.values())
    with tempfile.TemporaryDirectory(prefix="m2raap-dry-run-") as scratch:
        measured, outputs = measure(unique, arms, inputs, Path(scratch), states)
        loading = {
            step.arm: measured_loading(
                arms[step.arm].adapt,
                arms[step.arm].backbone,
                arms[step.arm].shared.decode,
                _with_key_frames(step, arms[step.arm], inputs, outputs),
            )
            for step in steps
            if step.is_of(AdaptStage) and not states[step.folder].is_done
        }
    rows = [
        _row(step, bench_clips[step.bench] if step.bench else clips, measured.get(step.folder), states[step.folder])
        for step in _in_stage_order(unique, steps)
    ]
    lines += [f"  {_row_line(row)}" for row in rows]
    if (refused := [row for row in rows if row["state"] == "redo"]) and not force:
        lines.append(f"  the run stops at {refused[0]['folder']}: without --force nothing is redone")
    requests = [
        {"arm": step.arm, "stage": step.stage} | request
        for step in unique
        if step.owner == step.arm and not step.bench
        if (request := _requests(arms[step.arm], arms[step.arm].stage(step.stage), clips, texts))
    ]
    lines += [
        f"  {row['arm']}/{row['stage']} sends at most {row['requests']:,} requests to {row['model']}: about "
        f"{row['tokens_in']:,} tokens in, {row['tokens_out']:,} out"
        for row in requests
    ]
    lines += [f"  {line}" for line in scarce_budgets(requests, arms)]
    adapt, costs = {}, {}
    for step in steps:
        if step.is_of(AdaptStage):
            num_clips, val_clips = _clips_to_train(step, arms[step.arm], inputs, states)
            costs[step.arm] = cost = training_cost(arms[step.arm], num_clips, val_clips)
            adapt[step.arm] = as_tree(cost, arms[step.arm]) | {"clips": num_clips}
            if rate := loading.get(step.arm):
                adapt[step.arm]["decoded_clips_per_core_s"] = rate.clips_per_core_s or None
    trained = {step.arm for step in steps if step.is_of(AdaptStage) and states[step.folder].is_done}
    for arm, cost in adapt.items():
        if arm in trained:
            continue
        load = loading_line(arm, arms[arm].adapt, costs[arm], loading[arm])
        time_line = _time_line(arm, arms[arm], costs[arm], loading[arm])
        lines += [f"  {line}" for line in (*cost_lines(arm, cost), load, time_line)]
        if arms[arm].adapt.keep == "best" and not costs[arm].val_clips:
            lines.append(f"  {arm}: no clip has the split val, so that adapt.keep=best keeps the last step")
        if arms[arm].adapt.input == "video":
            lines.append(
                f"  {arm} reads raw video: every clip is decoded again each epoch, and frozen layers have no cache"
            )
    minutes, disk = sum(row["core_minutes"] or 0 for row in rows), sum(row["disk_mb"] or 0 for row in rows)
    lines.append(f"total: about {minutes:.1f} core minutes of data stages and {disk:.0f} MB in {out}")
    warnings = _warnings(steps, arms, states)
    lines += [f"warning: {warning}" for warning in warnings]
    plan = digest([str(step.folder) for step in steps])
    tree = {"lines": lines, "steps": rows, "models": requests, "adapt": adapt, "warnings": warnings}
    return tree | {"plan_digest": plan}


def _training_rows(inputs: Inputs) -> tuple[int, int]:
    """(clips, texts) of the training corpus, at most as many as the limit allows."""
    counts = View(inputs.data).corpus.counts
    clips = min(counts["clips"], inputs.limit) if inputs.limit else counts["clips"]
    return clips, round(counts["texts"] * clips / max(counts["clips"], 1))


def _row(step: Step, clips: int, sample: Sample | None, outlook: Outlook) -> dict[str, Any]:
    row: dict[str, Any] = {"folder": str(step.folder), "stage": step.stage, "clips": clips} | asdict(outlook)
    row |= {"disk_mb": None, "core_minutes": None, "note": sample.note if sample else ""}
    if outlook.is_done:
        return row
    if outlook.reused == "scores":
        return row | {"disk_mb": 0.0, "core_minutes": 0.0, "note": "only decisions are repeated"}
    if sample and not sample.note:
        row["core_minutes"] = round(sample.seconds_for(clips) / 60, 2)
        row["disk_mb"] = round(sample.bytes_for(clips) / 1e6, 1)
        row["note"] = f"measured on {sample.clips} clips"
    return row


def _row_line(row: dict[str, Any]) -> str:
    """The line of one stage folder."""
    reason = f" because {row['reason']}" if row["reason"] else ""
    reused = f", {row['reused']} are reused" if row["reused"] else ""
    price = ""
    if row["core_minutes"] is not None:
        price = f", about {row['core_minutes']} core minutes, {row['disk_mb']} MB"
    note = f" ({row['note']})" if row["note"] else ""
    return f"{row['state']:<6} {row['folder']}{reason}{reused}: at most {row['clips']} clips{price}{note}"


def _in_stage_order(unique: list[Step], steps: list[Step]) -> list[Step]:
    """The steps in the order of the stage table, and of each stage the folders that several arms share first."""
    stages = list(STAGES)
    users = Counter(step.folder for step in steps)
    return sorted(unique, key=lambda s: (stages.index(s.stage), s.bench or "", users[s.folder] == 1))


def _clips_to_train(step: Step, recipe: Recipe, inputs: Inputs, states: dict[Path, Outlook]) -> tuple[int, int]:
    """The number of clips that adapt trains on, and of val clips; while stages before it are not done, the most that may be
    left for it."""
    view = view_of(replace(step, parents=()), recipe, inputs)
    for parent in step.parents:
        if parent in states and not states[parent].is_done:
            counts = Counter(clip["split"] for part in view.parts(()) for clip in part.clips)
            return counts["train"], counts["val"]
        view = view.over(parent)
    train, val = read_splits(view, ("train", "val"))
    return len(train.clips), len(val.clips)


def _with_key_frames(step: Step, recipe: Recipe, inputs: Inputs, outputs: dict[Path, Path | None]) -> View | None:
    """The training corpus with the key-frames of the sample, or all of a finished stage; None where there are none."""
    folders = [outputs.get(parent) for parent in step.parents if parent.name == KeyframesStage.name]
    return inputs.view(recipe.langs).over(folders[0]) if folders and folders[0] else None


def _time_line(arm: str, recipe: Recipe, cost: Cost, loading: Loading) -> str:
    """How long the training would take on this machine: on a GPU the cores decode meanwhile, on the CPU they do both."""
    cfg = recipe.adapt
    rate = training_rate(cfg.device, cfg.precision, cfg.threads)
    if not rate.flops:
        return f"{arm} would train on {rate.device}: set adapt.device to auto or cpu to train here"
    hours, cores = rate.hours(cost.flop), available_cores()
    load_hours = loading_hours(cost, loading, cores)
    bound = ""
    if rate.device.startswith("CPU"):
        hours += load_hours
    elif load_hours > hours:
        hours, bound = load_hours, "; decoding bounds it, not the GPU: set adapt.decode to fast, or give it more cores"
    return (
        f"{arm} would train for about {clock(hours)} on this machine, with loading and validation ({rate.device}: "
        f"{rate.flops / 1e9:,.0f} GFLOP/s measured in a matrix product, of which training is assumed to reach {SHARE:.0%}){bound}"
    )


def _warnings(steps: list[Step], arms: dict[str, Recipe], states: dict[Path, Outlook]) -> list[str]:
    """What the steps that are not done lack on this machine: weights of models, keys of servers."""
    lacking = [sentence for cfg in backbones_of(steps, arms, states) if (sentence := missing_weights(cfg))]
    for step in steps:
        if states[step.folder].is_done:
            continue
        cfg = model_of(arms[step.arm].stage(step.stage, bench=bool(step.bench)).cfg)
        if isinstance(cfg, EndpointConfig):
            try:
                HttpBackend(cfg)  # checks the key, and connects to nothing
            except M2raapError as error:
                lacking.append(f"{step.stage}: {error}")
        elif cfg is not None and not Path(cfg.model).is_dir() and not is_in_hub_cache(cfg.model):
            lacking.append(f"{step.stage}: the model '{cfg.model}' is not on this machine; the run downloads it")
    return list(dict.fromkeys(lacking))


def _requests(recipe: Recipe, stage: Stage[Any], clips: int, texts: int) -> dict[str, Any] | None:
    """The largest number of requests that a stage sends to a model, and about how many tokens they have."""
    cfg, model = stage.cfg, model_of(stage.cfg)
    if model is None:
        return None
    frames = min(recipe.caption.frames or recipe.keyframes.k, recipe.keyframes.k)
    answer = min(TOKENS_PER_ANSWER * len(recipe.langs), model.max_tokens)
    if isinstance(cfg, CaptionConfig):
        prompt = len(load_prompt("describe", cfg.prompts).text) / 4 if cfg.endpoint else 0
        return _tokens(model.model, clips * frames, prompt + TOKENS_PER_PICTURE, answer)
    assert isinstance(cfg, RewriteConfig), "only these stages send requests to models"
    captions = frames if CaptionStage.name in recipe.stages else 0
    prompt = len(load_prompt("rewrite", cfg.prompts).text) / 4 + TOKENS_PER_CAPTION * (2 + captions)
    return _tokens(model.model, max(texts, clips), prompt, answer)


def _tokens(model: str, requests: int, tokens_in: float, tokens_out: float) -> dict[str, Any]:
    return {
        "model": model,
        "requests": requests,
        "tokens_in": round(requests * tokens_in),
        "tokens_out": round(requests * tokens_out),
    }
