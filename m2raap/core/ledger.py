"""Counts of the rows that a stage read, added, dropped and left; a row in or added must be a row out or dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row
from m2raap.core.view import Part


@dataclass(frozen=True)
class TableCounts:
    """Rows of one table: those that a stage read, those that it added, those that it dropped (by reason), those that are left."""

    rows_in: int = 0
    added: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    rows_out: int = 0

    @property
    def expected(self) -> int:
        """Rows that must be accounted for: rows in plus rows added."""
        return self.rows_in + self.added

    @property
    def accounted(self) -> int:
        """Rows that are accounted for: rows out plus rows dropped."""
        return self.rows_out + sum(self.dropped.values())

    def __add__(self, other: TableCounts) -> TableCounts:
        dropped = Counter(self.dropped) + Counter(other.dropped)
        return TableCounts(
            self.rows_in + other.rows_in, self.added + other.added, dropped, self.rows_out + other.rows_out
        )


@dataclass(frozen=True)
class Counts:
    """The counts of a data stage, of one part or of all. Counts of parts are added up with `+`.

    `others` holds what else the manifest counts, such as the number of texts that went to a server.
    """

    clips: TableCounts = TableCounts()
    texts: TableCounts = TableCounts()
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, TableCounts]:
        return {"clips": self.clips, "texts": self.texts}

    def balanced(self) -> bool:
        """Whether every row of both tables is accounted for."""
        return all(table.expected == table.accounted for table in self.tables.values())

    def __add__(self, other: Counts) -> Counts:
        names = [*self.others, *(name for name in other.others if name not in self.others)]
        others = {name: self.others.get(name, 0) + other.others.get(name, 0) for name in names}
        return Counts(self.clips + other.clips, self.texts + other.texts, others)

    def to_dict(self) -> dict[str, Any]:
        """The form of `manifest.json`: 'clips_in', 'texts_added', 'clips_dropped:REASON' ..., sorted by name.

        Left out where they are zero: rows out, rows dropped, and clips added.
        """
        counts: dict[str, Any] = {"texts_added": self.texts.added}
        if self.clips.added:
            counts["clips_added"] = self.clips.added
        for name, table in self.tables.items():
            counts[f"{name}_in"] = table.rows_in
            counts |= {f"{name}_dropped:{reason}": number for reason, number in table.dropped.items() if number}
            if table.rows_out:
                counts[f"{name}_out"] = table.rows_out
        return dict(sorted((counts | dict(self.others)).items()))

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Counts:
        """Reads what `to_dict` wrote; numbers that are absent are zero."""
        numbers = dict(counts)
        tables = {}
        for name in ("clips", "texts"):
            prefix = f"{name}_dropped:"
            reasons = [key for key in numbers if key.startswith(prefix)]
            dropped = {key.removeprefix(prefix): numbers.pop(key) for key in reasons}
            rows_in, added, rows_out = (numbers.pop(f"{name}_{column}", 0) for column in ("in", "added", "out"))
            tables[name] = TableCounts(rows_in, added, dropped, rows_out)
        return cls(**tables, others=numbers)


def new_texts(part: Part, added: Sequence[Row]) -> dict[str, str]:
    """text_id -> clip_id of the texts that a stage added. The other rows of `added` replace a text that was there before."""
    known = {text["text_id"] for text in part.texts}
    return {row["text_id"]: row["clip_id"] for row in added if row["text_id"] not in known}


def left_without_text(stage: str, part: Part, also_with_text: set[str], drops: Sequence[Row]) -> list[Row]:
    """`dropped` rows of the clips that had texts and have lost the last one. `also_with_text`: ids of clips with new texts."""
    dropped_texts = {row["text_id"] for row in drops if row.get("text_id")}
    dropped_clips = {row["clip_id"] for row in drops if not row.get("text_id")}
    rows = []
    for clip_id, texts in part.texts_of.items():
        remaining = [row for row in texts if row["text_id"] not in dropped_texts]
        if texts and not remaining and clip_id not in dropped_clips | also_with_text:
            rows.append({"clip_id": clip_id, "stage": stage, "reason": "no_text_left"})
    return rows


def count_part(part: Part, added: Sequence[Row], drops: Sequence[Row], is_benchmark: bool) -> Counts:
    """The counts of a stage for one part. `part`: the view before the stage; `added`: the texts that it wrote; `drops`: its rows
    of `dropped`, or of `missing` on a benchmark.

    A text that is dropped with its clip is counted as 'clip REASON'. On a benchmark nothing is dropped, and the rows of `missing`
    are counted as 'clips_missing'. Raises M2raapError for a row that is dropped twice or that the part does not have.
    """
    others = {"texts_superseded": sum(not row["active"] for row in added)}
    if is_benchmark:
        others["clips_missing"] = len(drops)
        drops = []
    clip_reason = {row["clip_id"]: row["reason"] for row in drops if not row.get("text_id")}
    text_reason = {row["text_id"]: row["reason"] for row in drops if row.get("text_id")}
    if len(clip_reason) + len(text_reason) != len(drops):
        raise M2raapError(f"part {part.index}: the stage dropped a clip or a text twice; this is a bug in the stage")
    clip_ids = [clip["clip_id"] for clip in part.clips]
    clips_dropped = Counter(clip_reason[clip_id] for clip_id in clip_ids if clip_id in clip_reason)
    clips = TableCounts(len(clip_ids), 0, clips_dropped, len(clip_ids) - clips_dropped.total())
    new = new_texts(part, added)
    clip_of_text = {row["text_id"]: row["clip_id"] for row in part.texts} | new
    if unknown := sorted((set(clip_reason) - set(clip_ids)) | (set(text_reason) - set(clip_of_text))):
        raise M2raapError(
            f"part {part.index}: the stage dropped {unknown[0]}, which it was not given; this is a bug in the stage"
        )
    texts_dropped: Counter[str] = Counter()
    for text_id, clip_id in clip_of_text.items():
        if text_id in text_reason:
            texts_dropped[text_reason[text_id]] += 1
        elif clip_id in clip_reason:
            texts_dropped[f"clip {clip_reason[clip_id]}"] += 1
    texts = TableCounts(len(part.texts), len(new), texts_dropped, len(clip_of_text) - texts_dropped.total())
    return Counts(clips, texts, others)
