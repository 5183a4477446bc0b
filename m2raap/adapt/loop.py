"""Adaptation: an image-text backbone and clips with texts in, a video-text model out.

Killed anywhere and started again with the same arguments, a run ends in the same weights and the same log, bit for bit
(same machine, same thread count): all that is drawn is a function of (seed, step), the rest is in the checkpoint.
In `out`: model/ (VideoCLIP.load), train.jsonl, timings.jsonl, and while it runs scratch/ (checkpoint, prefix cache).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m2raap.adapt.batches import PairSource
from m2raap.adapt.checkpoint import put_weights, save_checkpoint, trained_weights
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import Team
from m2raap.adapt.lora import merge_lora, refuse_unreached
from m2raap.adapt.optim import lr_share, set_rates
from m2raap.adapt.run import Report, Run, open_decoders, prepare
from m2raap.adapt.step import draw_step, gradients
from m2raap.adapt.validate import validate
from m2raap.core.errors import M2raapError


@dataclass(frozen=True)
class AdaptResult:
    """`finished` is False only after `stop_after`. Scores are R@1 on the val clips (0..1), mean over languages."""

    finished: bool
    model_dir: Path
    steps: int
    best_step: int
    best_score: float
    start_score: float | None
    last_loss: float
    gates: dict[str, float]
    num_truncated_texts: int
    num_texts: int
    cache_bytes: int


def adapt(
    cfg: AdaptConfig,
    source: PairSource,
    val_source: PairSource | None,
    out: Path,
    progress: Report | None = None,
    stop_after: int | None = None,
    team: Team | None = None,
    caches: Path | None = None,
) -> AdaptResult:
    """Train on `source`, choose on `val_source`, write `out`/model. `progress(what, done, total)` hears of every step.

    `stop_after` leaves the run after that step as a kill would. Of several processes (`team`) all call this with the same
    arguments, and the first one writes. `caches`: where frozen prefixes are kept, for other runs to share; None: in
    scratch. Raises M2raapError: nothing to train on, settings that do not fit the backbone, a loss that is not finite (it
    names the step), a checkpoint of other settings or data.
    """
    report = progress or (lambda what, done, total: None)
    with _threads(cfg.threads), open_decoders(cfg, source) as decoders:
        run = prepare(cfg, source, val_source, out, report, team or Team(), caches, decoders)
        try:
            if run.state.step == 0:
                _validate_and_keep(run)
            _note_time(run, {"prepared": run.state.step, "seconds": time.perf_counter() - run.began_s})
            loss = math.nan
            while run.state.step < run.steps:
                step = run.state.step + 1
                if stop_after is not None and step > stop_after:
                    return _result(run, loss, finished=False)
                started, run.ahead.waited_s = time.perf_counter(), 0.0
                share = lr_share(step, run.steps, cfg.warmup_steps, cfg.lr_floor)
                set_rates(run.optimiser, share)
                loss, grad_norm = _learn(run, step)
                run.state.step = step
                _log(run, {"step": step, "loss": loss, "lr_share": share, "grad_norm": grad_norm, "gates": run.gates()})
                if step % cfg.val_every_steps == 0 or step == run.steps:
                    _validate_and_keep(run)
                spent_s = time.perf_counter() - started
                _note_time(run, {"step": step, "seconds": spent_s, "waited": run.ahead.waited_s})
                if step % cfg.checkpoint_every_steps == 0 and step < run.steps:
                    _checkpoint(run)
                pairs = run.plan.size * cfg.texts_per_clip / spent_s
                report(f"loss {loss:.3f}, {pairs:.3g} pairs/s", step, run.steps)
            kept = _best_or_last(run)
            result = _result(run, loss, finished=True)
            if run.team.leads:
                _write_model(run, result, kept)
            return result
        finally:
            run.close()


def _learn(run: Run, number: int) -> tuple[float, float | None]:
    """One step of the optimiser. Loss, and gradient norm before clipping (None: fp16 left the step out)."""
    loss = gradients(run, draw_step(run, number))
    if run.cfg.lora is not None and number == 1:
        refuse_unreached(run.model)
    if run.scaler is not None:
        run.scaler.unscale_(run.optimiser)
    learning = [p for group in run.optimiser.param_groups for p in group["params"]]
    grad_norm = float(torch.nn.utils.clip_grad_norm_(learning, run.cfg.clip_norm))
    # In fp16 a gradient that overflows only says that the loss was scaled too much: no step, and half the scale.
    if not math.isfinite(grad_norm) and (run.scaler is None or run.scaler.get_scale() < 1):
        raise M2raapError(
            f"the gradient at step {number} is not finite: lower adapt.lr, lr_new or lr_gate, or use precision fp32"
        )
    if run.scaler is None:
        run.optimiser.step()
    else:
        run.scaler.step(run.optimiser)
        run.scaler.update()
    if run.cfg.learn_temperature:
        with torch.no_grad():
            run.model.backbone.logit_scale.clamp_(max=run.max_logit_scale)
    return loss, grad_norm if math.isfinite(grad_norm) else None


def _validate_and_keep(run: Run) -> None:
    """Log R@1 on the val clips; keep the weights where it is higher than ever before. The others wait at the next step."""
    if run.val_data is None or run.val_table is None or not run.team.leads:
        return
    scores = validate(run.model, run.val_data, run.val_table, run.val_clips, run.val_captions)
    _log(run, {"step": run.state.step, "val_r1": scores})
    if run.state.start_score is None:
        run.state.start_score = scores["mean"]
    if scores["mean"] > run.state.best_score:
        run.state.best_step, run.state.best_score = run.state.step, scores["mean"]
        run.state.best = trained_weights(run.model)


def _note_time(run: Run, line: dict[str, Any]) -> None:
    if run.timings is not None:
        run.timings.write(json.dumps(line) + "\n")


def _log(run: Run, line: dict[str, Any]) -> None:
    if run.log is None:
        return
    run.log.write((json.dumps(line) + "\n").encode())
    if run.board is not None:
        for name, value in line.items():
            for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                if name != "step" and number is not None:  # fp16 may leave a step out
                    run.board.add_scalar(f"{name}/{part}" if part else name, number, line["step"])


def _checkpoint(run: Run) -> None:
    if run.log is None:
        return
    run.log.flush()
    os.fsync(run.log.fileno())
    run.state.log_bytes, run.state.micro_batch = run.log.tell(), run.backward.micro
    run.state.bias = None if run.bias is None else float(run.bias.detach())
    run.state.loss_scale = run.scaler.state_dict() if run.scaler else {}
    save_checkpoint(run.checkpoint_path, run.key, run.model, run.optimiser, run.state)


def _result(run: Run, loss: float, finished: bool) -> AdaptResult:
    return AdaptResult(
        finished=finished,
        model_dir=run.out / "model",
        steps=run.state.step,
        best_step=run.state.best_step,
        best_score=run.state.best_score,
        start_score=run.state.start_score,
        last_loss=loss,
        gates=run.gates(),
        num_truncated_texts=run.table.num_truncated,
        num_texts=len(run.table.texts),
        cache_bytes=run.cache_bytes,
    )


def _best_or_last(run: Run) -> int:
    """Puts the weights in place that are kept; the step that they are of."""
    if run.cfg.keep == "last" or run.val_table is None or not run.team.leads:
        return run.state.step
    put_weights(run.model, run.state.best)
    return run.state.best_step


def _write_model(run: Run, result: AdaptResult, kept: int) -> None:
    """model/ as a whole or not at all, then the scratch folder goes."""
    run.model.eval()
    if run.cfg.lora is not None:
        merge_lora(run.model)
    made_from = {"adapt": run.cfg.model_dump(mode="json"), "steps": result.steps, "kept_step": kept}
    temp = run.out / "model.tmp"
    shutil.rmtree(temp, ignore_errors=True)
    run.model.save(temp, made_from)
    shutil.rmtree(result.model_dir, ignore_errors=True)
    os.replace(temp, result.model_dir)
    shutil.rmtree(run.out / "scratch")


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
