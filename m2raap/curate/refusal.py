"""One rule's verdict against one clip or text."""

from __future__ import annotations

from typing import Literal, NamedTuple

Side = Literal["below", "above"]  # of the threshold: where a rule refuses


class Refusal(NamedTuple):
    """A score on the wrong side of its threshold. `reason` is a key of core.errors.REASONS."""

    reason: str
    signal: str
    score: float
    threshold: float
    version: int = 1  # of the rule: it rises when the same text or clip would get another score

    def fails(self, side: Side) -> bool:
        return self.score < self.threshold if side == "below" else self.score > self.threshold
