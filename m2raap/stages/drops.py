"""From rules' refusals to a row of `dropped`: the first is the verdict, all others are recorded with it."""

from __future__ import annotations

from collections.abc import Sequence

from m2raap.core.tables import Row
from m2raap.curate.refusal import Refusal


def drop_row(clip_id: str, text_id: str | None, found: Sequence[Refusal]) -> Row:
    first, *others = found
    return {
        "clip_id": clip_id,
        "text_id": text_id,
        "reason": first.reason,
        "score": first.score,
        "threshold": first.threshold,
        "rule_version": f"{first.reason}/{first.version}",
        "detail": first.signal,
        "also_failed": [f"{r.reason}: {r.signal} {r.score:.4g} against {r.threshold:.4g}" for r in others],
    }
