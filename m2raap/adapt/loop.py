"""Adaptation: an image-text backbone and clips with texts in, a video-text model out.

A run that is killed and started again with the same arguments ends in the same weights and the same log, bit for bit
(same machine, same thread count): random choices are functions of (seed, step), and the rest is in the checkpoint.
In `out`: model/ (VideoCLIP.load), train.jsonl, timings.jsonl, with adapt.harmonize signals/, and while it runs scratch/
(checkpoint, prefix cache).
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from m2raap.adapt.checkpoint import Progress, put_weights, save_checkpoint, trained_weights
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.conflict import write_conflict
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.harmonize import harmony
from m2raap.adapt.keep import add_to_mean, is_averaged, note_scores
from m2raap.adapt.logs import DoneStep, LateNumbers
from m2raap.adapt.lora import merge_lora, refuse_unreached
from m2raap.adapt.optim import lr_multiplier, set_rates
from m2raap.adapt.pixels import Decoding, decoder_processes
from m2raap.adapt.prepare import prepare, training_device
from m2raap.adapt.readers import Report, open_decoders
from m2raap.adapt.rprop import IRpropPlus
from m2raap.adapt.sources import PairSource
from m2raap.adapt.state import TrainState
from m2raap.adapt.step import PRECISION, gradients
from m2raap.adapt.validate import ValScores, validate
from m2raap.core.config import result_settings
from m2raap.core.errors import M2raapError
from m2raap.core.files import replaced_folder
from m2raap.core.interrupt import StopRequest, note_kept
from m2raap.core.scores import PAIR_SIGNALS


@dataclass(frozen=True)
class AdaptResult:
    """The result of a run. `finished` is False only after `stop_after`.

    `kept_step`: the step after which the model had the weights that were written, or the last one of their mean.
    `best_step`: the best by the validation clips, -1 without any. `val`: the numbers of m2raap.adapt.validate.ValScores at
    the `start`, the `best` and the `last` step and for the `kept` weights; empty without validation clips.
    """

    finished: bool
    model_dir: Path
    steps: int
    kept_step: int
    best_step: int
    val: dict[str, dict[str, float]]
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
    dist_context: DistContext | None = None,
    caches: Path | None = None,
    start: Path | None = None,
) -> AdaptResult:
    """Train on `source`, choose on `val_source`, write `out`/model. `progress(what, done, total)` is called after every step.

    `stop_after` ends the run after that step, as a kill would. Of several processes (`dist_context`) all call this with the same
    arguments, and the first one writes. `caches`: the folder of prefix caches, which runs can share; None: in scratch.
    `start`: a model folder to start from; None: the backbone of the settings.

    Raises M2raapError for too few clips, settings that do not fit the backbone, a loss that is not finite (naming the step),
    and a checkpoint of other settings or data.
    """
    report = progress or (lambda what, done, total: None)
    dist_context = dist_context or DistContext()
    local = dist_context.local_world_size
    on_gpu = training_device(cfg, dist_context) != "cpu"
    with (
        _threads(cfg.threads),
        _GpuFaults(dist_context.rank) as faults,
        contextlib.closing(Decoding(decoder_processes(cfg.decoders, on_gpu, local))) as decoding,
        open_decoders(cfg, source, local) as decoders,
    ):
        state = prepare(cfg, source, val_source, out, report, dist_context, decoding, caches, decoders, start)
        faults.progress = state.progress
        try:
            if state.progress.step == 0:
                _validate_and_keep(state)
            if state.logs is not None:
                seconds = time.perf_counter() - state.started_s
                line = {"prepared": state.progress.step, "seconds": seconds, "tokenise_s": state.tokenise_s}
                state.logs.write_timing(line)
            training = _Training(state, report)
            with StopRequest() as stop:
                while state.progress.step < state.steps:
                    step = state.progress.step + 1
                    if stop_after is not None and step > stop_after:
                        training.log()
                        return _result(state, training.loss, finished=False)
                    training.step(step)
                    if step < state.steps and state.dist_context.any(stop.requested):
                        training.log()
                        _stop(state)
                kept_step = _put_kept(state)
                result = _result(state, training.loss, finished=True, kept_step=kept_step)
                if state.dist_context.is_main:
                    _write_model(state, result)
            if stop.requested:
                raise KeyboardInterrupt
            return result
        finally:
            state.close()


def _stop(state: TrainState) -> None:
    """Ends the training after a signal to any of its processes; a checkpoint keeps the step that all have just done."""
    step = state.progress.step
    if step % state.cfg.checkpoint_every_steps:
        _checkpoint(state)
    if state.dist_context.is_main:
        note_kept(f"the training in {state.out} is kept as it is after step {step} of {state.steps}")
    raise KeyboardInterrupt


class _Training:
    """The steps of a run. The numbers of a step are logged when the next one has been given to the device, or before a
    validation or a checkpoint, so that a GPU never waits for its log."""

    def __init__(self, state: TrainState, report: Report) -> None:
        self.state, self.report = state, report
        self.loss = math.nan
        self._unlogged: DoneStep | None = None
        self._device = state.model.backbone.device

    def step(self, step: int) -> None:
        """Trains step `step` (from 1), and validates and saves a checkpoint where they are due."""
        state, cfg = self.state, self.state.cfg
        started, state.prefetcher.data_wait_s = time.perf_counter(), 0.0
        multiplier = lr_multiplier(step, state.steps, cfg.warmup, cfg.lr_floor)
        rates = set_rates(state.optim.optimiser, multiplier)
        numbers, skips = _learn(state, step)
        self.log()
        self._unlogged = DoneStep(step, rates, multiplier, numbers, skips)
        state.progress.step = step
        if self._device.type != "cuda":
            self.log()
        if step % cfg.val_every_steps == 0 or step == state.steps:
            self.log()
            _validate_and_keep(state)
        spent_s = time.perf_counter() - started
        if state.logs is not None:
            state.logs.write_timing(self._timing(step, spent_s))
        if step % cfg.checkpoint_every_steps == 0 and step < state.steps:
            self.log()
            _checkpoint(state)
        pairs = state.sampler.size * cfg.texts_per_clip / spent_s
        self.report(f"loss {self.loss:.3f}, {pairs:.3g} pairs/s", step, state.steps)

    def log(self) -> None:
        """Writes the line of the last step, where it is not written. Raises M2raapError where its loss is not finite."""
        done, self._unlogged = self._unlogged, None
        if done is not None:
            line = done.line()
            self.loss = line["loss"]
            if self.state.logs is not None:
                self.state.logs.write(line)

    def _timing(self, step: int, spent_s: float) -> dict[str, float]:
        wait_s = self.state.prefetcher.data_wait_s
        line = {
            "step": step,
            "seconds": spent_s,
            "data_wait_s": wait_s,
            "clips_per_s": self.state.sampler.size / spent_s,
        }
        if self._device.type == "cuda":
            line["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
        return line


def _learn(state: TrainState, number: int) -> tuple[LateNumbers, bool]:
    """Step `number` of the optimiser. Returns what is logged of it, and whether fp16 may have left it out."""
    optim = state.optim
    share = state.prefetcher.get(number)
    loss = gradients(state, share)
    if share.inputs is not None:
        state.train.frames.give_back(share.inputs)
    if state.cfg.lora is not None and number == 1:
        refuse_unreached(state.model)
    if optim.scaler is not None:
        optim.scaler.unscale_(optim.optimiser)
    grad_norm = torch.nn.utils.clip_grad_norm_(optim.parameters(), state.cfg.clip_norm)
    skips = optim.scaler is not None and optim.scaler.get_scale() >= 1
    if isinstance(optim.optimiser, IRpropPlus):
        optim.optimiser.step(float(loss.total))
    elif optim.scaler is None:
        optim.optimiser.step()
    else:
        optim.scaler.step(optim.optimiser)
        optim.scaler.update()
    if state.cfg.learn_temperature:
        with torch.no_grad():
            state.model.backbone.logit_scale.clamp_(max=optim.max_logit_scale)
    terms = {f"terms/{name}": term for name, term in loss.terms.items()}
    gates = {f"gates/{name}": value for name, value in state.model.gate_tensors().items()}
    of_texts = {f"harmonize/{name}": value for name, value in harmony(loss).items()}
    if state.conflict is not None and loss.agreement_BK is not None:
        state.conflict.add(share.step.rows_KB, loss.agreement_BK)
    return LateNumbers({"loss": loss.total, "grad_norm": grad_norm, **terms, **gates, **of_texts}), skips


def _validate_and_keep(state: TrainState) -> None:
    """Logs the scores of the validation clips, which all processes compute together, and puts aside the weights that
    adapt.keep asks for."""
    progress, cfg = state.progress, state.cfg
    scores = _validate(state) if state.val is not None else None
    if state.logs is None:
        return
    if state.truth is not None and state.conflict is not None and progress.step:
        state.logs.write({"step": progress.step, "conflict_auc": state.truth.aucs(state.conflict.means()[0])})
    if scores is not None:
        is_best = note_scores(progress, scores, cfg.keep_by)
        state.logs.write({"step": progress.step, "val": scores.numbers, "best_step": progress.best_step})
        if is_best and cfg.keep == "best":
            progress.kept = trained_weights(state.model)
    if is_averaged(cfg, progress.step, state.steps):
        add_to_mean(progress, state.model)


def _validate(state: TrainState) -> ValScores:
    assert state.val is not None
    cfg = state.cfg
    with torch.autocast(
        state.model.backbone.device.type, dtype=PRECISION[cfg.precision], enabled=cfg.precision != "fp32"
    ):
        return validate(state.model, state.val, cfg.keeps_by_interaction, state.dist_context)


def _checkpoint(state: TrainState) -> None:
    if state.logs is None:
        return
    progress, optim = state.progress, state.optim
    progress.log_bytes, progress.micro_batch = state.logs.sync(), optim.grad_cache.micro
    progress.bias = None if optim.bias is None else float(optim.bias.detach())
    progress.loss_modules = trained_weights(optim.modules)
    progress.loss_scale = optim.scaler.state_dict() if optim.scaler else {}
    progress.conflict = state.conflict.state() if state.conflict is not None else {}
    save_checkpoint(state.scratch, state.key, state.model, optim.optimiser, progress)


def _result(state: TrainState, loss: float, finished: bool, kept_step: int = -1) -> AdaptResult:
    return AdaptResult(
        finished=finished,
        model_dir=state.out / "model",
        steps=state.progress.step,
        kept_step=kept_step,
        best_step=state.progress.best_step,
        val=state.progress.val,
        last_loss=loss,
        gates=state.model.gates(),
        num_truncated_texts=state.train.texts.num_truncated,
        num_texts=len(state.train.texts.texts),
        cache_bytes=state.cache_bytes,
    )


def _put_kept(state: TrainState) -> int:
    """Puts the weights that adapt.keep names into the model and ends the log. Returns their step, of a mean its last."""
    progress, kept_step = state.progress, state.progress.step
    if state.logs is not None and progress.kept:
        put_weights(state.model, progress.kept)
    scores = None
    if state.cfg.keep == "average" and state.val is not None:
        state.dist_context.broadcast_weights(state.optim.parameters())
        scores = _validate(state)
    if state.logs is None:
        return kept_step
    line: dict[str, Any] = {}
    if progress.num_averaged:
        line["averaged"] = progress.num_averaged
        if scores is not None:
            progress.val["kept"] = line["val"] = scores.numbers
    elif state.val is not None:
        which = state.cfg.keep
        progress.val["kept"] = progress.val[which]
        kept_step = progress.best_step if which == "best" else kept_step
    state.logs.write({"step": progress.step, "kept_step": kept_step, "gates": state.model.gates(), **line})
    state.logs.sync()  # the model folder, once written, vouches for the whole log
    return kept_step


def _write_model(state: TrainState, result: AdaptResult) -> None:
    """Writes the conflict of the texts, then model/ as a whole or not at all, and removes the scratch folder."""
    if state.conflict is not None:
        write_conflict(state.out / PAIR_SIGNALS, state.train.texts.raw_ids, *state.conflict.means())
    state.model.eval()
    if state.cfg.lora is not None:
        merge_lora(state.model)
    made_from = {"adapt": result_settings(state.cfg), "steps": result.steps, "kept_step": result.kept_step}
    with replaced_folder(result.model_dir) as temp:
        state.model.save(temp, made_from)
    shutil.rmtree(state.out / "scratch")


class _GpuFaults:
    """Raises M2raapError where a GPU fails in the block, or its memory runs out where smaller chunks are no help."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.progress: Progress | None = None  # None: the training is being prepared

    def __enter__(self) -> _GpuFaults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, RuntimeError) or "CUDA" not in str(error):  # also AcceleratorError
            return
        at = "before the first step" if self.progress is None else f"after step {self.progress.step}"
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise M2raapError(
                f"the memory of the GPU of process {self.rank} ran out {at} ({reason}): another program uses it, or model and "
                "optimiser are too large for it; lower adapt.train_vision_layers, set adapt.train_text to false, or take "
                "adapt.lora; the same command resumes"
            ) from None
        raise M2raapError(
            f"the GPU of process {self.rank} failed {at} ({reason}); the same command resumes from the last checkpoint, on other "
            "GPUs or another number of them, too"
        ) from None


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
