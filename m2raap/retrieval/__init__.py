"""Ranks, metrics and intervals of video-text retrieval; numpy only. `m2raap.retrieval.evaluate(sim)` scores a matrix."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2raap.retrieval.score import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        return importlib.import_module("m2raap.retrieval.score").evaluate
    raise AttributeError(f"module 'm2raap.retrieval' has no attribute '{name}'")
