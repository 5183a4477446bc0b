"""The heads of a round, new ones: over the vectors of the frozen shared layers, a group of labels at a time (model parallel).

Each label keeps the weights with which its val clips cost least. Nothing of a label depends on the others of its group.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from m2raap.annotate.experts import MoEHeads
from m2raap.annotate.job import save_weights
from m2raap.annotate.shards import Shard
from m2raap.annotate.tasks import (
    PATIENCE,
    Task,
    begin,
    falling,
    is_look,
    learn,
    train_batches,
    val_rows,
    vectors_of,
)
from m2raap.retrieval.embeddings import read_npy, write_npy


def pool(task: Task) -> None:
    """Writes the vectors of all clips of a shard by the shared layers of the round."""
    begin()
    path = task.job.vectors(task.member, task.round, task.index)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npy(path, vectors_of(task.job.load_shared(task.shared_path), task.shard(), None))


def train_heads(task: Task) -> None:
    """Trains new heads of a group of labels over the vectors of all shards and writes them."""
    job, cfg, on = task.job, task.job.cfg, begin()
    path = job.heads(task.member, task.round, task.index)
    if path.exists():
        return
    labels = job.groups[task.index]
    names, priors = [job.labels.names_L[label] for label in labels], job.labels.priors_L[labels]
    heads, best = (
        MoEHeads(job.hidden, job.experts_L[labels]).begin(names, priors, cfg.seed + task.round).to(on) for _ in "ab"
    )
    optimiser = torch.optim.Adam(heads.parameters(), cfg.lr)
    looks = _Looks(task, labels, heads, best)
    shard: Shard | None = None
    z_NH, truth_NL = np.zeros((0, 0)), np.zeros((0, 0), bool)
    for step, (index, other, rows_B) in enumerate(islice(train_batches(task, 2), cfg.head_steps)):
        if is_look(step) and looks.stop():
            break
        if other is not shard:
            shard, z_NH = other, read_npy(job.vectors(task.member, task.round, index))
            truth_NL = shard.truth(np.arange(len(shard)), labels)
        optimiser.param_groups[0]["lr"] = cfg.lr * falling(step, cfg.head_steps)
        z_BH, truth_BL = torch.from_numpy(z_NH[rows_B]).to(on), torch.from_numpy(truth_NL[rows_B]).to(on)
        loss = heads.losses(z_BH, truth_BL).sum() / len(rows_B)
        learn(optimiser, loss + cfg.l2 * heads.squared())
    looks.stop()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, best)


class _Looks:
    """Keeps in `best` the weights of each label with the lowest loss on the val clips."""

    def __init__(self, task: Task, labels: np.ndarray, heads: MoEHeads, best: MoEHeads) -> None:
        on = next(heads.parameters()).device
        vectors, truth = [np.zeros((0, task.job.hidden), np.float32)], [np.zeros((0, len(labels)), bool)]
        for index, shard, rows in val_rows(task):
            vectors.append(read_npy(task.job.vectors(task.member, task.round, index))[rows])
            truth.append(shard.truth(rows, labels))
        self.z_NH, self.truth_NL = (torch.from_numpy(np.concatenate(parts)).to(on) for parts in (vectors, truth))
        self.heads, self.best = heads, best
        self.lowest_L = np.full(len(labels), np.inf)
        self.looks_L = np.zeros(len(labels), np.int64)

    @torch.no_grad()
    def stop(self) -> bool:
        """Looks; whether no label has gained for PATIENCE looks."""
        loss_L = self.heads.losses(self.z_NH, self.truth_NL).cpu().numpy()
        gained_L = loss_L < self.lowest_L
        self.best.take(self.heads, gained_L)
        self.lowest_L = np.minimum(loss_L, self.lowest_L)
        self.looks_L = np.where(gained_L, 0, self.looks_L + 1)
        return bool((self.looks_L >= PATIENCE).all())
