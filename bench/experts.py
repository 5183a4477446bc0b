"""Do experts pay where labels are mixed, and what do rounds and full-batch steps bring? On made clips, three seeds.

Each label is several unrelated clusters of clips. GAP@20 on clips that the tagger has not seen, with its middle 95% over clips.

    python bench/experts.py [--clips 6000] [--seeds 3]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.annotate.config import FitConfig
from m2raap.annotate.fit import fit
from m2raap.annotate.job import LABELS, Job
from m2raap.annotate.label_set import LabelSet
from m2raap.annotate.shards import make_shard, write_shard
from m2raap.annotate.tagger import Tagger
from m2raap.core.engine import LocalEngine

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


def fitted(clips: Clips, cfg: FitConfig, engine: LocalEngine) -> dict[str, Any]:
    """The metrics of a tagger that is fitted on the clips."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = np.bincount([label for row in clips.labels for label in row], minlength=NUM_LABELS)
        names = tuple(f"label{i}" for i in range(NUM_LABELS))
        LabelSet(names, ((),) * NUM_LABELS, tuple(counts.tolist()), len(clips.frames)).save(folder / LABELS)
        shards = -(-len(clips.frames) // cfg.shard_clips)
        job = Job(cfg, folder, DIM, shards)
        (folder / "shards").mkdir()
        for index in range(shards):
            rows = slice(index, None, shards)
            write_shard(job.shard(index), make_shard(clips.frames[rows], clips.labels[rows], clips.names[rows], cfg))
        fit(job, engine, folder / "tagger", {"vectors": "made", "corpus": ""}, lambda what, done, total: None)
        return Tagger.load(folder / "tagger").tree["metrics"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    base: dict[str, Any] = {"hidden": 64, "positives_per_expert": 1, "rounds": 1, "shared_steps": 0}
    joint = {"pretrain_experts": 5, "max_experts": 5}
    arms: dict[str, dict[str, Any]] = {f"{count:>2} experts": {"max_experts": count} for count in (1, 2, 4, 8, 16)}
    arms |= {
        "8 experts, swap pooling": {"pooling": "swap"},
        "8 experts, attention pooling": {"pooling": "attention"},
        "5 experts: 1,500 joint steps, heads anew 1,500": joint,
        "5 experts: 1,500 joint steps, heads anew 750, and anew 750": {**joint, "rounds": 2, "head_steps": 750},
        "5 experts: 2,900 joint steps, heads anew 100": {**joint, "pretrain_steps": 2900, "head_steps": 100},
        "8 experts, two rounds": {"rounds": 2},
        "8 experts, two rounds, 20 full-batch steps after each": {"rounds": 2, "shared_steps": 20},
    }
    print(f"{given.clips:,} clips, {NUM_LABELS} labels of {CLUSTERS_A_LABEL} clusters each")
    engine = LocalEngine(given.workers)
    for name, changes in arms.items():
        values = []
        for seed in range(given.seeds):
            metrics = fitted(made_clips(given.clips, seed), FitConfig(**{**base, **changes, "seed": seed}), engine)
            low, high = metrics["gap_95"]
            values.append(f"{100 * metrics['gap']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        print(f"{name:<80} {'  '.join(values)}", flush=True)
    engine.close()


if __name__ == "__main__":
    main()
