"""A smaller corpus that stays diverse: clips are clustered by what their frames show, and large clusters are cut.

k-means on the sphere (FAISS) over a random sample of the clips; then every clip is assigned to its nearest centre, and all
clusters are cut to one cap, the largest that brings the corpus down to the target. The hash of the clip ids decides which
clips of a large cluster stay: this keeps the variety inside the cluster, and does not depend on any order.

Shapes: N clips, C clusters, E dimensions. Vectors are unit rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from m2raap.core.clusters import spherical_kmeans
from m2raap.core.config import Config
from m2raap.core.errors import M2raapError

NO_CLUSTER = -1  # of clips that a column of clusters has no number for


class TargetConfig(Config):
    """How many training clips stay, and which draw decides among those of one concept."""

    target: int = Field(ge=1, description="Number of clips that stay; those of split val all stay and are not counted.")
    seed: int = Field(default=0, ge=0, description="Seed of the draw.")


class BalanceConfig(TargetConfig):
    """`target` training clips stay, spread over the concepts (clusters) as evenly as the corpus allows."""

    clusters: int = Field(
        default=100, ge=1, description="Number of clusters into which k-means divides the image features."
    )
    by: str | None = Field(
        default=None,
        description="A column of --scores with the number of each clip's cluster, such as `coarse_frames` of the "
        "signals/clips.parquet that co-training writes; null: align clusters the image features.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the clusters and of the draw.")


def clip_vector(frames_KE: np.ndarray) -> np.ndarray:
    """(E,) unit mean of a clip's frame vectors."""
    mean = frames_KE.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)


def centres(vectors_NE: np.ndarray, cfg: BalanceConfig) -> np.ndarray:
    """(C, E) unit centres of a sample of vectors; at most as many as there are vectors. The same rows give the same centres."""
    return spherical_kmeans(vectors_NE, cfg.clusters, cfg.seed + 1)


def nearest(vector_E: np.ndarray, centres_CE: np.ndarray) -> int:
    """Index of the centre with the highest cosine."""
    return int(np.argmax(centres_CE @ vector_E))


def given(column: str, clip_id: str, value: float | None) -> int:
    """The number of a clip's cluster in a column of scores. Raises M2raapError for one that is not whole."""
    if value is None:
        return NO_CLUSTER
    if value != int(value) or value < 0:
        raise M2raapError(
            f"align.balance.by: clip {clip_id}: {column} is {value:g}, and the number of a cluster is whole and at least 0"
        )
    return int(value)


def place(clip_id: str, seed: int) -> int:
    """The clip's place in the draw, 63 bits of a hash: of a cluster the clips with the smallest places stay."""
    return int.from_bytes(hashlib.blake2b(f"balance:{seed}:{clip_id}".encode(), digest_size=8).digest(), "big") >> 1


def last_places(clusters_N: Sequence[int], places_N: Sequence[int], target: int) -> dict[str, Any]:
    """{"cap": clips a cluster, "last": {cluster: last place that stays}} so that exactly `target` clips stay.

    Clusters up to the cap keep all clips and are not listed. If the cap leaves fewer than `target` clips, those with the
    smallest places are added.
    """
    numbers, clusters = np.unique(np.asarray(clusters_N, np.int64), return_inverse=True)
    places = np.asarray(places_N, np.int64)
    if len(clusters) <= target:
        return {"cap": None, "last": {}}
    sizes = np.bincount(clusters)
    caps = np.arange(sizes.max() + 1)
    kept = np.minimum(sizes[None, :], caps[:, None]).sum(axis=1) if len(sizes) * len(caps) < 1e7 else np.array(
        [np.minimum(sizes, cap).sum() for cap in caps]
    )  # fmt: skip
    cap = int(np.flatnonzero(kept <= target)[-1])
    order = np.lexsort((places, clusters))
    starts = np.searchsorted(clusters[order], np.arange(len(sizes)))
    over = np.flatnonzero(sizes > cap)
    next_ones = sorted((int(places[order[starts[c] + cap]]), int(c)) for c in over)
    more = {c for _, c in next_ones[: target - int(kept[cap])]}
    last = {}
    for c in over.tolist():
        stay = cap + (c in more)
        last[str(numbers[c])] = int(places[order[starts[c] + stay - 1]]) if stay else -1
    return {"cap": cap, "last": last}
