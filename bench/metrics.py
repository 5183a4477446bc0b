"""Claims: ranks both ways by counting are at least 10x faster than CLIP4Clip's arithmetic at 10k x 10k, and 50k x 50k fits
into 2 GB. Beside them torchmetrics and ranx at 1k where they are installed.

    python bench/metrics.py [--sizes 10000 50000] [--their-size 10000]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

EMBEDDING, AT = 512, (1, 5, 10)


def vectors(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, 512) of texts and videos; a text is its video plus noise."""
    rng = np.random.default_rng([size])
    video = rng.normal(size=(size, EMBEDDING)).astype(np.float32)
    text = video + 6 * rng.normal(size=video.shape).astype(np.float32)
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (text, video))  # type: ignore[return-value]  # two rows in, two out


def clip4clip_both(sim: np.ndarray) -> dict[str, float]:
    """R@1 both ways by CLIP4Clip's lines: sort every row and look for the value of the diagonal."""
    r1 = {}
    for name, x in (("t2v", sim), ("v2t", sim.T)):
        ordered = np.sort(-x, axis=1)
        places = np.where(ordered - np.diag(-x)[:, np.newaxis] == 0)[1]
        r1[name] = float(np.sum(places == 0)) * 100 / len(places)
    return r1


def timed(run: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    r1 = run()
    return time.perf_counter() - start, r1


def report(what: str, seconds: float, r1: dict[str, float]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"{what:<58} {seconds:8.2f} s  peak {peak:5.2f} GB  R@1 " + "  ".join(f"{k} {v:.2f}" for k, v in r1.items()),
        flush=True,
    )


def ours(size: int, from_matrix: bool) -> None:
    from m2raap.retrieval.metrics import metrics, ranks, ranks_of

    text, video = vectors(size)
    pairs = np.repeat(np.arange(size)[:, None], 2, axis=1)
    sim = text @ video.T if from_matrix else None

    def run() -> dict[str, float]:
        both = ranks(sim, pairs) if sim is not None else ranks_of(lambda rows: text[rows] @ video.T, size, size, pairs)
        return {"t2v": metrics(both.t2v)["R@1"], "v2t": metrics(both.v2t)["R@1"]}

    what = "matrix in memory" if from_matrix else "from vectors, scores computed in blocks"
    report(f"m2raap {size:,} x {size:,}, {what}", *timed(run))


def theirs(size: int) -> None:
    text, video = vectors(size)
    sim = text @ video.T
    report(f"CLIP4Clip's arithmetic {size:,} x {size:,}, matrix in memory", *timed(lambda: clip4clip_both(sim)))


def libraries(size: int) -> None:
    text, video = vectors(size)
    sim = text @ video.T
    for name, run in (("torchmetrics", _torchmetrics), ("ranx", _ranx)):
        if find_spec(name) is None:
            print(f"{name}: not installed")
            continue
        run(sim)  # the first run imports and compiles
        report(f"{name} {size:,} x {size:,}, R@1, R@5, R@10", *timed(lambda run=run: run(sim)))


def _torchmetrics(sim: np.ndarray) -> dict[str, float]:
    import torch
    from torchmetrics.retrieval import RetrievalRecall

    r1 = {}
    for name, x in (("t2v", sim), ("v2t", sim.T)):
        rows = torch.arange(len(x)).repeat_interleave(len(x))
        target = torch.eye(len(x), dtype=torch.bool).ravel()
        values = [RetrievalRecall(top_k=k)(torch.from_numpy(x.copy()).ravel(), target, indexes=rows) for k in AT]
        r1[name] = 100 * float(values[0])
    return r1


def _ranx(sim: np.ndarray) -> dict[str, float]:
    from ranx import Qrels, Run, evaluate

    r1 = {}
    for name, x in (("t2v", sim), ("v2t", sim.T)):
        ids = [str(i) for i in range(len(x))]
        scores = {q: dict(zip(ids, map(float, row), strict=True)) for q, row in zip(ids, x, strict=True)}
        values = evaluate(Qrels({q: {q: 1} for q in ids}), Run(scores), [f"recall@{k}" for k in AT])
        r1[name] = 100 * float(values["recall@1"])
    return r1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--their-size", type=int, default=10_000)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        what, size = args.one[0], int(args.one[1])
        {"matrix": lambda: ours(size, True), "vectors": lambda: ours(size, False), "theirs": lambda: theirs(size),
         "libraries": lambda: libraries(size)}[what]()  # fmt: skip
        return
    jobs = [("matrix", size) for size in args.sizes if size <= 20_000] + [("vectors", size) for size in args.sizes]
    for what, size in [*jobs, ("theirs", args.their_size), ("libraries", 1_000)]:
        # A process each has its own peak memory. -P: ranx must not import the file coverage.py of this folder.
        subprocess.run([sys.executable, "-P", __file__, "--one", what, str(size)], check=True)


if __name__ == "__main__":
    main()
