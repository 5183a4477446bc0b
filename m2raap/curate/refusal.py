"""One rule's verdict against one clip or text."""

from __future__ import annotations

from typing import NamedTuple


class Refusal(NamedTuple):
    """A score on the wrong side of its threshold. `reason` is a key of core.errors.REASONS."""

    reason: str
    signal: str
    score: float
    threshold: float
