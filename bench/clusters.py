"""Claim: clusters from coarse to fine are at least three times as fast as flat k-means, and how much worse they are.

Both cluster the same vectors on one core: 60,000 of 64 dimensions around 1,024 centres, which are themselves grouped in 32
directions.
Printed: seconds, the mean cosine of a vector with its centre, and the normalised mutual information (NMI) with the true groups.

    python bench/clusters.py [--vectors 60000] [--coarse 32] [--fine 32] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from m2raap.core.clusters import coarse_to_fine, nearest_centres, spherical_kmeans

DIM = 64


def world(count: int, coarse: int, fine: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, DIM) around coarse x fine centres, and the number of each vector's centre."""
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(coarse, 1, DIM))
    centres = (groups + 0.9 * rng.normal(size=(coarse, fine, DIM))).reshape(-1, DIM)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    labels = rng.integers(len(centres), size=count)
    vectors = centres[labels] + 0.5 * rng.normal(size=(count, DIM)) / np.sqrt(DIM)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def nmi(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information of two labellings over the mean of their entropies."""
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    joint = table / table.sum()
    marginals = [joint.sum(1), joint.sum(0)]
    entropies = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in marginals]
    outer = np.outer(*marginals)
    mutual = (joint[joint > 0] * np.log(joint[joint > 0] / outer[joint > 0])).sum()
    return float(2 * mutual / sum(entropies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=60_000)
    parser.add_argument("--coarse", type=int, default=32)
    parser.add_argument("--fine", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = {"flat": [], "coarse to fine": []}
    for seed in range(options.seeds):
        vectors, labels = world(options.vectors, options.coarse, options.fine, seed)
        start = time.process_time()
        centres = spherical_kmeans(vectors, options.coarse * options.fine, seed)
        flat = nearest_centres(vectors, centres)
        middle = time.process_time()
        clusters = coarse_to_fine(vectors, options.coarse, options.fine, seed)
        _, fine = clusters.assign(vectors)
        end = time.process_time()
        for name, seconds, numbers, of in (
            ("flat", middle - start, flat, centres),
            ("coarse to fine", end - middle, fine, clusters.fine_CE),
        ):
            rows[name].append((seconds, float((vectors * of[numbers]).sum(1).mean()), nmi(labels, numbers)))
    for name, runs in rows.items():
        seconds, cosine, information = np.median(runs, axis=0).round(3).tolist()
        print(json.dumps({"clusters": name, "seconds": seconds, "cosine": cosine, "nmi": information}))
    ratio = np.median([a[0] for a in rows["flat"]]) / np.median([b[0] for b in rows["coarse to fine"]])
    print(json.dumps({"flat over coarse to fine": round(float(ratio), 2)}))


if __name__ == "__main__":
    main()
