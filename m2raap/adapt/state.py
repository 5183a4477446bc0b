"""The state of a run of adaptation: the clips of each split, the optimiser and its helpers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from m2raap.adapt.captions import CaptionTable
from m2raap.adapt.checkpoint import Progress
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.conflict import ConflictMeans, Truth
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.draw import Share
from m2raap.adapt.gradcache import GradCache
from m2raap.adapt.logs import Logs
from m2raap.adapt.loss_modules import LossModules
from m2raap.adapt.modalities import Modalities
from m2raap.adapt.order_texts import OrderTexts
from m2raap.adapt.pixels import JpegFrames
from m2raap.adapt.prefetch import Prefetcher
from m2raap.adapt.prefix_cache import PrefixCache
from m2raap.adapt.raw_video import Decoders, RawVideos
from m2raap.adapt.sampler import BatchSampler
from m2raap.adapt.texts import TextTable
from m2raap.models.video_clip import VideoCLIP

FrameReader = PrefixCache | JpegFrames | RawVideos


@dataclass(frozen=True)
class Split:
    """The training or the validation clips. `captions`: only where something reads them. `order`: only where training reads
    the events of texts. `spans_NX2`: tokens of the phrases of each text, only where the interaction compares phrases.
    `senses`: only where a loss reads the sound of clips."""

    num_clips: int
    frames: FrameReader
    texts: TextTable
    captions: CaptionTable | None = None
    order: OrderTexts | None = None
    spans_NX2: Tensor | None = None
    senses: Modalities | None = None


@dataclass
class Optim:
    """The optimiser and what a step of it needs.

    `bias`: of an objective that has one. `modules`: those of the loss. `scaler`: of the loss, only in fp16.
    """

    optimiser: torch.optim.Optimizer
    grad_cache: GradCache
    bias: nn.Parameter | None
    modules: LossModules
    scaler: torch.amp.GradScaler | None
    max_logit_scale: float  # upper bound of the logarithm of the inverse temperature

    def parameters(self) -> list[nn.Parameter]:
        """All weights that learn."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]


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
    where the text tower is frozen. `conflict` and `truth`: only with adapt.harmonize."""

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
    prefetcher: Prefetcher[Share]
    text_features_NE: Tensor | None
    order_features_ME: Tensor | None
    drops: DropPathRng
    conflict: ConflictMeans | None
    truth: Truth | None
    logs: Logs | None  # only in the main process
    decoders: Decoders | None  # only for raw video
    started_s: float  # perf_counter when the model was loaded
    tokenise_s: float  # of the preparation
    cache_bytes: int

    @property
    def scratch(self) -> Path:
        """The folder of what a resumed run reads: checkpoints, tokens, and the prefix cache where it has no other place."""
        return self.out / "scratch"

    def close(self) -> None:
        if self.decoders is not None:
            self.decoders.close()  # before the prefetcher, so that reading a batch ends early
        self.prefetcher.close()
        if self.logs is not None:
            self.logs.close()
