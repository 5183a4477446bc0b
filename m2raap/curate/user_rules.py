"""Limits on scores that users supply: watermark, NSFW, personal data, aesthetics. A recipe names the column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from m2raap.curate.limits import Limit
from m2raap.curate.refusal import Refusal, Side

_SIDES: tuple[tuple[Side, str], ...] = (("below", "least"), ("above", "most"))


def bounds(limit: Limit, scores: np.ndarray) -> dict[str, float]:
    """'least' and 'most', the lowest and highest scores that pass, if the limit sets them. `scores`: of the whole corpus, for
    limits by share."""
    thresholds = {name: limit.threshold(side, scores) for side, name in _SIDES}
    return {name: threshold for name, threshold in thresholds.items() if threshold is not None}


def judged(scores: Mapping[str, Any], limits: Mapping[str, Mapping[str, float]]) -> list[tuple[Side, Refusal]]:
    """Every limit that is set (`limits`: column -> `bounds`), with the side on which it refuses. A column without a score is
    not judged."""
    return [
        (side, Refusal("user_score", column, score, passing[name]))
        for column, passing in sorted(limits.items())
        if (score := scores.get(column)) is not None
        for side, name in _SIDES
        if name in passing
    ]


def refusals(scores: Mapping[str, Any], limits: Mapping[str, Mapping[str, float]]) -> list[Refusal]:
    """The limits that refuse; see `judged`."""
    return [rule for side, rule in judged(scores, limits) if rule.fails(side)]
