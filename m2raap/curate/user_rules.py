"""Thresholds on scores that users bring along: watermark, NSFW, personal data, aesthetics. They name the column and the side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.curate.refusal import Refusal, Side


class ScoreLimit(Config):
    """Refuses scores under `min` or over `max`, and the given shares of those that are lowest or highest."""

    min: float | None = None  # lower scores are refused
    max: float | None = None  # higher scores are refused
    lowest: float | None = Field(default=None, gt=0, lt=1, description="share of the scored to refuse")
    highest: float | None = Field(default=None, gt=0, lt=1, description="share of the scored to refuse")

    @model_validator(mode="after")
    def _says_something(self) -> ScoreLimit:
        if self.min is None and self.max is None and self.lowest is None and self.highest is None:
            raise ValueError("expected min, max, lowest or highest")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def bounds(self, scores: np.ndarray) -> dict[str, float]:
        """'least' and 'most' that pass, where there are such; `scores`: all of the corpus, for the shares."""
        least = [] if self.min is None else [self.min]
        most = [] if self.max is None else [self.max]
        if len(scores):
            least += [float(np.quantile(scores, self.lowest))] if self.lowest else []
            most += [float(np.quantile(scores, 1 - self.highest))] if self.highest else []
        return ({"least": max(least)} if least else {}) | ({"most": min(most)} if most else {})


_SIDES: tuple[tuple[Side, str], ...] = (("below", "least"), ("above", "most"))


def judged(scores: Mapping[str, Any], bounds: Mapping[str, Mapping[str, float]]) -> list[tuple[Side, Refusal]]:
    """Every limit that was set (column -> ScoreLimit.bounds), with the side on which it refuses.

    What has no score is not judged.
    """
    found: list[tuple[Side, Refusal]] = []
    for column, limits in sorted(bounds.items()):
        if (score := scores.get(column)) is None:
            continue
        for side, name in _SIDES:
            if name in limits:
                found.append((side, Refusal("user_score", column, score, limits[name])))
    return found


def refusals(scores: Mapping[str, Any], bounds: Mapping[str, Mapping[str, float]]) -> list[Refusal]:
    return [rule for side, rule in judged(scores, bounds) if rule.fails(side)]
