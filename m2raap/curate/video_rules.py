"""Rules on clips, by what their header says and what was measured when their frames were decoded. They only compare signals
with thresholds; nothing is decoded. To add a rule, write an entry in VIDEO_RULES and a sentence in curate/reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError
from m2raap.curate.limits import Limit
from m2raap.curate.refusal import Refusal, Side
from m2raap.curate.rules import Rule, RuleSet

VIDEO_RULES = RuleSet(
    (
        Rule("clip_too_short", 1, "duration_s", "below", Limit(min=1.0)),
        Rule("clip_too_long", 1, "duration_s", "above", Limit(max=300.0)),
        Rule("clip_too_small", 1, "short_side_px", "below", Limit(min=64)),
        Rule("elongated", 1, "aspect", "above", Limit(max=4.0)),
        Rule("black", 1, "black_share", "above", Limit(max=0.5)),
        Rule("frozen", 1, "frozen_share", "above", Limit(max=0.85)),
        Rule("blurred", 1, "blurred_share", "above", Limit(max=0.9)),
        Rule[Limit]("still", 1, "motion", "below", None),
        Rule[Limit]("hdr", 1, "hdr", "above", None),
        Rule[Limit]("wide_gamut", 1, "wide_gamut", "above", None),
        Rule[Limit]("size_changes", 1, "size_changes", "above", None),
    )
)


class VideoRulesConfig(Config):
    """The limits at which rules refuse clips."""

    rules: dict[str, Limit | None] = Field(
        default_factory=VIDEO_RULES.defaults,
        description="Limits by rule: a number, {min | max: number, lowest | highest: share of the clips}, or off.",
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _over_defaults(cls, tree: Any) -> dict[str, Any]:
        return VIDEO_RULES.over_defaults(tree)

    @field_validator("rules")
    @classmethod
    def _usable(cls, limits: dict[str, Limit | None]) -> dict[str, Limit | None]:
        short, long = limits["clip_too_short"], limits["clip_too_long"]
        if short and long and short.min is not None and long.max is not None and short.min > long.max:
            raise ValueError(f"clip_too_short {short.min} is above clip_too_long {long.max}; no clip would pass")
        return VIDEO_RULES.checked(limits)

    @property
    def by_share(self) -> list[str]:
        """Rules whose thresholds depend on the scores of the corpus."""
        return [reason for reason, limit in self.rules.items() if limit and limit.has_share]

    def thresholds(self, scores: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
        """reason -> threshold of the rules that are on. `scores`: of all clips, by the reasons in `by_share`."""
        return VIDEO_RULES.thresholds(self.rules, scores)


def video_refusals(signals: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Refusal]:
    """Every rule that refuses, the deciding one first; see `judged`."""
    return VIDEO_RULES.refusals(_values(signals, thresholds), thresholds)


def judged(signals: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[tuple[Side, Refusal]]:
    """Every rule that is on (VideoRulesConfig.thresholds) with the side on which it refuses.

    A signal that is absent or None is not judged.
    Raises M2raapError for a signal that is no finite number.
    """
    return VIDEO_RULES.judged(_values(signals, thresholds), thresholds)


def _values(signals: Mapping[str, Any], reasons: Iterable[str]) -> dict[str, float | None]:
    return {signal: signal_value(signals, signal) for signal in {VIDEO_RULES[reason].signal for reason in reasons}}


def signal_value(signals: Mapping[str, Any], signal: str) -> float | None:
    """One signal; short_side_px and aspect are computed from width and height in px. Raises M2raapError if not finite."""
    value = signals.get(signal)
    if signal in ("short_side_px", "aspect"):
        sides = sorted((signals.get("width") or 0, signals.get("height") or 0))
        if not sides[0]:
            return None
        value = sides[0] if signal == "short_side_px" else sides[1] / sides[0]
    if value is None:
        return None
    if float(value) - float(value) != 0:  # NaN or infinite
        raise M2raapError(f"signal {signal} is {value}: expected a finite number; run keyframes again for this clip")
    return float(value)
