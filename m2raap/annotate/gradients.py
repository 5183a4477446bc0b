"""Full-batch gradients of the shared layers, as sums over shards (data parallel).

B clips of a block, H size of a vector, L labels of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from m2raap.annotate.tasks import CLIPS_A_PASS, Task, begin, vectors_of


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
    job, on = task.job, begin()
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
            loss = heads.losses(z_BH, torch.from_numpy(truth_NL[block]).to(on)).sum()
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


def put_gradients(weights: Sequence[nn.Parameter], sums: Sequence[GradientSum]) -> float:
    """The gradients of the mean loss of all clips, from the sums of the shards in their order. Returns that loss."""
    num_clips = sum(part.num_clips for part in sums)
    for place, p in enumerate(weights):
        total = torch.zeros_like(p)
        for part in sums:
            total += part.gradients[place]
        p.grad = total / num_clips
    return sum(part.loss for part in sums) / num_clips
