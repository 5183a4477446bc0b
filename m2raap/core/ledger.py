"""What a stage did to the rows of one part, counted so that nothing is lost: in and added are out and dropped."""

from __future__ import annotations

from collections import Counter

from m2raap.core.tables import Row
from m2raap.core.view import Part


def new_texts(part: Part, added: list[Row]) -> dict[str, str]:
    """text_id -> clip_id of the texts that a stage added; the others replace one that was there."""
    known = {text["text_id"] for text in part.texts}
    return {row["text_id"]: row["clip_id"] for row in added if row["text_id"] not in known}


def left_without_text(stage: str, part: Part, also_with_text: set[str], drops: list[Row]) -> list[Row]:
    """A clip that had texts and has lost the last one is dropped too."""
    gone = {row["text_id"] for row in drops if row.get("text_id")}
    gone_clips = {row["clip_id"] for row in drops if not row.get("text_id")}
    rows = []
    for clip_id, texts in part.texts_of.items():
        left = [row for row in texts if row["text_id"] not in gone]
        if texts and not left and clip_id not in gone_clips | also_with_text:
            rows.append({"clip_id": clip_id, "stage": stage, "reason": "no_text_left"})
    return rows


def count_part(part: Part, added: list[Row], drops: list[Row], is_benchmark: bool) -> dict[str, int]:
    """What a stage did to one part, from the view before it, the texts it wrote and its `dropped` (or `missing`) rows."""
    counts = _count(part, new_texts(part, added), [] if is_benchmark else drops)
    counts["texts_superseded"] = sum(not row["active"] for row in added)
    if is_benchmark:
        counts["clips_missing"] = len(drops)
    return counts


def _count(part: Part, new_texts: dict[str, str], drops: list[Row]) -> dict[str, int]:
    """Rows in, added, dropped by reason and out. A text that leaves with its clip is counted under the clip's reason."""
    counts: Counter[str] = Counter()
    clip_reason = {row["clip_id"]: row["reason"] for row in drops if not row.get("text_id")}
    text_reason = {row["text_id"]: row["reason"] for row in drops if row.get("text_id")}
    assert len(clip_reason) + len(text_reason) == len(drops), "a clip or text was dropped twice by one stage"
    counts["clips_in"], counts["texts_in"], counts["texts_added"] = len(part.clips), len(part.texts), len(new_texts)
    for clip in part.clips:
        reason = clip_reason.get(clip["clip_id"])
        counts[f"clips_dropped:{reason}" if reason else "clips_out"] += 1
    owner = {row["text_id"]: row["clip_id"] for row in part.texts} | new_texts
    for text_id, clip_id in owner.items():
        reason = text_reason.get(text_id) or (f"clip {clip_reason[clip_id]}" if clip_id in clip_reason else None)
        counts[f"texts_dropped:{reason}" if reason else "texts_out"] += 1
    return dict(counts)
