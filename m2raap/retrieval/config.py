"""What `evaluate` takes beside embeddings: a user's benchmarks, and how rescored rows are made."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from m2raap.core.config import Config


class EvaluateConfig(Config):
    """Rows that the settings below add stand in files of their own: none is the headline."""

    benchmarks: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="benchmarks of one's own by name: the fields of m2raap.retrieval.benchmarks"
    )
    dual_softmax: float | None = Field(
        default=None, gt=0, le=10_000, description="inverse temperature; also score by dual softmax over all queries"
    )
    qb_norm: float = Field(
        default=20.0, gt=0, le=10_000, description="inverse temperature of QB-Norm, where a bank is given"
    )
