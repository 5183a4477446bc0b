"""Claim: near-identical clips of a million are found in seconds on one core, exactly, and ten million are in reach.

Generator (seeded): of n clips 85% have a 64-bit hash of their own (uniform), 14% are copies of one of those with 0 to 6
random bits turned over, and 1% show one picture that many clips share (0 to 2 bits turned). Pairs within Hamming 6 are found by
m2raap.curate.duplicates.near_pairs, clusters are their connected components. Against brute force (FAISS, binary flat, range
search) on a sample of clips: the share of its pairs that lie in one cluster of ours.

    python bench/dedup.py [--n 1000000] [--sample 2000] [--also 2000000]

Real hashes are not uniform: then buckets are fuller, and `max_bucket` is what bounds the work.
"""

from __future__ import annotations

import argparse
import math
import resource
import time

import numpy as np

from m2raap.curate.duplicates import DuplicateConfig, band_orders, near_pairs


def hashes(num: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, num])
    kind = rng.choice(3, num, p=[0.85, 0.14, 0.01])
    values = rng.integers(0, 2**64, num, np.uint64)
    originals = np.flatnonzero(kind == 0)
    copies = np.flatnonzero(kind == 1)
    values[copies] = values[rng.choice(originals, len(copies))]
    values[kind == 2] = values[originals[0]]
    flips = np.where(kind == 1, rng.integers(0, 7, num), np.where(kind == 2, rng.integers(0, 3, num), 0))
    for step in range(int(flips.max())):
        bit = np.uint64(1) << rng.integers(0, 64, num, np.uint64)
        values ^= np.where(flips > step, bit, np.uint64(0))
    return values


def components(pairs: np.ndarray, num: int) -> np.ndarray:
    """(num,): the label of every row is the smallest row that is connected with it."""
    labels = np.arange(num)
    while True:
        low = np.minimum(labels[pairs[:, 0]], labels[pairs[:, 1]])
        new = labels.copy()
        np.minimum.at(new, pairs[:, 0], low)
        np.minimum.at(new, pairs[:, 1], low)
        new = new[new]
        if np.array_equal(new, labels):
            return labels
        labels = new


def brute_force(values: np.ndarray, rows: np.ndarray, max_bits: int) -> np.ndarray:
    """(P, 2): pairs of a row of the sample with every other row within `max_bits` bits."""
    import faiss

    faiss.omp_set_num_threads(1)
    planes = values.view(np.uint8).reshape(-1, 8)
    index = faiss.IndexBinaryFlat(64)
    index.add(planes)
    limits, distances, neighbours = index.range_search(planes[rows], max_bits + 1)
    pairs = np.stack([np.repeat(rows, np.diff(limits.astype(np.int64))), neighbours], axis=1)[distances <= max_bits]
    return pairs[pairs[:, 0] != pairs[:, 1]]


def measured(num: int) -> tuple[np.ndarray, np.ndarray, float]:
    values = hashes(num)
    cfg = DuplicateConfig()
    start = time.process_time()
    pairs = near_pairs(values, cfg.max_hamming, cfg.max_bucket)
    return values, pairs, time.process_time() - start


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=2000)
    parser.add_argument("--also", type=int, default=2_000_000, help="a larger run for the growth; 0: none")
    args = parser.parse_args()
    cfg = DuplicateConfig()
    print(f"{'clips':>10}{'tables':>7}{'CPU s':>9}{'pairs':>12}{'clusters':>10}{'peak MB':>9}")
    times: dict[int, float] = {}
    for num in [args.n // 8, args.n // 4, args.n // 2, args.n]:
        values, pairs, seconds = measured(num)
        times[num] = seconds
        labels = components(pairs, num)
        sizes = np.bincount(labels, minlength=num)
        tables = len(band_orders(num, cfg.max_hamming))
        print(f"{num:>10,}{tables:>7}{seconds:>9.1f}{len(pairs):>12,}{int((sizes > 1).sum()):>10,}{peak_mb():>9.0f}")
    far = np.bitwise_count(values[pairs[:, 0]] ^ values[pairs[:, 1]])
    assert far.max() <= cfg.max_hamming, "a pair is farther apart than it may be"
    rows = np.sort(np.random.default_rng(1).choice(args.n, min(args.sample, args.n), replace=False))
    start = time.process_time()
    exact = brute_force(values, rows, cfg.max_hamming)
    seconds = time.process_time() - start
    together = labels[exact[:, 0]] == labels[exact[:, 1]]
    whole = seconds * args.n / len(rows)
    print(
        f"brute force on {len(rows):,} clips: {len(exact):,} pairs, {together.mean():.4%} of them in one cluster of ours; "
        f"it took {seconds:.1f} s, for all clips {whole:,.0f} s ({whole / times[args.n]:,.0f}x ours)"
    )
    if args.also:
        _, pairs, times[args.also] = measured(args.also)
        print(
            f"{args.also:>10,}{len(band_orders(args.also, 6)):>7}{times[args.also]:>9.1f}{len(pairs):>12,}{'':>10}"
            f"{peak_mb():>9.0f}"
        )
    last, before = sorted(times, reverse=True)[:2]
    power = math.log(times[last] / times[before]) / math.log(last / before)
    tables, num = len(band_orders(10_000_000, cfg.max_hamming)), 10_000_000
    a_row = times[last] / last / len(band_orders(last, cfg.max_hamming))
    seconds = a_row * num * tables * math.log(num) / math.log(last)
    print(
        f"growth from {before:,} to {last:,}: n^{power:.2f}. By arithmetic, {num:,} clips: {tables} tables x {num:,} rows x "
        f"{1e9 * a_row:.0f} ns, times log n: {seconds:,.0f} CPU s a hash (a clip has three); hashes, orders and pairs about "
        f"{num * 8 * 12 / 2**20:,.0f} MB"
    )


if __name__ == "__main__":
    main()
