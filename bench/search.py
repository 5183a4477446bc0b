"""Claim: a million clips are searched in milliseconds on one core, with recall@10 of at least 0.95 against the exact answer.

Generator (seeded): N unit vectors of 512-d in clusters, as clips of a few thousand kinds lie: N / 250 centres drawn uniformly
on the sphere, sizes as a Zipf law of exponent 0.5 has them, a member is its centre plus Gaussian noise of length 0.8, made
unit. Queries are 1,000 other members of the same clusters, as a caption of a clip is near to it and never on it. For every
kind of m2raap.retrieval.index: recall@10 against the exact scan, the median and 99th percentile of one query at a time,
queries a second, time to build, peak memory of building, size of the file and memory of the opened index. One thread. Memory is
that of the process alone: pages of mapped files, which the system can drop, are not counted. The floor of a flat or hnsw index is
the vectors themselves, 4 E bytes a clip: 2.0 GB for a million of 512-d.

Before the kinds, the part of `m2raap search index` that needs no model: the tables and arrays of the index, written part by part;
the baseline is the size of their vectors, which whoever holds all parts at once needs.

    python bench/search.py [--vectors 1000000] [--queries 1000] [--kinds flat hnsw ivf pq]

Five million clips by arithmetic: time to build as N log N (hnsw), as N sqrt N (ivf, pq: lists grow with sqrt N), a scan and all
sizes as N; recall is not carried over.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from m2raap.retrieval.index import KINDS, Kind, VectorIndex, build_index, choose_kind, write_index
from m2raap.search.gallery import CLIPS, Writer

DIM, NOISE, CLIPS_A_CLUSTER, TOP = 512, 0.8, 250, 10
LARGER_N = 5_000_000
WRITTEN, CLIPS_A_BLOCK, FRAMES = 200_000, 2_000, 8


def vectors(num: int, seed: int = 0) -> tuple[np.ndarray, np.random.Generator, np.ndarray, np.ndarray]:
    """Vectors (N, 512) float32, and the generator, centres and shares with which queries are drawn."""
    rng = np.random.default_rng([seed, num])
    clusters = max(1, num // CLIPS_A_CLUSTER)
    centres = unit(rng.normal(size=(clusters, DIM)).astype(np.float32))
    shares = 1 / np.sqrt(np.arange(1, clusters + 1))
    shares /= shares.sum()
    vectors_NE = np.empty((num, DIM), np.float32)
    for start in range(0, num, 65_536):
        vectors_NE[start : start + 65_536] = members(rng, centres, shares, min(65_536, num - start))
    return vectors_NE, rng, centres, shares


def members(rng: np.random.Generator, centres: np.ndarray, shares: np.ndarray, num: int) -> np.ndarray:
    noise = rng.normal(size=(num, DIM)).astype(np.float32) * np.float32(NOISE / math.sqrt(DIM))
    return unit(centres[rng.choice(len(centres), num, p=shares)] + noise)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def exact(queries: np.ndarray, vectors_NE: np.ndarray) -> np.ndarray:
    """(Q, 10): rows of the ten best vectors of every query, computed block by block."""
    best = np.full((len(queries), TOP), -np.inf, np.float32)
    rows = np.zeros((len(queries), TOP), np.int64)
    for start in range(0, len(vectors_NE), 65_536):
        scores = queries @ vectors_NE[start : start + 65_536].T
        both = np.concatenate([best, scores], axis=1)
        names = np.concatenate([rows, np.tile(np.arange(start, start + scores.shape[1]), (len(queries), 1))], axis=1)
        order = np.argpartition(-both, TOP, axis=1)[:, :TOP]
        best, rows = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
    return rows


def memory_mb() -> float:
    """Anonymous memory of this process, without pages mapped from files, after freed memory is returned to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous_mb()


def anonymous_mb() -> float:
    with open("/proc/self/status") as source:
        return next(int(line.split()[1]) for line in source if line.startswith("RssAnon")) / 1024


class PeakMemory:
    """Samples the anonymous memory of this process while its block runs; `mb` is the largest value over that at the start."""

    def __enter__(self) -> PeakMemory:
        self._before_mb, self.mb, self._over = memory_mb(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.mb = max(self.mb, anonymous_mb() - self._before_mb)

    def __exit__(self, *_: object) -> None:
        self.mb = max(self.mb, anonymous_mb() - self._before_mb)
        self._over.set()
        self._thread.join()


def main() -> None:
    import faiss

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        vectors_NE, rng, centres, shares = vectors(args.vectors)
        np.save(Path(folder) / "vectors.npy", vectors_NE)
        queries = members(rng, centres, shares, args.queries)
        truth = exact(queries, vectors_NE)
        del vectors_NE
        vectors_NE = np.load(Path(folder) / "vectors.npy", mmap_mode="r")
        print(
            f"{args.vectors:,} vectors of {DIM}-d, {args.queries:,} queries; --kind auto chooses {choose_kind(args.vectors)}"
        )
        measure_writing(vectors_NE, Path(folder))
        columns = ("recall@10", "p50 ms", "p99 ms", "q/s", "build s", "peak MB", "file MB", "opened MB")
        print(f"{'kind':<6}" + "".join(f"{column:>10}" for column in columns), end="")
        print(f"   at {LARGER_N:,}: {'build':>9}{'peak GB':>9}{'file GB':>9}")
        for kind in args.kinds:
            measure(kind, vectors_NE, queries, truth, Path(folder) / "index.faiss")
    print(f"peak memory of the whole run {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def measure_writing(vectors_NE: np.ndarray, folder: Path) -> None:
    """Prints what the tables and arrays of an index take that are written part by part."""
    num = min(len(vectors_NE), WRITTEN)
    start = time.perf_counter()
    with PeakMemory() as peak:
        writer = Writer(folder / "gallery", DIM)
        for first in range(0, num, CLIPS_A_BLOCK):
            rows = np.asarray(vectors_NE[first : min(first + CLIPS_A_BLOCK, num)])
            ids = [f"clip{number:09d}" for number in range(first, first + len(rows))]
            columns = {"clip_id": ids, "view": [0] * len(ids), "video": [f"{name}.mp4" for name in ids]}
            lists = {"times_s": [0.0] * FRAMES, "langs": ["en"], "texts": ["words " * 10], "origins": ["raw"]}
            columns |= {name: [value] * len(ids) for name, value in lists.items()}
            columns |= {name: [None] * len(ids) for name in CLIPS.names if name not in columns}
            writer.add(pa.Table.from_pydict(columns, CLIPS), rows, np.repeat(rows, FRAMES, 0).astype(np.float16))
        writer.close()
    seconds, held_mb = time.perf_counter() - start, num * DIM * (4 + 2 * FRAMES) / 2**20
    print(
        f"tables and arrays of {num:,} clips with {FRAMES} frames: {seconds:.0f} s, peak {peak.mb:.0f} MB; their vectors alone, "
        f"all held at once, {held_mb:.0f} MB ({held_mb / max(peak.mb, 1):.1f} x)",
        flush=True,
    )


def measure(kind: Kind, vectors_NE: np.ndarray, queries: np.ndarray, truth: np.ndarray, path: Path) -> None:
    start = time.perf_counter()
    with PeakMemory() as peak:
        digest = write_index(build_index(vectors_NE, kind), path)
    build_s = time.perf_counter() - start
    before_mb = memory_mb()
    index = VectorIndex.open(path, digest, kind, vectors_NE)
    held_mb = memory_mb() - before_mb
    index.search(queries[:20], TOP)  # reads pages of the file into memory
    times_s, hits = [], 0
    for query, right in zip(queries, truth, strict=True):
        start = time.perf_counter()
        rows, _ = index.search(query[None], TOP)
        times_s.append(time.perf_counter() - start)
        hits += len({*rows[0].tolist()} & {*right.tolist()})
    p50, p99 = np.percentile(times_s, [50, 99]) * 1000
    size_mb = path.stat().st_size / 1e6
    times = LARGER_N / len(vectors_NE)
    growth = {
        "flat": times,
        "hnsw": times * math.log(LARGER_N) / math.log(len(vectors_NE)),
        "ivf": times**1.5,
        "pq": times**1.5,
    }[kind]
    print(
        f"{kind:<6}{hits / truth.size:>10.3f}{p50:>10.2f}{p99:>10.2f}{len(times_s) / sum(times_s):>10.0f}{build_s:>10.0f}"
        f"{peak.mb:>10.0f}{size_mb:>10.0f}{held_mb:>10.0f}{'':>16}{build_s * growth / 3600:>8.1f}h"
        f"{peak.mb * times / 1000:>9.1f}{size_mb * times / 1000:>9.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
