"""Refusals of clips by what was measured while their frames were decoded. Thresholds only: nothing is decoded here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError
from m2raap.curate.refusal import Refusal

# reason, signal, side that refuses, field of VideoRulesConfig; in the order of the verdict
_RULES = (
    ("clip_too_short", "duration_s", "below", "min_duration_s"),
    ("clip_too_long", "duration_s", "above", "max_duration_s"),
    ("clip_too_small", "short_side_px", "below", "min_side_px"),
    ("black", "black_share", "above", "max_black_share"),
    ("frozen", "frozen_share", "above", "max_frozen_share"),
)


class VideoRulesConfig(Config):
    """Thresholds on a clip's signals."""

    min_duration_s: float = Field(default=1.0, ge=0)
    max_duration_s: float = Field(default=300.0, gt=0)
    min_side_px: int = Field(default=64, ge=1)
    max_black_share: float = Field(default=0.5, ge=0, le=1)
    max_frozen_share: float = Field(default=0.85, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> VideoRulesConfig:
        if self.min_duration_s > self.max_duration_s:
            raise ValueError(f"min_duration_s {self.min_duration_s} is above max_duration_s {self.max_duration_s}")
        return self


def video_refusals(signals: Mapping[str, Any], cfg: VideoRulesConfig) -> list[Refusal]:
    """Every rule that refuses, first is the verdict. A signal that is absent or None is not judged.

    `signals`: duration_s, width and height in px (or short_side_px), black_share, frozen_share.
    Raises M2raapError for a signal that is no finite number.
    """
    signals = dict(signals)
    if signals.get("width") and signals.get("height"):
        signals["short_side_px"] = min(signals["width"], signals["height"])
    found = []
    for reason, signal, side, field in _RULES:
        value = signals.get(signal)
        if value is None:
            continue
        score, threshold = float(value), float(getattr(cfg, field))
        if score - score != 0:  # NaN or infinite
            raise M2raapError(
                f"signal {signal} is {value}: expected a finite number; run keyframes again for this clip"
            )
        if score < threshold if side == "below" else score > threshold:
            found.append(Refusal(reason, signal, score, threshold))
    return found
