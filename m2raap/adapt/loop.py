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

import numpy as np
import torch

from m2raap.adapt.batches import PairSource, reverse_frames
from m2raap.adapt.captions import left_out
from m2raap.adapt.checkpoint import put_weights, save_checkpoint, trained_weights
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.optim import lr_share, set_rates
from m2raap.adapt.run import Report, Run, prepare
from m2raap.adapt.validate import validate
from m2raap.core.errors import M2raapError
from m2raap.models.acg import frame_caption_loss
from m2raap.models.backbone import MAX_LOGIT_SCALE
from m2raap.models.losses import OBJECTIVES, cosine_logits, order_contrast, twins_mask
from m2raap.models.mug import mug_scores


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
) -> AdaptResult:
    """Train on `source`, choose on `val_source`, write `out`/model. `progress(what, done, total)` hears of every step.

    `stop_after` leaves the run after that step as a kill would. Raises M2raapError: nothing to train on, settings that
    do not fit the backbone, a loss that is not finite (it names the step), a checkpoint of other settings or data.
    """
    report = progress or (lambda what, done, total: None)
    with _threads(cfg.threads):
        run = prepare(cfg, source, val_source, out, report)
        try:
            if run.state.step == 0:
                _validate_and_keep(run)
            prepared = {"prepared": run.state.step, "seconds": time.perf_counter() - run.began_s}
            run.timings.write(json.dumps(prepared) + "\n")
            loss = math.nan
            while run.state.step < run.steps:
                step = run.state.step + 1
                if stop_after is not None and step > stop_after:
                    return _result(run, loss, finished=False)
                started = time.perf_counter()
                share = lr_share(step, run.steps, cfg.warmup_steps, cfg.lr_floor)
                set_rates(run.optimiser, share)
                loss, grad_norm = _learn(run, step)
                run.state.step = step
                _log(run, {"step": step, "loss": loss, "lr_share": share, "grad_norm": grad_norm, "gates": run.gates()})
                if step % cfg.val_every_steps == 0 or step == run.steps:
                    _validate_and_keep(run)
                spent = {"step": step, "seconds": time.perf_counter() - started, "waited": run.ahead.waited_s}
                run.timings.write(json.dumps(spent) + "\n")
                if step % cfg.checkpoint_every_steps == 0 and step < run.steps:
                    _checkpoint(run)
                report(f"loss {loss:.3f}", step, run.steps)
            if cfg.keep == "best" and run.val_table is not None:
                put_weights(run.model, run.state.best)
            result = _result(run, loss, finished=True)
            _write_model(run, result)
            return result
        finally:
            run.close()


def _learn(run: Run, step: int) -> tuple[float, float]:
    """One step of the optimiser. Loss and gradient norm before clipping."""
    cfg, model = run.cfg, run.model
    device = model.backbone.device
    clips = run.plan.clips(step)
    rows = run.table.draw(clips, cfg.texts_per_clip, cfg.seed, step)
    inputs, mask_BT = run.ahead.get(step)
    run.drops.manual_seed(int(np.random.default_rng([cfg.seed, 2, step]).integers(2**62)))
    model.temporal.train()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cfg.precision == "bf16"):
        said, words = run.captions.encode(model, clips) if run.captions else (None, None)
        heard = left_out(said, cfg.caption_dropout, cfg.seed, step) if said and cfg.enhance else None
        there_BT = mask_BT.to(device)
        vectors_BTE = run.data.frame_vectors(model, inputs.to(device), there_BT)
        video_BE = model.pool(vectors_BTE, there_BT, heard)
        reversed_BE = None
        if cfg.order_weight:
            backwards = reverse_frames(inputs, mask_BT, run.data.time_dim).to(device)
            if heard is not None:
                heard = (reverse_frames(heard[0], there_BT, 1), reverse_frames(heard[1], there_BT, 1))
            reversed_BE = model.pool(run.data.frame_vectors(model, backwards, there_BT), there_BT, heard)
        token_rows = run.table.tokens_NL[torch.from_numpy(rows.ravel())].to(device)
        tokens = None
        if cfg.mug_weight:
            text_RE, *tokens = model.encode_text_tokens(token_rows)
        elif run.text_features_NE is not None:
            text_RE = run.text_features_NE[torch.from_numpy(rows.ravel()).to(device)]
        else:
            text_RE = model.encode_text(token_rows)
    scale = model.backbone.logit_scale.exp()
    objective, losses = OBJECTIVES[cfg.objective], []
    for turn, (row, text_BE) in enumerate(zip(rows, text_RE.split(len(clips)), strict=True)):
        twins = twins_mask([run.table.texts[at] for at in row]).to(device)
        losses.append(objective(cosine_logits(video_BE, text_BE, scale), twins))
        if reversed_BE is not None:
            losses[-1] = losses[-1] + cfg.order_weight * order_contrast(video_BE, reversed_BE, text_BE, scale)
        if tokens is not None:
            tokens_BLE, token_mask_BL = (part.split(len(clips))[turn] for part in tokens)
            unit_BTE = torch.nn.functional.normalize(vectors_BTE, dim=-1)
            scores_BB = mug_scores(tokens_BLE, token_mask_BL, unit_BTE, there_BT, cfg.mug_form)
            losses[-1] = losses[-1] + cfg.mug_weight * objective(scale * scores_BB.T, twins)
    loss = torch.stack(losses).mean()
    if cfg.fcc_weight and said is not None:
        loss = loss + cfg.fcc_weight * frame_caption_loss(vectors_BTE, said, there_BT, scale, words)
    if not bool(torch.isfinite(loss)):
        raise M2raapError(
            f"the loss at step {step} is {float(loss.detach())}: lower adapt.lr, lr_new or lr_gate, or use fp32"
        )
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    learning = [p for group in run.optimiser.param_groups for p in group["params"]]
    grad_norm = torch.nn.utils.clip_grad_norm_(learning, cfg.clip_norm)
    if not bool(torch.isfinite(grad_norm)):
        raise M2raapError(
            f"the gradient at step {step} is not finite: lower adapt.lr, lr_new or lr_gate, or use precision fp32"
        )
    run.optimiser.step()
    with torch.no_grad():
        model.backbone.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
    return float(loss.detach()), float(grad_norm)


def _validate_and_keep(run: Run) -> None:
    """Log R@1 on the val clips; keep the weights where it is higher than ever before."""
    if run.val_data is None or run.val_table is None:
        return
    scores = validate(run.model, run.val_data, run.val_table, run.val_clips, run.val_captions)
    _log(run, {"step": run.state.step, "val_r1": scores})
    if run.state.start_score is None:
        run.state.start_score = scores["mean"]
    if scores["mean"] > run.state.best_score:
        run.state.best_step, run.state.best_score = run.state.step, scores["mean"]
        run.state.best = trained_weights(run.model)


def _log(run: Run, line: dict[str, Any]) -> None:
    run.log.write((json.dumps(line) + "\n").encode())
    if run.board is not None:
        for name, value in line.items():
            for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                if name != "step":
                    run.board.add_scalar(f"{name}/{part}" if part else name, number, line["step"])


def _checkpoint(run: Run) -> None:
    run.log.flush()
    os.fsync(run.log.fileno())
    run.state.log_bytes = run.log.tell()
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


def _write_model(run: Run, result: AdaptResult) -> None:
    """model/ as a whole or not at all, then the scratch folder goes."""
    run.model.eval()
    kept = result.best_step if run.cfg.keep == "best" and run.val_table is not None else result.steps
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
