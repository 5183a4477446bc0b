"""Published results that `compare` sets beside one's own, from a cited table in the package."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from m2raap.core.config import Config


class Published(Config):
    """A zero-shot text-to-video R@1 as its source prints it."""

    system: str
    benchmark: str
    r1: float
    source: str
    note: str


@lru_cache(maxsize=1)
def _table() -> tuple[Published, ...]:
    text = resources.files("m2raap").joinpath("assets/published.yaml").read_text(encoding="utf-8")
    return tuple(Published(**row) for row in yaml.safe_load(text))


def published(benchmark: str) -> list[dict[str, Any]]:
    """The rows on a benchmark, the lowest first."""
    return [row.model_dump() for row in sorted(_table(), key=lambda row: row.r1) if row.benchmark == benchmark]
