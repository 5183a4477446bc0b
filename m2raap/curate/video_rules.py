"""Refusals of clips by what their header says and what was measured while their frames were decoded. Thresholds only:
nothing is decoded here. To add a rule: an entry in VIDEO_RULES, and a reason in core/errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError
from m2raap.curate.limits import Limit, limits_over
from m2raap.curate.refusal import Refusal, Side


class VideoRule(NamedTuple):
    """`limit`: default; None: measured, refuses nothing unless a recipe says from where."""

    reason: str
    version: int
    signal: str
    refuse: Side
    limit: Limit | None


VIDEO_RULES: dict[str, VideoRule] = {  # in the order of the verdict
    rule.reason: rule
    for rule in (
        VideoRule("clip_too_short", 1, "duration_s", "below", Limit.of(1.0)),
        VideoRule("clip_too_long", 1, "duration_s", "above", Limit.of(300.0)),
        VideoRule("clip_too_small", 1, "short_side_px", "below", Limit.of(64)),
        VideoRule("elongated", 1, "aspect", "above", Limit.of(4.0)),
        VideoRule("black", 1, "black_share", "above", Limit.of(0.5)),
        VideoRule("frozen", 1, "frozen_share", "above", Limit.of(0.85)),
        VideoRule("blurred", 1, "blurred_share", "above", Limit.of(0.9)),
        VideoRule("still", 1, "motion", "below", None),
    )
}


class VideoRulesConfig(Config):
    """From where on each rule refuses: a number, {quantile: share} of the clips on the bad side, or off."""

    rules: dict[str, Limit | None] = Field(default_factory=lambda: limits_over({}, VIDEO_RULES, Limit))

    @field_validator("rules", mode="before")
    @classmethod
    def _over_defaults(cls, rules: Any) -> dict[str, Limit | None]:
        return limits_over(rules, VIDEO_RULES, Limit)

    @model_validator(mode="after")
    def _ordered(self) -> VideoRulesConfig:
        short, long = self.rules["clip_too_short"], self.rules["clip_too_long"]
        if short and long and short.value is not None and long.value is not None and short.value > long.value:
            raise ValueError(f"clip_too_short {short.value} is above clip_too_long {long.value}")
        return self

    def thresholds(self, quantiles: Mapping[str, float | None] | None = None) -> dict[str, float]:
        """reason -> threshold of the rules that are on. `quantiles`: the values that quantiles took."""
        found = {}
        for name, limit in self.rules.items():
            value = (quantiles or {}).get(name) if limit and limit.quantile is not None else limit and limit.value
            if value is not None:
                found[name] = float(value)
        return found


def video_refusals(signals: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Refusal]:
    """Every rule that refuses, first is the verdict; see `judged`."""
    return [rule for side, rule in judged(signals, thresholds) if rule.fails(side)]


def judged(signals: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[tuple[Side, Refusal]]:
    """Every rule that is on (VideoRulesConfig.thresholds) with the side on which it refuses.

    A signal that is absent or None is not judged: nothing is known about it.
    Raises M2raapError for a signal that is no finite number.
    """
    found: list[tuple[Side, Refusal]] = []
    for reason, threshold in thresholds.items():
        rule = VIDEO_RULES[reason]
        if (score := signal_value(signals, rule.signal)) is not None:
            found.append((rule.refuse, Refusal(reason, rule.signal, score, threshold, rule.version)))
    return found


def signal_value(signals: Mapping[str, Any], signal: str) -> float | None:
    """One signal, the size ones from width and height in px."""
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
