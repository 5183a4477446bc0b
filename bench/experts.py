"""Do experts pay where labels are mixed, and what do rounds and full-batch steps bring? On made clips, three seeds.

Each label is several unrelated clusters of clips. GAP@20 on clips that the tagger has not seen, with its middle 95% over clips.

    python bench/experts.py [--clips 6000] [--seeds 3]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from m2raap.annotate.config import FitConfig
from m2raap.annotate.experts import MoEHeads
from m2raap.annotate.fit import fit
from m2raap.annotate.job import LABELS, Job, save_weights
from m2raap.annotate.judge import DRAWS, ClipsTask, clip_scores
from m2raap.annotate.label_set import LabelSet
from m2raap.annotate.metrics import TOP, Judgement, draws_of, gap, interval, joined
from m2raap.annotate.shards import Shard, make_shard, read_shard, write_shard
from m2raap.annotate.shared_layers import SharedLayers
from m2raap.annotate.tagger import Tagger
from m2raap.annotate.tasks import Task, falling, is_look, learn, train_batches, val_rows, vectors_of
from m2raap.core.engine import LocalEngine

R = TypeVar("R")
NUM_LABELS, CLUSTERS_A_LABEL, CLUSTERS, LATENT, FRAMES, DIM = 40, 6, 120, 24, 8, 64


@dataclass(frozen=True)
class Clips:
    """Frame vectors (K, E), labels and names of made clips."""

    frames: list[np.ndarray]
    labels: list[list[int]]
    names: list[str]


def made_clips(num_clips: int, seed: int) -> Clips:
    """Clips of CLUSTERS clusters; a label is CLUSTERS_A_LABEL of them, drawn at random. A quarter of the frames shows something
    else, and all are noisy."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((CLUSTERS, LATENT))
    labels_of = [np.flatnonzero(row) for row in _members(draw).T]
    linear, bent = draw.standard_normal((2, LATENT, DIM)) / LATENT**0.5
    cluster_N = draw.integers(0, CLUSTERS, num_clips)
    frames = []
    for cluster in cluster_N:
        z_KE = np.repeat((centres[cluster] + 0.55 * draw.standard_normal(LATENT))[None], FRAMES, 0)
        others = draw.random(FRAMES) < 0.25
        z_KE[others] = centres[draw.integers(0, CLUSTERS, others.sum())]
        x_KE = z_KE @ linear + 0.3 * np.tanh(z_KE @ bent) + 0.6 * draw.standard_normal((FRAMES, DIM))
        frames.append(x_KE / np.linalg.norm(x_KE, axis=1, keepdims=True))
    return Clips(frames, [labels_of[c].tolist() for c in cluster_N], [f"clip{i}" for i in range(num_clips)])


def _members(draw: np.random.Generator) -> np.ndarray:
    """(NUM_LABELS, CLUSTERS) bool."""
    members = np.zeros((NUM_LABELS, CLUSTERS), bool)
    for row in members:
        row[draw.choice(CLUSTERS, CLUSTERS_A_LABEL, replace=False)] = True
    return members


def job_of(clips: Clips, cfg: FitConfig, folder: Path) -> Job:
    """labels.json and shards of the clips, in `folder`."""
    counts = np.bincount([label for row in clips.labels for label in row], minlength=NUM_LABELS)
    names = tuple(f"label{i}" for i in range(NUM_LABELS))
    LabelSet(names, ((),) * NUM_LABELS, tuple(counts.tolist()), len(clips.frames)).save(folder / LABELS)
    shards = -(-len(clips.frames) // cfg.shard_clips)
    job = Job(cfg, folder, DIM, shards)
    (folder / "shards").mkdir()
    for index in range(shards):
        rows = slice(index, None, shards)
        write_shard(job.shard(index), make_shard(clips.frames[rows], clips.labels[rows], clips.names[rows], cfg))
    return job


def fitted(job: Job, engine: LocalEngine) -> str:
    """GAP of a tagger that is fitted on the clips of the job."""
    fit(job, engine, job.folder / "tagger", {"vectors": "made", "corpus": ""}, lambda what, done, total: None)
    metrics = Tagger.load(job.folder / "tagger").tree["metrics"]
    return _shown(metrics["gap"], metrics["gap_95"])


def _shown(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _gap_of(judged: Judgement, seed: int) -> str:
    return _shown(gap(judged), interval([gap(judged, row) for row in draws_of(len(judged.p_NT), seed, DRAWS)]))


def jointly(job: Job, steps: int) -> str:
    """GAP of shared layers and heads that are trained together for all steps, stopped by the val clips as pre-training is."""
    torch.set_num_threads(1)
    parts = []
    for member in range(job.cfg.folds):
        task, labels, cfg = Task(job, member), np.arange(NUM_LABELS), job.cfg
        shared, heads = SharedLayers(DIM, cfg), MoEHeads(job.hidden, job.experts_L)
        heads.begin(job.labels.names_L, job.labels.priors_L, cfg.seed)
        weights = [*shared.parameters(), *heads.parameters()]
        optimiser, lowest, best = torch.optim.Adam(weights, cfg.lr), np.inf, None
        for step, (_, shard, rows) in enumerate(islice(train_batches(task, 1), steps)):
            if is_look(step) or step == steps - 1:
                cost = sum(_cost(shared, heads, s, r, labels) for _, s, r in val_rows(task))
                if cost < lowest:
                    lowest, best = cost, copy.deepcopy((shared, heads))
            optimiser.param_groups[0]["lr"] = cfg.lr * falling(step, steps)
            z_BH = shared(*map(torch.from_numpy, shard.frames(rows)))
            loss = heads.losses(z_BH, torch.from_numpy(shard.truth(rows, labels))).sum() / len(rows)
            learn(optimiser, loss + cfg.l2 * heads.squared())
        assert best is not None
        for index in range(job.num_shards):
            shard = read_shard(job.shard(index))
            rows = shard.rows(member, cfg.folds, "unseen")
            with torch.no_grad():
                p_NL = best[1](torch.from_numpy(vectors_of(best[0], shard, rows))).numpy()
            order = np.argsort(-p_NL, axis=1, kind="stable")[:, :TOP]
            true_NT = np.take_along_axis(shard.truth(rows, labels), order, 1)
            parts.append(Judgement(np.take_along_axis(p_NL, order, 1), true_NT, shard.num_labels_N[rows]))
    return _gap_of(joined(parts), job.cfg.seed)


@torch.no_grad()
def _cost(shared: SharedLayers, heads: MoEHeads, shard: Shard, rows: np.ndarray, labels: np.ndarray) -> float:
    z_NH = torch.from_numpy(vectors_of(shared, shard, rows))
    return float(heads.losses(z_NH, torch.from_numpy(shard.truth(rows, labels))).sum())


def steps_of_the_shared_layers(job: Job, engine: LocalEngine) -> dict[str, str]:
    """GAP with the heads of the first round and the shared layers before, after full-batch steps, and after as many passes of
    Adam in batches."""
    fitted(job, engine)
    for member in range(job.cfg.folds):
        task, cfg = Task(job, member), job.cfg
        shared = job.load_shared(job.shared(member, 0))
        heads = [
            job.load_heads(job.heads(member, 0, g), labels).requires_grad_(False) for g, labels in enumerate(job.groups)
        ]
        optimiser = torch.optim.Adam(shared.parameters(), cfg.lr / 4)
        batches = cfg.shared_steps * sum(-(-len(r) // cfg.batch_size) for r in _rows(task))
        for step, (_, shard, rows) in enumerate(islice(train_batches(task, 5), batches)):
            optimiser.param_groups[0]["lr"] = cfg.lr / 4 * falling(step, batches)
            z_BH = shared(*map(torch.from_numpy, shard.frames(rows)))
            losses = [
                h.losses(z_BH, torch.from_numpy(shard.truth(rows, g))).sum()
                for h, g in zip(heads, job.groups, strict=True)
            ]
            learn(optimiser, torch.stack(losses).sum() / len(rows))
        save_weights(job.shared(member, 99), shared)
    names = {"before": 0, "after 20 full-batch steps": 1, "after 20 passes of Adam": 99}
    return {name: _gap_of(joined(_unseen(job, number)), job.cfg.seed) for name, number in names.items()}


def _rows(task: Task) -> list[np.ndarray]:
    shards = [read_shard(task.job.shard(index)) for index in range(task.job.num_shards)]
    return [shard.rows(task.member, task.job.cfg.folds, "train") for shard in shards]


def _unseen(job: Job, shared: int) -> list[Judgement]:
    tasks = [
        ClipsTask(job, member, 0, index, shared, "unseen")
        for member in range(job.cfg.folds)
        for index in range(job.num_shards)
    ]
    return [clip_scores(task).best for task in tasks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    base: dict[str, Any] = {"hidden": 64, "positives_per_expert": 1, "rounds": 1, "shared_steps": 0}
    arms: dict[str, dict[str, Any]] = {f"{count:>2} experts": {"max_experts": count} for count in (1, 2, 4, 8, 16)}
    arms |= {
        "8 experts, swap pooling": {"pooling": "swap"},
        "8 experts, attention pooling": {"pooling": "attention"},
        "8 experts, two rounds": {"rounds": 2},
        "8 experts, two rounds, 20 full-batch steps after each": {"rounds": 2, "shared_steps": 20},
    }
    rows: dict[str, list[str]] = {}
    engine = LocalEngine(given.workers)
    for seed in range(given.seeds):
        clips = made_clips(given.clips, seed)

        def with_job(changes: dict[str, Any], work: Callable[[Job], R], clips: Clips = clips, seed: int = seed) -> R:
            with tempfile.TemporaryDirectory() as name:
                return work(job_of(clips, FitConfig(**{**base, **changes, "seed": seed}), Path(name)))

        for name, changes in arms.items():
            rows.setdefault(name, []).append(with_job(changes, lambda job: fitted(job, engine)))
        rows.setdefault("8 experts, jointly for 3,000 steps", []).append(with_job({}, lambda job: jointly(job, 3000)))
        moved = with_job({"shared_steps": 20}, lambda job: steps_of_the_shared_layers(job, engine))
        for name, value in moved.items():
            rows.setdefault(f"8 experts, shared layers {name}", []).append(value)
    engine.close()
    print(f"{given.clips:,} clips, {NUM_LABELS} labels of {CLUSTERS_A_LABEL} clusters each; GAP@20 for each seed")
    for name, values in rows.items():
        print(f"{name:<58} {'  '.join(values)}")


if __name__ == "__main__":
    main()
