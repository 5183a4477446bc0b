"""Grades the filters against planted faults: recall of the faults, precision of the drops. Nothing is read or written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from m2raap.core.errors import NO_TEXT_LEFT


def grade(
    dropped_ids_by_reason: Mapping[str, Collection[str]],
    truth: Sequence[Mapping[str, Any]],
    clip_of_text: Mapping[str, str],
) -> dict[str, Any]:
    """Recall per fault, precision per reason, and both over everything.

    `truth` rows have id, level ('clip' or 'text'), fault, repairable; repairable rows are no faults.
    `clip_of_text` names the clip of every text. A faulty text is caught when it or its clip is dropped, a faulty clip
    when it, or every text of it, is dropped. A dropped text is right when it or its clip is faulty; a dropped clip is
    right when it, or any of its texts, is. `no_text_left` follows from other drops, so it counts in recall and not in
    precision.

    Gives {"faults": [{fault, level, planted, caught, recall, by_reason}], "reasons": [{reason, dropped, right,
    precision}], "overall": {planted, caught, recall, dropped, right, precision}}; shares are None where nothing counts.
    """
    texts_of_clip: dict[str, list[str]] = {}
    for text, clip in clip_of_text.items():
        texts_of_clip.setdefault(clip, []).append(text)
    faulty = {str(row["id"]) for row in truth if not row["repairable"]}
    reason_of: dict[str, str] = {}
    for reason in sorted(dropped_ids_by_reason):
        for item in dropped_ids_by_reason[reason]:
            reason_of.setdefault(item, reason)

    def caught_by(item: str, level: str) -> str | None:
        if item in reason_of:
            return reason_of[item]
        if level == "text":
            return reason_of.get(clip_of_text.get(item, ""))
        texts = texts_of_clip.get(item, [])
        return reason_of[texts[0]] if texts and all(text in reason_of for text in texts) else None

    def is_faulty(item: str) -> bool:
        return item in faulty or clip_of_text.get(item) in faulty or bool(faulty & set(texts_of_clip.get(item, [])))

    faults: dict[tuple[str, str], dict[str, Any]] = {}
    caught_items: set[str] = set()
    for row in truth:
        if row["repairable"]:
            continue
        name, level = str(row["fault"]), str(row["level"])
        entry = faults.setdefault(
            (name, level), {"fault": name, "level": level, "planted": 0, "caught": 0, "by_reason": {}}
        )
        entry["planted"] += 1
        reason = caught_by(str(row["id"]), level)
        if reason is not None:
            caught_items.add(str(row["id"]))
            entry["caught"] += 1
            entry["by_reason"][reason] = entry["by_reason"].get(reason, 0) + 1
    for entry in faults.values():
        entry["recall"] = entry["caught"] / entry["planted"]
        entry["by_reason"] = dict(sorted(entry["by_reason"].items(), key=lambda item: (-item[1], item[0])))

    reasons = []
    judged: set[str] = set()
    for reason in sorted(dropped_ids_by_reason):
        items = set(dropped_ids_by_reason[reason])
        if reason == NO_TEXT_LEFT or not items:
            continue
        judged |= items
        right = sum(is_faulty(item) for item in items)
        reasons.append({"reason": reason, "dropped": len(items), "right": right, "precision": right / len(items)})
    planted = len(faulty)
    right = sum(is_faulty(item) for item in judged)
    return {
        "faults": [faults[key] for key in sorted(faults)],
        "reasons": reasons,
        "overall": {
            "planted": planted,
            "caught": len(caught_items),
            "recall": len(caught_items) / planted if planted else None,
            "dropped": len(judged),
            "right": right,
            "precision": right / len(judged) if judged else None,
        },
    }
