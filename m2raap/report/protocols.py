"""The protocols of a run: what the numbers of every arm on every benchmark depend on, and where two arms differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from m2raap.core.config import canonical
from m2raap.core.signed import read_manifest
from m2raap.core.tables import read_all
from m2raap.pipeline.plan import Step
from m2raap.report.data import ProgressiveRow, ProtocolRow
from m2raap.retrieval.results_file import read_results
from m2raap.stages.protocol import describe_difference, differing

Evaluations = Mapping[tuple[str, str], Sequence[Step]]  # (arm, benchmark) -> one step a training seed
NO_PROTOCOL = "one of the two has no protocol, because an older m2raap wrote its results: evaluate it again"
_OF_THE_MODEL = ("model", "preprocess")


def read_protocol(evaluated: Path) -> dict[str, Any] | None:
    """The protocol in an evaluate folder's results.json; None where an older m2raap wrote only its name, or another key."""
    return protocol_in(read_results(evaluated))


def protocol_in(results: dict[str, Any]) -> dict[str, Any] | None:
    """As :func:`read_protocol`, of the content of results.json."""
    protocol = results.get("protocol")
    return protocol if isinstance(protocol, dict) else None


@dataclass(frozen=True)
class Protocols:
    """Protocols by arm and benchmark; None where :func:`read_protocol` finds none."""

    by_arm: dict[tuple[str, str], list[dict[str, Any] | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, evaluations: Evaluations) -> Protocols:
        """The protocols of a run's finished evaluations."""
        return cls({key: [read_protocol(step.folder) for step in steps] for key, steps in evaluations.items()})

    def unlike(self, a: str, b: str, bench: str) -> list[str]:
        """One sentence for each field in which the protocols of two arms (and of their seeds) differ.

        Empty where the arms are comparable; `m2raap report compare` refuses the others.
        """
        protocols = [*self.by_arm[a, bench], *self.by_arm[b, bench]]
        first = protocols[0]
        differences: dict[str, str] = {}
        for protocol in protocols:
            if first is None or protocol is None:
                differences.setdefault("", NO_PROTOCOL)
            else:
                for name in differing(first, protocol):
                    differences.setdefault(name, describe_difference(name, first, protocol))
        return list(differences.values())


def marked(rows: Sequence[ProgressiveRow], protocols: Protocols) -> list[ProgressiveRow]:
    """The rows of a progressive table, with what differs from the protocols of the rows that they are compared with."""
    marked_rows = []
    for row in rows:
        arms = list(dict.fromkeys(other.arm for other in rows if other.benchmark == row.benchmark))
        before = arms[max(0, arms.index(row.arm) - 1)]
        marked_rows.append(
            replace(
                row,
                unlike=protocols.unlike(before, row.arm, row.benchmark),
                unlike_whole=protocols.unlike(arms[0], row.arm, row.benchmark),
            )
        )
    return marked_rows


def protocol_rows(evaluations: Evaluations, steps: Sequence[Step], benches: Mapping[str, Path]) -> list[ProtocolRow]:
    """One row for every benchmark and protocol, with the arms that were evaluated under it. `benches`: corpora by name."""
    step_at = {step.folder: step for step in steps}
    rows: dict[tuple[str, str], ProtocolRow] = {}
    for (arm, bench), seeds in evaluations.items():
        for step in seeds:
            tree = read_results(step.folder)
            protocol = protocol_in(tree)
            embedded = step_at.get(step.parents[0])
            settings = read_manifest(embedded.folder).get("settings", {}) if embedded else {}
            shared = {k: v for k, v in protocol.items() if k not in _OF_THE_MODEL} if protocol else None
            num_frames, captions = settings.get("num_frames"), bool(settings.get("captions"))
            key = bench, canonical([shared, num_frames, captions, [] if shared else tree.get("missing")])
            if key not in rows:
                folders = [*([benches[bench]] if bench in benches else []), *(embedded.parents if embedded else ())]
                missing = _reasons(tree.get("missing", []), folders)
                rows[key] = ProtocolRow(bench, "", [], shared, num_frames, captions, {}, {}, missing)
            row = rows[key]
            if arm not in row.arms:
                row.arms.append(arm)
            if protocol:
                row.models[step.arm], row.preprocess[step.arm] = protocol["model"], protocol["preprocess"]
    listed = list(rows.values())
    for bench in {row.benchmark for row in listed}:
        places = [place for place, row in enumerate(listed) if row.benchmark == bench]
        if len(places) > 1:
            for number, place in enumerate(places):
                name = ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)
                listed[place] = replace(listed[place], name=name)
    return listed


def _reasons(missing: Sequence[str], folders: Sequence[Path]) -> dict[str, str]:
    """Clip without an embedding -> the reason in a `missing` table of `folders`, "" where none names the clip."""
    if not missing:
        return {}
    reasons: dict[str, str] = {}
    for folder in folders:
        for row in read_all(folder, "missing"):
            if row["text_id"] is None:
                reasons.setdefault(row["clip_id"], row["reason"])
    return {clip: reasons.get(clip, "") for clip in sorted(missing)}
