"""The work of the phases of a fit, each on its share: tasks that an engine maps.

pre-train  a member: shared layers and small heads together, Adam
pool       a shard: the vectors that the shared layers make of its clips
heads      a group of labels: new heads, Adam over the vectors of all shards (model parallel)
gradient   a shard: the sum of the gradients of the shared layers over its clips (data parallel)
best       a shard: the best tags of its clips

A task writes one file, or returns what is small, and reads what it needs from the shared file system. It computes with one
thread and in an order that does not depend on the number of workers. B clips of a batch, K frames, H size of a vector, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.checkpoint import DAMAGED, load_tree, save_tree
from m2raap.annotate.experts import MoEHeads
from m2raap.annotate.job import Job, save_weights
from m2raap.annotate.metrics import TOP, Judgement
from m2raap.annotate.shards import Shard, read_shard
from m2raap.annotate.shared_layers import SharedLayers
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.retrieval.embeddings import read_npy, write_npy

CLIPS_A_PASS = 512  # clips whose vectors are computed at once where nothing is learnt from a batch alone


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


def _begin() -> str:
    torch.set_num_threads(1)  # with more, the last bits of a sum would depend on the number of workers
    return device()


def pretrain(task: Task) -> None:
    """Trains shared layers with small heads of the most frequent labels and writes the shared layers. After every pass a
    checkpoint keeps where it stands."""
    job, cfg, on = task.job, task.job.cfg, _begin()
    path = job.shared(task.member, 0)
    if path.exists():
        return
    labels = np.arange(min(cfg.pretrain_labels, len(job.labels)))
    names, priors = [job.labels.names_L[label] for label in labels], job.labels.priors_L[labels]
    shared = SharedLayers(job.dim, cfg).to(on)
    heads = (
        MoEHeads(job.hidden, np.minimum(job.experts_L[labels], cfg.pretrain_experts))
        .begin(names, priors, cfg.seed)
        .to(on)
    )
    weights = [*shared.parameters(), *heads.parameters()]
    optimiser = torch.optim.Adam(weights, cfg.lr)
    kept = path.with_name("pretrain.pt")
    first = _resume(kept, shared, heads, optimiser)
    steps = cfg.pretrain_epochs * sum(_num_batches(task, index) for index in range(job.num_shards))
    step = first * (steps // max(cfg.pretrain_epochs, 1))
    for epoch in range(first, cfg.pretrain_epochs):
        for shard, rows_B in _train_batches(task, epoch, 1):
            step += 1
            optimiser.param_groups[0]["lr"] = cfg.lr * _falling(step, steps)
            x_BKE, mask_BK = (torch.from_numpy(array).to(on) for array in shard.frames(rows_B))
            loss = heads.loss(shared(x_BKE, mask_BK), torch.from_numpy(shard.truth(rows_B, labels)).to(on)) / len(
                rows_B
            )
            _learn(optimiser, loss + cfg.l2 * heads.squared(), weights)
        tree = {"epoch": epoch + 1, "shared": shared.state_dict(), "heads": heads.state_dict()}
        save_tree(kept, tree | {"optimiser": optimiser.state_dict()})
    save_weights(path, shared)
    kept.unlink(missing_ok=True)


def _resume(kept: Any, shared: SharedLayers, heads: MoEHeads, optimiser: torch.optim.Optimizer) -> int:
    """Puts the checkpoint back; returns the number of passes that are done."""
    if not kept.exists():
        return 0
    try:
        tree = load_tree(kept)
        shared.load_state_dict(tree["shared"])
        heads.load_state_dict(tree["heads"])
        optimiser.load_state_dict(tree["optimiser"])
        return int(tree["epoch"])
    except DAMAGED as error:
        raise M2raapError(
            f"{kept}: is damaged ({str(error)[:200]}); remove it, and the passes are done again"
        ) from None


def pool(task: Task) -> None:
    """Writes the vectors of all clips of a shard by the shared layers of the round."""
    _begin()
    path = task.job.vectors(task.member, task.round, task.index)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npy(path, vectors_of(task.job.load_shared(task.shared_path), task.shard(), None))


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


def train_heads(task: Task) -> None:
    """Trains new heads of a group of labels over the vectors of all shards and writes them."""
    job, cfg, on = task.job, task.job.cfg, _begin()
    path = job.heads(task.member, task.round, task.index)
    if path.exists():
        return
    labels = job.groups[task.index]
    names, priors = [job.labels.names_L[label] for label in labels], job.labels.priors_L[labels]
    heads = MoEHeads(job.hidden, job.experts_L[labels]).begin(names, priors, cfg.seed + task.round).to(on)
    optimiser = torch.optim.Adam(heads.parameters(), cfg.lr)
    steps = cfg.head_epochs * sum(_num_batches(task, index) for index in range(job.num_shards))
    step = 0
    for epoch in range(cfg.head_epochs):
        for index in task.generator(2, epoch).permutation(job.num_shards).tolist():
            shard, z_NH = read_shard(job.shard(index)), read_npy(job.vectors(task.member, task.round, index))
            rows = shard.rows(task.member, cfg.folds, "train")
            truth_NL = shard.truth(rows, labels)
            order = task.generator(3, epoch, index).permutation(len(rows))
            for start in range(0, len(rows), cfg.batch_size):
                step += 1
                optimiser.param_groups[0]["lr"] = cfg.lr * _falling(step, steps)
                batch = order[start : start + cfg.batch_size]
                z_BH, truth_BL = torch.from_numpy(z_NH[rows[batch]]).to(on), torch.from_numpy(truth_NL[batch]).to(on)
                loss = heads.loss(z_BH, truth_BL) / len(batch) + cfg.l2 * heads.squared()
                _learn(optimiser, loss, heads.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, heads)


@dataclass(frozen=True)
class GradientSum:
    """Over the training clips of a shard: the sum of the losses, the sum of the gradients of each shared weight, and the number
    of clips. Sums of shards add up to those of all; means of shards do not."""

    loss: float
    gradients: list[Tensor]
    num_clips: int


def gradient_sum(task: Task) -> GradientSum:
    """The gradients of the shared layers, whose heads stay as they are. Heads are read group by group: first the gradient of each
    clip's vector over all labels, then that of the shared layers."""
    job, on = task.job, _begin()
    shared, shard = job.load_shared(task.shared_path), task.shard()
    rows = shard.rows(task.member, job.cfg.folds, "train")
    z_NH = torch.from_numpy(vectors_of(shared, shard, rows))
    of_vectors_NH = torch.zeros_like(z_NH)
    total = 0.0
    for group, labels in enumerate(job.groups):
        heads = job.load_heads(job.heads(task.member, task.round, group), labels).requires_grad_(False)
        truth_NL = shard.truth(rows, labels)
        for start in range(0, len(rows), CLIPS_A_PASS):
            block = slice(start, start + CLIPS_A_PASS)
            z_BH = z_NH[block].to(on).requires_grad_()
            loss = heads.loss(z_BH, torch.from_numpy(truth_NL[block]).to(on))
            total += float(loss.detach())
            of_vectors_NH[block] += torch.autograd.grad(loss, z_BH)[0].cpu()
    weights = list(shared.parameters())
    sums = [torch.zeros_like(p, device="cpu") for p in weights]
    for start in range(0, len(rows) if weights else 0, CLIPS_A_PASS):
        x_BKE, mask_BK = shard.frames(rows[start : start + CLIPS_A_PASS])
        z_BH = shared(torch.from_numpy(x_BKE).to(on), torch.from_numpy(mask_BK).to(on))
        gradients = torch.autograd.grad(z_BH, weights, of_vectors_NH[start : start + CLIPS_A_PASS].to(on))
        for place, gradient in enumerate(gradients):
            sums[place] += gradient.cpu()
    return GradientSum(total, sums, len(rows))


@dataclass(frozen=True)
class BestTask(Task):
    """`which`: val or unseen (see Shard.rows)."""

    which: str = "val"


def best_tags(task: BestTask) -> Judgement:
    """The best tags of the clips of a shard by the heads of the round, which are read group by group."""
    job = task.job
    _begin()
    shared, shard = job.load_shared(task.shared_path), task.shard()
    rows = shard.rows(task.member, job.cfg.folds, task.which)
    z_NH = torch.from_numpy(vectors_of(shared, shard, rows)).to(device())
    p_NT, true_NT = np.zeros((len(rows), 0), np.float32), np.zeros((len(rows), 0), bool)
    for group, labels in enumerate(job.groups):
        heads = job.load_heads(job.heads(task.member, task.round, group), labels)
        with torch.no_grad():
            p_NL = heads(z_NH).cpu().numpy()
        p_NT, true_NT = np.concatenate([p_NT, p_NL], 1), np.concatenate([true_NT, shard.truth(rows, labels)], 1)
        best = np.argsort(-p_NT, axis=1, kind="stable")[:, :TOP]
        p_NT, true_NT = np.take_along_axis(p_NT, best, 1), np.take_along_axis(true_NT, best, 1)
    return Judgement(p_NT, true_NT, shard.num_labels_N[rows])


def _train_batches(task: Task, epoch: int, stream: int) -> Iterator[tuple[Shard, np.ndarray]]:
    """(shard, clips of a batch) of one pass over the training clips of a member."""
    cfg = task.job.cfg
    for index in task.generator(stream, epoch).permutation(task.job.num_shards).tolist():
        shard = read_shard(task.job.shard(index))
        rows = task.generator(stream, epoch, index).permutation(shard.rows(task.member, cfg.folds, "train"))
        for start in range(0, len(rows), cfg.batch_size):
            yield shard, rows[start : start + cfg.batch_size]


def _num_batches(task: Task, index: int) -> int:
    rows = read_shard(task.job.shard(index)).rows(task.member, task.job.cfg.folds, "train")
    return -(-len(rows) // task.job.cfg.batch_size)


def _falling(step: int, steps: int) -> float:
    """The learning rate at a step, from 1, as a share of the first one: a cosine that ends at 0."""
    return 0.5 * (1 + float(np.cos(np.pi * (step - 1) / max(steps, 1))))


def _learn(optimiser: torch.optim.Optimizer, loss: Tensor, weights: Any) -> None:
    if not bool(torch.isfinite(loss)):
        raise M2raapError(f"annotate: the loss is {float(loss.detach())}: lower annotate.fit.lr")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
