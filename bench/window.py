"""Claim: clustering a window takes some three times the memory of its vectors, whatever its size; of a million clips 18 GB.

The vectors are made, in the sizes of the first round, in which motion and sound are clustered as they are. Of windows of
different sizes are printed: gigabytes of the vectors, the peak of the process less what it held before, their ratio, and the
seconds.

    python bench/window.py [--clips 25000 50000 100000]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time

import numpy as np

from m2raap.cotrain.labels import cluster_window, label

# Of ViT-B/32, in round 0, in which motion and sound are clustered as they are: 384 values each, later 128.
SIZES = {"frames": 768, "motion": 384, "sound": 384}
COARSE, FINE = 64, 32  # those of recipes/cotrain_only.yaml


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measure(clips: int) -> dict[str, float]:
    """Of one window, in a process of its own, so that its peak is that of nothing else."""
    rng = np.random.default_rng(0)
    few = {name: rng.normal(size=(256, size)).astype(np.float32) for name, size in SIZES.items()}
    label(few, cluster_window(few, 4, 2, 0, {}))
    before = peak_gb()
    vectors = {name: np.empty((clips, size), np.float32) for name, size in SIZES.items()}
    for vectors_NE in vectors.values():
        centres_CE = rng.normal(size=(COARSE * FINE, vectors_NE.shape[1])).astype(np.float32)
        for start in range(0, clips, 4096):  # in blocks, so that making them takes no memory of its own
            block = vectors_NE[start : start + 4096]
            block[:] = centres_CE[rng.integers(len(centres_CE), size=len(block))]
            block += rng.standard_normal(block.shape, np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
    started = time.perf_counter()
    label(vectors, cluster_window(vectors, COARSE, FINE, 0, {}))
    seconds = time.perf_counter() - started
    of_vectors = sum(vectors_NE.nbytes for vectors_NE in vectors.values()) / 1024**3
    held = peak_gb() - before
    return {
        "clips": clips, "vectors_gb": round(of_vectors, 3), "held_gb": round(held, 3), "ratio": round(held / of_vectors, 2),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for clips in options.clips:
        with context.Pool(1) as pool:
            print(json.dumps(pool.apply(measure, (clips,))), flush=True)


if __name__ == "__main__":
    main()
