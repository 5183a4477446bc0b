"""A rule's refusal of one clip or text, and the row of `dropped` that is made of the refusals of all rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from m2raap.core.tables import Row

Side = Literal["below", "above"]  # the side of the threshold on which a rule refuses


class Refusal(NamedTuple):
    """A score and the threshold that it is compared with. `reason` is a key of curate.reasons."""

    reason: str
    signal: str
    score: float
    threshold: float
    version: int = 1  # of the rule; it increases when the same text or clip would get another score

    def fails(self, side: Side) -> bool:
        """Whether the score lies beyond the threshold on `side`."""
        return self.score < self.threshold if side == "below" else self.score > self.threshold


@dataclass(frozen=True)
class Drop:
    """A row of `dropped` by rules. `text_id` None: the whole clip; `detail`: the signal that was judged, or a message;
    `also_failed`: the reasons of all other rules that refused it, in their order (their scores are in `signals`)."""

    clip_id: str
    text_id: str | None
    reason: str
    score: float
    threshold: float
    rule_version: str  # reason/number
    detail: str
    also_failed: tuple[str, ...] = ()

    @classmethod
    def by(cls, refusals: Sequence[Refusal], clip_id: str, text_id: str | None = None) -> Drop:
        """The row of the first refusal, which decides; the reasons of all others are recorded. `refusals`: at least one."""
        first, *others = refusals
        return cls(
            clip_id=clip_id,
            text_id=text_id,
            reason=first.reason,
            score=first.score,
            threshold=first.threshold,
            rule_version=f"{first.reason}/{first.version}",
            detail=first.signal,
            also_failed=tuple(refusal.reason for refusal in others),
        )

    def row(self) -> Row:
        """The columns of the table `dropped`, without the stage."""
        return asdict(self) | {"also_failed": list(self.also_failed)}
