"""What the tasks of a fit share: where they read, in which order, and how they learn.

A task writes one file, or returns what is small, and reads what it needs from the shared file system. It computes with one
thread and in an order that does not depend on the number of workers. B clips of a batch, H size of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.checkpoint import DAMAGED, load_tree
from m2raap.annotate.job import Job
from m2raap.annotate.shards import Shard, read_shard
from m2raap.annotate.shared_layers import SharedLayers
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.core.part_work import one_thread

CLIPS_A_PASS = 512  # clips whose vectors are computed at once where nothing is learnt from a batch alone
VAL_CLIPS = 4096  # by which a training is stopped
PATIENCE = 5  # looks at the val clips without progress, after which it is stopped


@dataclass(frozen=True)
class Task:
    """A share of a phase. `index`: of the group or the shard; `shared`: number of the shared layers, where these are not those
    with which the round began."""

    job: Job
    member: int
    round: int = 0
    index: int = 0
    shared: int | None = None

    @property
    def shared_path(self) -> Path:
        return self.job.shared(self.member, self.round if self.shared is None else self.shared)

    def shard(self) -> Shard:
        return read_shard(self.job.shard(self.index))

    def generator(self, *of: int) -> np.random.Generator:
        return np.random.default_rng([self.job.cfg.seed, self.member, self.round, *of])


def begin() -> str:
    """What every task does first: torch computes with one thread. Returns the device of this process."""
    one_thread()
    return device()


@torch.no_grad()
def vectors_of(shared: SharedLayers, shard: Shard, rows_N: np.ndarray | None) -> np.ndarray:
    """(N, H) float32 of some clips, or all, always in blocks of the same clips."""
    rows = np.arange(len(shard)) if rows_N is None else rows_N
    on = next(shared.parameters()).device if any(True for _ in shared.parameters()) else torch.device(device())
    blocks = [np.zeros((0, shared.size), np.float32)]
    for start in range(0, len(rows), CLIPS_A_PASS):
        x_BKE, mask_BK = shard.frames(rows[start : start + CLIPS_A_PASS])
        blocks.append(shared(torch.from_numpy(x_BKE).to(on), torch.from_numpy(mask_BK).to(on)).cpu().numpy())
    return np.concatenate(blocks)


def train_batches(task: Task, stream: int) -> Iterator[tuple[int, Shard, np.ndarray]]:
    """(index of the shard, shard, clips of a batch), pass after pass over the training clips of a member, without an end. A shard
    that follows itself is read once."""
    cfg, at, shard = task.job.cfg, -1, None
    for epoch in count():
        is_empty = True
        for index in task.generator(stream, epoch).permutation(task.job.num_shards).tolist():
            if shard is None or index != at:
                at, shard = index, read_shard(task.job.shard(index))
            rows = task.generator(stream, epoch, index).permutation(shard.rows(task.member, cfg.folds, "train"))
            for start in range(0, len(rows), cfg.batch_size):
                is_empty = False
                yield index, shard, rows[start : start + cfg.batch_size]
        if is_empty:
            raise M2raapError(
                f"annotate: no clip is left to train tagger {task.member + 1} of {cfg.folds}: give more clips"
            )


def falling(step: int, steps: int) -> float:
    """The learning rate at a step, from 0, as a share of the first one: a cosine that ends at 0."""
    return 0.5 * (1 + float(np.cos(np.pi * step / max(steps, 1))))


def learn(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """A step by the gradients of the loss. Raises M2raapError for one that is not finite."""
    if not bool(torch.isfinite(loss)):
        raise M2raapError(f"annotate: the loss is {float(loss.detach())}: lower annotate.fit.lr")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def load_kept(path: Path, **parts: Any) -> dict[str, Any] | None:
    """What `save_tree` wrote before a fit was killed, with the states of `parts` put back into them; None where there is nothing.

    Raises M2raapError for a damaged file.
    """
    if not path.exists():
        return None
    try:
        tree = load_tree(path)
        for name, part in parts.items():
            part.load_state_dict(tree[name])
    except DAMAGED as error:
        raise M2raapError(f"{path}: is damaged ({str(error)[:200]}); remove it, and the steps are done again") from None
    return tree


def is_look(step: int) -> bool:
    """Whether the val clips are looked at before a step: often at first, because few clips are soon learnt by heart."""
    return step > 0 and step % (25 if step <= 200 else 100) == 0


def val_rows(task: Task) -> Iterator[tuple[int, Shard, np.ndarray]]:
    """(index of the shard, shard, clips) of the first VAL_CLIPS val clips of a member."""
    left = VAL_CLIPS
    for index in range(task.job.num_shards):
        shard = read_shard(task.job.shard(index))
        rows = shard.rows(task.member, task.job.cfg.folds, "val")[:left]
        left -= len(rows)
        if len(rows):
            yield index, shard, rows
        if not left:
            return
