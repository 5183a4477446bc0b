"""Pre-training: the shared layers together with small heads of the most frequent labels, until the val clips gain no more."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.checkpoint import save_tree
from m2raap.annotate.experts import MoEHeads
from m2raap.annotate.job import save_weights
from m2raap.annotate.shared_layers import SharedLayers
from m2raap.annotate.tasks import PATIENCE, Task, begin, falling, is_look, learn, load_kept, train_batches, val_rows

STEPS_A_CHECKPOINT = 500


@dataclass
class _State:
    shared: SharedLayers
    heads: MoEHeads
    optimiser: torch.optim.Optimizer
    step: int = 0
    lowest: float = math.inf  # loss on the val clips so far
    looks: int = 0  # without a lower one
    best: dict[str, Tensor] = field(default_factory=dict)  # shared layers with the lowest

    def tree(self) -> dict[str, object]:
        modules = {name: getattr(self, name).state_dict() for name in ("shared", "heads", "optimiser")}
        return modules | {name: getattr(self, name) for name in ("step", "lowest", "looks", "best")}


def pretrain(task: Task) -> None:
    """Trains the shared layers of a member and writes them. From time to time a checkpoint keeps where it stands."""
    job, cfg, on = task.job, task.job.cfg, begin()
    path = job.shared(task.member, 0)
    if path.exists():
        return
    labels = np.arange(min(cfg.pretrain_labels, len(job.labels)))
    names, priors = [job.labels.names_L[label] for label in labels], job.labels.priors_L[labels]
    shared = SharedLayers(job.dim, cfg).to(on)
    heads = MoEHeads(job.hidden, np.minimum(job.experts_L[labels], cfg.pretrain_experts)).to(on)
    weights = [*shared.parameters(), *heads.begin(names, priors, cfg.seed).parameters()]
    state = _State(shared, heads, torch.optim.Adam(weights, cfg.lr))
    kept = path.with_name("pretrain.pt")
    if tree := load_kept(kept, shared=shared, heads=heads, optimiser=state.optimiser):
        state.step, state.lowest, state.looks, state.best = (tree[name] for name in ("step", "lowest", "looks", "best"))
    first = state.step
    for step, (_, shard, rows_B) in enumerate(islice(train_batches(task, 1), first, cfg.pretrain_steps), first):
        if is_look(step) and step > first and _stops(state, task, labels):
            break
        if step > first and step % STEPS_A_CHECKPOINT == 0:
            state.step = step
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tree(kept, state.tree())
        state.optimiser.param_groups[0]["lr"] = cfg.lr * falling(step, cfg.pretrain_steps)
        x_BKE, mask_BK = (torch.from_numpy(array).to(on) for array in shard.frames(rows_B))
        truth_BL = torch.from_numpy(shard.truth(rows_B, labels)).to(on)
        loss = heads.losses(shared(x_BKE, mask_BK), truth_BL).sum() / len(rows_B)
        learn(state.optimiser, loss + cfg.l2 * heads.squared())
    if cfg.pretrain_steps:
        _stops(state, task, labels)
        shared.load_state_dict(state.best or shared.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, shared)
    kept.unlink(missing_ok=True)


@torch.no_grad()
def _stops(state: _State, task: Task, labels: np.ndarray) -> bool:
    """Looks at the val clips; whether they have gained nothing for PATIENCE looks."""
    on, loss = next(state.heads.parameters()).device, 0.0
    for _, shard, rows in val_rows(task):
        x_BKE, mask_BK = (torch.from_numpy(array).to(on) for array in shard.frames(rows))
        truth_BL = torch.from_numpy(shard.truth(rows, labels)).to(on)
        loss += float(state.heads.losses(state.shared(x_BKE, mask_BK), truth_BL).sum())
    state.looks += 1
    if loss < state.lowest:
        state.lowest, state.looks = loss, 0
        state.best = {name: tensor.detach().cpu().clone() for name, tensor in state.shared.state_dict().items()}
    return state.looks >= PATIENCE
