"""Settings of `evaluate`: the benchmarks of a user, and the ways to rescore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from m2raap.core.config import HOW, Config


class EvaluateConfig(Config):
    """How embeddings are evaluated. Rescored rows are written to files of their own and are never the headline."""

    benchmarks: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Benchmarks of your own: name, and the fields of m2raap.retrieval.benchmarks.Benchmark.",
    )
    dual_softmax: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="Inverse temperature of a dual softmax over all queries, which adds rescored rows; null: no such rows.",
    )
    qb_norm: float = Field(
        default=20.0,
        gt=0,
        le=10_000,
        description="Inverse temperature of QB-Norm, which adds rescored rows where a bank is given.",
    )
    # The digests of the folders are in the settings of the stage, so that their places need not be.
    tags: tuple[Path, ...] = Field(
        default=(),
        description="Folders of annotate over the benchmarks, one for each, which add slices: R@k of the queries about videos "
        "that have a tag with p of at least 0.5, for each of the 20 most frequent tags of at least 20 videos.",
        json_schema_extra=HOW,
    )
