"""Claim: against a fixed gallery the 95 % interval of R@1 holds the population's R@1 in 93.5 to 96.5 % of test sets.

2,000 simulated sets of 1,000 queries. Fixed gallery: 1,000 videos stay, the queries are drawn anew, one about each of 1,000
videos drawn with replacement, from the population of all texts that the videos could have. Redrawn gallery: videos and texts
are new in every set, and the target is the mean R@1 over many such sets; the bootstrap holds the gallery fixed, so
that coverage has no goal.

    python bench/coverage.py [--sets 2000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from m2raap.retrieval.significance import interval

QUERIES, EMBEDDING, NOISE, TRUTH = 1_000, 32, 1.8, 400


def hits(texts: np.ndarray, videos: np.ndarray, video_of_query: np.ndarray) -> np.ndarray:
    """1 for each query whose own video (`video_of_query`) scores highest, else 0."""
    return (np.argmax(texts @ videos.T, axis=1) == video_of_query).astype(float)


def gallery(rng: np.random.Generator) -> np.ndarray:
    videos = rng.normal(size=(QUERIES, EMBEDDING)).astype(np.float32)
    return videos / np.linalg.norm(videos, axis=1, keepdims=True)


def hits_of(rng: np.random.Generator, videos: np.ndarray, video_of_query: np.ndarray) -> np.ndarray:
    noise = rng.normal(size=(len(video_of_query), EMBEDDING)).astype(np.float32) * (NOISE / np.sqrt(EMBEDDING))
    return hits(videos[video_of_query] + noise, videos, video_of_query)


def coverage(sets: int, redrawn: bool) -> tuple[float, float, float]:
    """(share of intervals that hold the truth, the truth in percent, mean width in points)."""
    rng = np.random.default_rng([7, redrawn])
    fixed, every = gallery(rng), np.arange(QUERIES)
    truth = float(np.mean([hits_of(rng, gallery(rng) if redrawn else fixed, every).mean() for _ in range(TRUTH)]))
    num_covering, widths = 0, []
    for number in range(sets):
        videos = gallery(rng) if redrawn else fixed
        video_of_query = every if redrawn else rng.integers(0, QUERIES, QUERIES)
        # Queries are the sampling unit: each is a cluster of its own.
        estimate = interval(hits_of(rng, videos, video_of_query), every, seed=number)
        num_covering += estimate.lo <= truth <= estimate.hi
        widths.append(estimate.hi - estimate.lo)
    return num_covering / sets, 100 * truth, 100 * float(np.mean(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2_000)
    sets = parser.parse_args().sets
    for redrawn in (False, True):
        start = time.perf_counter()
        share, truth, width = coverage(sets, redrawn)
        error = 196 * np.sqrt(share * (1 - share) / sets)
        what = "redrawn gallery (no goal)" if redrawn else "fixed gallery (goal 93.5 to 96.5 %)"
        print(
            f"{what}: {100 * share:.2f} % +- {error:.2f} of {sets:,} intervals hold R@1 {truth:.2f}; mean width {width:.2f} "
            f"points; {time.perf_counter() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
