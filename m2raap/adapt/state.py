"""The state of a run of adaptation: the clips of each split, the optimiser and its helpers, the log files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import torch
from torch import Tensor, nn

from m2raap.adapt.batches import BatchSampler, JpegFrames, Place, Prefetcher
from m2raap.adapt.captions import CaptionTable
from m2raap.adapt.checkpoint import Progress
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.gradcache import GradCache, cut
from m2raap.adapt.order_heads import OrderHeads
from m2raap.adapt.order_texts import OrderTexts
from m2raap.adapt.prefix_cache import PrefixCache
from m2raap.adapt.raw_video import Decoders, RawVideos
from m2raap.adapt.texts import TextTable
from m2raap.core.errors import M2raapError
from m2raap.models.video_clip import VideoCLIP

FrameReader = PrefixCache | JpegFrames | RawVideos


@dataclass(frozen=True)
class Split:
    """The training or the validation clips. `captions`: only where something reads them. `order`: only where training reads
    the events of texts. `spans_NX2`: tokens of the phrases of each text, only where the interaction compares phrases."""

    num_clips: int
    frames: FrameReader
    texts: TextTable
    captions: CaptionTable | None = None
    order: OrderTexts | None = None
    spans_NX2: Tensor | None = None


@dataclass
class Optim:
    """The optimiser and what a step of it needs.

    `bias`: of an objective that has one. `order_heads`: only for the term `clauses`. `scaler`: of the loss, only in fp16.
    """

    optimiser: torch.optim.AdamW
    grad_cache: GradCache
    bias: nn.Parameter | None
    order_heads: OrderHeads | None
    scaler: torch.amp.GradScaler | None
    max_logit_scale: float  # upper bound of the logarithm of the inverse temperature

    def parameters(self) -> list[nn.Parameter]:
        """All weights that learn."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]


class Logs:
    """train.jsonl, timings.jsonl and, with adapt.tensorboard, TensorBoard's folder. Only the main process has them."""

    def __init__(self, out: Path, progress: Progress, tensorboard: bool) -> None:
        """Opens the files in `out`. train.jsonl is cut to its length at the checkpoint that the run resumes from."""
        path = out / "train.jsonl"
        self.train: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self.train.truncate(progress.log_bytes)
        self.train.seek(progress.log_bytes)
        self.timings: TextIO = (out / "timings.jsonl").open("a", encoding="utf-8")
        self.board = _open_board(out, progress.step) if tensorboard else None

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line to train.jsonl, and its numbers to TensorBoard."""
        self.train.write((json.dumps(line) + "\n").encode())
        if self.board is not None:
            for name, value in line.items():
                for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if name != "step" and number is not None:  # the gradient norm is None where fp16 skipped the step
                        self.board.add_scalar(f"{name}/{part}" if part else name, number, line["step"])

    def write_timing(self, line: dict[str, Any]) -> None:
        """Adds a line to timings.jsonl."""
        self.timings.write(json.dumps(line) + "\n")

    def sync(self) -> int:
        """Writes train.jsonl to the disk. Returns its length in bytes."""
        self.train.flush()
        os.fsync(self.train.fileno())
        return self.train.tell()

    def close(self) -> None:
        for file in (self.train, self.timings, self.board):
            if file is not None:
                file.close()


def _open_board(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise M2raapError(
            "adapt.tensorboard is true, but tensorboard is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)


class DropPathRng:
    """The random numbers of drop path for the rows of a chunk, taken from those for the rows of the whole batch.

    So chunks of a batch, and the shares of several processes, drop the same rows as the whole batch would. A row belongs to a
    clip, and all clips have equally many rows.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator()
        self.batch, self.start, self.stop = 1, 0, 1

    def begin(self, seed: list[int], batch: int, start: int, stop: int) -> None:
        """Sets the seed for clips start .. stop of a batch; the same seed gives the same numbers every time."""
        self.generator.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
        self.batch, self.start, self.stop = batch, start, stop

    def __call__(self, rows: int) -> Tensor:
        """(rows,) uniform numbers from 0 to 1."""
        rows_per_clip, left_over = divmod(rows, self.stop - self.start)
        assert left_over == 0, f"{rows} rows of {self.stop - self.start} clips"
        draws = torch.rand(self.batch * rows_per_clip, generator=self.generator)
        return draws[self.start * rows_per_clip : self.stop * rows_per_clip]


@dataclass
class TrainState:
    """A run between two steps. `text_features_NE`, `order_features_ME`: of the training texts and of the texts of their events,
    where the text tower is frozen."""

    cfg: AdaptConfig
    dist_context: DistContext
    out: Path
    key: str  # the digest of settings, data and backbone, which a checkpoint has to share
    steps: int
    model: VideoCLIP
    optim: Optim
    progress: Progress
    train: Split
    val: Split | None
    sampler: BatchSampler
    prefetcher: Prefetcher
    text_features_NE: Tensor | None
    order_features_ME: Tensor | None
    drops: DropPathRng
    logs: Logs | None  # only in the main process
    decoders: Decoders | None  # only for raw video
    started_s: float  # perf_counter when the model was loaded
    cache_bytes: int

    @property
    def checkpoint_path(self) -> Path:
        return self.out / "scratch" / "checkpoint.pt"

    def next_place(self, step: int, then: tuple[int, int] | None) -> Place | None:
        """The clips to read next: the chunk `then` of this step or, where it is None, the first chunk of the next step."""
        if then is not None:
            return (step, *then)
        first = cut(self.dist_context.local_slice(self.sampler.size), self.optim.grad_cache.micro)[0]
        return (step + 1, *first) if step < self.steps else None

    def close(self) -> None:
        if self.decoders is not None:
            self.decoders.close()  # before the prefetcher, so that reading a batch ends early
        self.prefetcher.close()
        if self.logs is not None:
            self.logs.close()
