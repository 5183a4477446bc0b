"""Every rule that judged a clip or a text, passed or failed: its score beside its threshold, from what the stages stored.

`dropped` holds only rows that failed; this also lists passed rules, for `explain` and for rows near a threshold. The rules
themselves are in `judged` of each stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from m2raap.core.files import read_json
from m2raap.core.signed import stage_manifest
from m2raap.core.stage import Judged
from m2raap.core.tables import Row
from m2raap.curate.refusal import Refusal, Side
from m2raap.stages import open_stage


class StageRules:
    """The rules of one finished data stage, as it was set."""

    def __init__(self, folder: Path) -> None:
        self.stage = open_stage(stage_manifest(folder), str(folder))
        decisions = folder / "decisions.json"
        self._decisions: dict[str, Any] = read_json(decisions) if decisions.exists() else {}

    def judged(self, row: Mapping[str, Any], signals: Row) -> list[Judged]:
        """`row`: a clip, or a text. `signals`: all that is known of it so far."""
        return self.stage.judged(row, signals, self._decisions)


def judged(side: Side, refusal: Refusal) -> Judged:
    """A rule of m2raap.curate, as a stage shows it."""
    return Judged(refusal.reason, refusal.version, refusal.signal, refusal.score, refusal.threshold, side)


def in_order(thresholds: dict[str, float], rules: Iterable[str]) -> dict[str, float]:
    """In the order of the verdict, which a file sorted by name has lost."""
    return {name: thresholds[name] for name in rules if name in thresholds}
