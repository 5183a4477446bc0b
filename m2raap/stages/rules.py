"""The results of all rules for a clip or a text, passed or failed, with score and threshold, from what the stages stored.

`dropped` holds only failed rules; `explain`, and the search for rows near a threshold, also need those that passed. Each stage
lists the results in its method `judged`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from m2raap.core.records import read_record
from m2raap.core.signed import stage_manifest, verified_path
from m2raap.core.stage import Judged
from m2raap.core.tables import Row
from m2raap.curate.refusal import Refusal, Side
from m2raap.stages import open_stage


class StageRules:
    """The rules of one finished data stage, with its settings."""

    def __init__(self, folder: Path) -> None:
        manifest = stage_manifest(folder)
        self.stage = open_stage(manifest, str(folder))
        # Older manifests do not name the file.
        decisions = verified_path(folder, "decisions.json") or folder / "decisions.json"
        self._decisions = read_record(dict[str, Any], decisions) if decisions.exists() else {}

    def judged(self, row: Mapping[str, Any], signals: Row) -> list[Judged]:
        """The results for a clip or a text. `row`: of the clip or text; `signals`: its signals of all stages so far."""
        return self.stage.judged(row, signals, self._decisions)


def judged(side: Side, refusal: Refusal) -> Judged:
    """A rule's result in m2raap.curate, as a `Judged`."""
    return Judged(refusal.reason, refusal.version, refusal.signal, refusal.score, refusal.threshold, side)


def in_order(thresholds: dict[str, float], rules: Iterable[str]) -> dict[str, float]:
    """The thresholds in the order of the rules, those from outside last; decisions.json is sorted by name."""
    return {name: thresholds[name] for name in rules if name in thresholds} | thresholds
