"""The limits of rules as recipes write them: bounds of a signal, and shares of the corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.curate.refusal import Side

USED_BY: dict[Side, tuple[str, str]] = {"below": ("min", "lowest"), "above": ("max", "highest")}


class Limit(Config):
    """Refuses scores under `min` or over `max`, and the shares of the corpus with the lowest or highest scores.

    If a bound and a share are set on one side, the stricter one decides.
    """

    min: float | None = Field(default=None, description="Scores under this bound are refused.")
    max: float | None = Field(default=None, description="Scores over this bound are refused.")
    lowest: float | None = Field(
        default=None, gt=0, lt=1, description="Share of all scored texts or clips that is refused: the lowest scores."
    )
    highest: float | None = Field(
        default=None, gt=0, lt=1, description="Share of all scored texts or clips that is refused: the highest scores."
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Limit:
        if not self.keys:
            raise ValueError("expected at least one of min, max, lowest and highest")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; nothing would pass")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are set."""
        return tuple(name for name, value in self if value is not None)

    @property
    def has_share(self) -> bool:
        """Whether the threshold depends on the scores of the corpus."""
        return self.lowest is not None or self.highest is not None

    def threshold(self, side: Side, scores: Sequence[float] | np.ndarray = ()) -> float | None:
        """Scores beyond it (on `side`) are refused; None: none is. `scores`: those of the whole corpus, from which shares are
        computed; without them shares refuse nothing."""
        bound_key, share_key = USED_BY[side]
        bound, share = getattr(self, bound_key), getattr(self, share_key)
        thresholds = [] if bound is None else [float(bound)]
        if share is not None and len(scores):
            thresholds.append(
                float(np.quantile(np.asarray(scores, np.float64), share if side == "below" else 1 - share))
            )
        strictest = max if side == "below" else min
        return strictest(thresholds, default=None)


class LangLimit(Config):
    """The limits of one rule for texts of each language; null: the rule is off for that language."""

    en: Limit | None = Field(default=None, description="Limit for English texts.")
    zh: Limit | None = Field(default=None, description="Limit for Chinese texts.")
