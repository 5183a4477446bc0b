"""Claims: two Ray workers fit and apply a tagger at 1.7 times the rate of one; a worker's memory does not grow with the labels.

Made clips. Prints clips/s of the phases with one and two workers, the seconds and the peak memory of one round of heads for
`--labels` labels of `--experts` experts, and what follows for 500 million clips with 16,000 labels.

    python bench/annotate.py rates [--engine ray] [--clips 20000]
    python bench/annotate.py heads --labels 20000 [--experts 16] [--clips 4000]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.annotate.config import FitConfig
from m2raap.annotate.gradients import gradient_sum
from m2raap.annotate.heads import pool, train_heads
from m2raap.annotate.job import LABELS, Job
from m2raap.annotate.judge import ClipsTask, clip_scores
from m2raap.annotate.label_set import LabelSet
from m2raap.annotate.pretrain import pretrain
from m2raap.annotate.shards import make_shard, write_shard
from m2raap.annotate.tasks import Task
from m2raap.core.engine import Engine, LocalEngine

DIM, FRAMES, LABELS_A_CLIP = 512, 8, 5


def made_job(folder: Path, num_clips: int, num_labels: int, experts: int, **changes: Any) -> Job:
    """Random frame vectors and labels, in shards, with heads of `experts` experts for all labels."""
    cfg = FitConfig(folds=1, rounds=1, max_experts=experts, positives_per_expert=1, **changes)
    draw = np.random.default_rng(0)
    shards = -(-num_clips // cfg.shard_clips)
    (folder / "shards").mkdir()
    job = Job(cfg, folder, DIM, shards)
    counts = np.full(num_labels, experts)
    for index in range(shards):
        size = min(cfg.shard_clips, num_clips - index * cfg.shard_clips)
        frames = draw.standard_normal((size, FRAMES, DIM)).astype(np.float32)
        frames /= np.linalg.norm(frames, axis=2, keepdims=True)
        labels = [sorted(set(draw.integers(0, num_labels, LABELS_A_CLIP).tolist())) for _ in range(size)]
        np.add.at(counts, np.concatenate([np.array(row) for row in labels]), 1)
        write_shard(job.shard(index), make_shard(list(frames), labels, [f"v{index}-{i}" for i in range(size)], cfg))
    names = tuple(f"label{i}" for i in range(num_labels))
    LabelSet(names, ((),) * num_labels, tuple(counts.tolist()), num_clips).save(folder / LABELS)
    return job


def seconds(engine: Engine, work: Callable[[Any], Any], tasks: Sequence[Any]) -> float:
    start = time.perf_counter()
    for _ in engine.map(work, tasks, True):
        pass
    return time.perf_counter() - start


def engine_of(name: str, workers: int) -> Engine:
    if name == "local":
        return LocalEngine(workers)
    from m2raap.core.ray_engine import RayEngine

    return RayEngine(workers)


def rates(engine_name: str, num_clips: int) -> None:
    """Seconds of each phase with one and with two workers, which have started and imported what they need."""
    taken: dict[int, dict[str, float]] = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            job = made_job(
                Path(name), num_clips, 400, 4, shard_clips=1000, group_weights=150_000, head_steps=200, pretrain_steps=1
            )
            shards = [Task(job, 0, 0, index) for index in range(job.num_shards)]
            groups = [Task(job, 0, 0, group) for group in range(len(job.groups))]
            engine = engine_of(engine_name, workers)
            seconds(engine, pretrain, [Task(job, 0)] * workers)  # loads the libraries in every worker
            taken[workers] = {
                "vectors": seconds(engine, pool, shards),
                "heads": seconds(engine, train_heads, groups),
                "full-batch step": seconds(engine, gradient_sum, shards),
                "tags": seconds(engine, clip_scores, [ClipsTask(job, 0, 0, t.index, None, "train") for t in shards]),
            }
            engine.close()
    for phase, one in taken[1].items():
        two = taken[2][phase]
        per = (
            f"{num_clips / one:>9,.0f} {num_clips / two:>9,.0f} clips/s"
            if phase != "heads"
            else f"{one:>9.1f} {two:>9.1f} s      "
        )
        print(f"{phase:<18}{per}   ratio {one / two:.2f}", flush=True)


def heads(num_labels: int, experts: int, num_clips: int) -> None:
    """One round of heads on two workers: new heads of all labels over the vectors of all clips."""
    with tempfile.TemporaryDirectory() as name:
        steps = -(-num_clips // 256)
        job = made_job(Path(name), num_clips, num_labels, experts, hidden=64, head_steps=steps, pretrain_steps=1)
        engine = LocalEngine(2)
        pretrain(Task(job, 0))
        pool_s = seconds(engine, pool, [Task(job, 0, 0, index) for index in range(job.num_shards)])
        heads_s = seconds(engine, train_heads, [Task(job, 0, 0, group) for group in range(len(job.groups))])
        peaks = dict(engine.map(_peak_mb, [0, 0]))
        engine.close()
        size = sum(path.stat().st_size for path in job.round(0, 0).glob("heads-*"))
        print(
            f"{num_labels:,} labels x {experts} experts, {num_clips:,} clips, one pass: {len(job.groups)} groups, vectors "
            f"{pool_s:.1f} s, heads {heads_s:.0f} s, {size / 1e6:.0f} MB of heads, peak of a worker {max(peaks.values()):,.0f} MB"
        )


def _peak_mb(_: int) -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "heads"])
    parser.add_argument("--engine", choices=["local", "ray"], default="ray")
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--labels", type=int, nargs="+", default=[20000])
    parser.add_argument("--experts", type=int, default=16)
    options = parser.parse_args()
    if options.what == "rates":
        rates(options.engine, options.clips)
    for num_labels in options.labels if options.what == "heads" else ():
        heads(num_labels, options.experts, options.clips)


if __name__ == "__main__":
    main()
