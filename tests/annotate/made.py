"""A small fit on made clips: each label is two unrelated clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from m2raap.annotate.config import FitConfig
from m2raap.annotate.fit import fit
from m2raap.annotate.job import LABELS, Job
from m2raap.annotate.label_set import LabelSet
from m2raap.annotate.shards import make_shard, write_shard
from m2raap.annotate.tagger import Tagger
from m2raap.core.engine import Engine

DIM, NUM_LABELS, CLUSTERS = 12, 5, 10
SMALL: dict[str, Any] = {
    "hidden": 8, "max_experts": 3, "positives_per_expert": 30, "pretrain_steps": 60, "head_steps": 60, "rounds": 2,
    "shared_steps": 3, "batch_size": 32, "shard_clips": 80, "group_weights": 100, "val_share": 0.2, "lr": 0.02,
}  # fmt: skip


def made_job(folder: Path, num_clips: int = 240, shards: int = 3, **changes: Any) -> Job:
    """labels.json and shards of made clips, in `folder`; clip i has cluster i % CLUSTERS."""
    cfg = FitConfig(**(SMALL | changes))
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((CLUSTERS, DIM))
    frames, labels = [], []
    for clip in range(num_clips):
        cluster, length = clip % CLUSTERS, 1 + clip % 3
        x_KE = centres[cluster] + 0.4 * draw.standard_normal((length, DIM))
        frames.append(x_KE / np.linalg.norm(x_KE, axis=1, keepdims=True))
        labels.append(
            sorted({cluster % NUM_LABELS, (cluster + 1) % NUM_LABELS} if cluster < 7 else {cluster % NUM_LABELS})
        )
    counts = np.bincount([label for row in labels for label in row], minlength=NUM_LABELS)
    names = tuple(f"label{i}" for i in range(NUM_LABELS))
    folder.mkdir(parents=True, exist_ok=True)
    LabelSet(names, tuple((f"en:label{i}",) for i in range(NUM_LABELS)), tuple(counts.tolist()), num_clips).save(
        folder / LABELS
    )
    (folder / "shards").mkdir()
    job = Job(cfg, folder, DIM, shards)
    for index in range(shards):
        rows = slice(index, None, shards)
        videos = [f"clip{i}" for i in range(num_clips)][rows]
        write_shard(job.shard(index), make_shard(frames[rows], labels[rows], videos, cfg))
    return job


def fit_of(job: Job, engine: Engine) -> Path:
    """The folder of the fitted tagger."""
    fit(job, engine, job.folder / "tagger", {"vectors": "made", "corpus": "made"}, lambda what, done, total: None)
    return job.folder / "tagger"


def metrics_of(job: Job, engine: Engine) -> dict[str, Any]:
    return Tagger.load(fit_of(job, engine)).tree["metrics"]
