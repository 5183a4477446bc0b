"""Settings of `evaluate`: the benchmarks of a user, and the ways to rescore."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from m2raap.core.config import Config


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
