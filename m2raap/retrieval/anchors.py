"""Published zero-shot results to find again, from a cited table in the package."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import yaml

from m2raap.core.config import Config


class Anchor(Config):
    """R@k in percent by direction, as `source` prints them, and what has to agree before anything is compared."""

    name: str
    backbones: tuple[str, ...]
    weights: str
    temporal: str
    benchmark: str
    lang: str
    queries: int
    t2v: dict[str, float]
    v2t: dict[str, float]
    frames: str
    source: str


@lru_cache(maxsize=1)
def anchors() -> tuple[Anchor, ...]:
    text = resources.files("m2raap").joinpath("assets/anchors.yaml").read_text(encoding="utf-8")
    return tuple(Anchor(**row) for row in yaml.safe_load(text))
