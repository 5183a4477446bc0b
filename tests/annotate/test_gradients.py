"""Full-batch gradients over shards: sums are exact, averages of averages are not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import torch

from m2raap.annotate.gradients import gradient_sum, put_gradients
from m2raap.annotate.heads import pool, train_heads
from m2raap.annotate.job import Job
from m2raap.annotate.pretrain import pretrain
from m2raap.annotate.shards import Shard, read_shard, write_shard
from m2raap.annotate.tasks import Task
from tests.annotate.made import made_job


def with_one_shard(job: Job, folder: Path, parts: list[Shard]) -> Job:
    """The same clips and weights with all clips in one shard."""
    shutil.copytree(job.folder, folder)
    whole = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("frames_FE", "labels", "fold_N", "val_N")
    }
    for name in ("starts_N1", "label_starts_N1"):
        lengths = np.concatenate([np.diff(getattr(part, name)) for part in parts])
        whole[name] = np.concatenate([[0], np.cumsum(lengths)])
    other = dataclasses.replace(job, folder=folder, num_shards=1)
    write_shard(other.shard(0), Shard(**whole))
    return other


def test_sums_over_four_shards_are_the_gradient_and_averages_are_not(tmp_path: Path):
    job = made_job(tmp_path / "job", num_clips=230, shards=4, rounds=1, pretrain_steps=20, head_steps=20)
    pretrain(Task(job, 0))
    for index in range(4):
        pool(Task(job, 0, 0, index))
    for group in range(len(job.groups)):
        train_heads(Task(job, 0, 0, group))
    # Shards differ in size, as parts of a corpus do: the last one holds fewer clips.
    parts = [read_shard(job.shard(index)) for index in range(4)]
    small = Shard(
        **{k: v for k, v in vars(parts[3]).items() if k in Shard.__dataclass_fields__} | {"fold_N": parts[3].fold_N * 0}
    )
    write_shard(job.shard(3), small)
    one = with_one_shard(job, tmp_path / "one", [*parts[:3], small])
    sums = [gradient_sum(Task(job, 0, 0, index)) for index in range(4)]
    shared = job.load_shared(job.shared(0, 0))
    weights = list(shared.parameters())
    losses = {"sums": put_gradients(weights, sums)}
    gradients = [p.grad.clone() for p in weights if p.grad is not None]
    losses["whole"] = put_gradients(weights, [gradient_sum(Task(one, 0))])
    assert abs(losses["sums"] - losses["whole"]) < 1e-6 * losses["whole"]
    trained = [part for part in sums if part.num_clips]
    naive = [sum(part.gradients[i] / part.num_clips for part in trained) / len(trained) for i in range(len(weights))]
    for gradient, p, average in zip(gradients, weights, naive, strict=True):
        assert p.grad is not None
        scale = p.grad.abs().max()
        assert (gradient - p.grad).abs().max() < 1e-6 * max(scale, 1.0)
        if scale > 1e-4:
            assert (average - p.grad).abs().max() > 1e-3 * scale
    assert len({part.num_clips for part in sums}) > 1


def test_the_gradient_is_that_of_the_loss_written_out(tmp_path: Path):
    """Against autograd through shared layers and all heads at once."""
    job = made_job(tmp_path, shards=1, rounds=1, pretrain_steps=10, head_steps=10)
    pretrain(Task(job, 1))
    pool(Task(job, 1))
    for group in range(len(job.groups)):
        train_heads(Task(job, 1, 0, group))
    shared, shard = job.load_shared(job.shared(1, 0)), read_shard(job.shard(0))
    rows = shard.rows(1, 2, "train")
    z = shared(*map(torch.from_numpy, shard.frames(rows)))
    loss = sum(
        job.load_heads(job.heads(1, 0, group), labels).losses(z, torch.from_numpy(shard.truth(rows, labels))).sum()
        for group, labels in enumerate(job.groups)
    ) / len(rows)
    expected = torch.autograd.grad(loss, list(shared.parameters()))
    weights = list(shared.parameters())
    assert abs(put_gradients(weights, [gradient_sum(Task(job, 1))]) - float(loss)) < 1e-5
    for p, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-6, rtol=1e-4)
