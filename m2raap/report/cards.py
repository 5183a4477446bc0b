"""The protocol cards of a run: what the numbers of every arm on every benchmark depend on, and where two arms differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from m2raap.core.config import canonical
from m2raap.core.files import read_json
from m2raap.core.tables import read_part
from m2raap.pipeline.plan import Step
from m2raap.report.data import CardRow, ProgressiveRow
from m2raap.stages.protocol import differing, told_apart

Evaluations = Mapping[tuple[str, str], Sequence[Step]]  # (arm, benchmark) -> one step a training seed
NO_CARD = "one has none: written before results had one, evaluate again"
_OF_THE_MODEL = ("model", "preprocess")


@dataclass(frozen=True)
class Cards:
    """Cards by arm and benchmark; None where results.json was written before there were cards."""

    found: dict[tuple[str, str], list[dict[str, Any] | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, done: Evaluations) -> Cards:
        """The cards of a run's finished evaluations."""
        return cls(
            {
                key: [read_json(step.folder / "results.json").get("card") for step in steps]
                for key, steps in done.items()
            }
        )

    def unlike(self, a: str, b: str, bench: str) -> list[str]:
        """What differs between the protocols of two arms (and of their seeds), a field with its values each.

        Nothing where they compare. `m2raap report compare` refuses what this names.
        """
        cards = [*self.found[a, bench], *self.found[b, bench]]
        first = cards[0]
        said: dict[str, str] = {}
        for card in cards:
            if first is None or card is None:
                said.setdefault("", NO_CARD)
            else:
                for name in differing(first, card):
                    said.setdefault(name, told_apart(name, first, card))
        return list(said.values())


def marked(rows: Sequence[ProgressiveRow], cards: Cards) -> list[ProgressiveRow]:
    """The rows of a progressive table, with what differs from the cards of the rows that they are set against."""
    found = []
    for row in rows:
        arms = list(dict.fromkeys(other.arm for other in rows if other.benchmark == row.benchmark))
        before = row.arm if row.way else arms[max(0, arms.index(row.arm) - 1)]
        found.append(
            replace(
                row,
                unlike=cards.unlike(before, row.arm, row.benchmark),
                unlike_whole=cards.unlike(arms[0], row.arm, row.benchmark),
            )
        )
    return found


def card_rows(done: Evaluations, steps: Sequence[Step], benches: Mapping[str, Path]) -> list[CardRow]:
    """One row for every benchmark and protocol, with the arms that were evaluated under it. `benches`: corpora by name."""
    step_at = {step.folder: step for step in steps}
    rows: dict[tuple[str, str], CardRow] = {}
    for (arm, bench), seeds in done.items():
        for step in seeds:
            tree = read_json(step.folder / "results.json")
            card = tree.get("card")
            embedded = step_at.get(step.parents[0])
            asked = read_json(embedded.folder / "manifest.json").get("settings", {}) if embedded else {}
            shared = {k: v for k, v in card.items() if k not in _OF_THE_MODEL} if card else None
            num_frames, captions = asked.get("num_frames"), bool(asked.get("captions"))
            key = bench, canonical([shared, num_frames, captions, [] if shared else tree.get("missing")])
            if key not in rows:
                told = [*([benches[bench]] if bench in benches else []), *(embedded.parents if embedded else ())]
                missing = _reasons(tree.get("missing", []), told)
                rows[key] = CardRow(bench, "", [], shared, num_frames, captions, {}, {}, missing)
            row = rows[key]
            if arm not in row.arms:
                row.arms.append(arm)
            if card:
                row.models[step.arm], row.preprocess[step.arm] = card["model"], card["preprocess"]
    found = list(rows.values())
    for bench in {row.benchmark for row in found}:
        places = [place for place, row in enumerate(found) if row.benchmark == bench]
        if len(places) > 1:
            for number, place in enumerate(places):
                name = ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)
                found[place] = replace(found[place], name=name)
    return found


def _reasons(missing: Sequence[str], folders: Sequence[Path]) -> dict[str, str]:
    """Why each clip has no embedding: its file is absent, or a stage before `embed` refused it."""
    if not missing:
        return {}
    reasons: dict[str, str] = {}
    for folder in folders:
        for path in sorted((folder / "missing").glob("part-*.parquet")):
            for row in read_part(folder, "missing", int(path.stem.removeprefix("part-"))):
                if row["text_id"] is None:
                    reasons.setdefault(row["clip_id"], row["reason"])
    return {clip: reasons.get(clip, "") for clip in sorted(missing)}
