"""Where the texts of a table come from, by the columns that `data export` writes, so that a translation stays one.

For each language LANG: origin_LANG, producer_LANG, text_id_LANG and parent_text_id_LANG, in a csv a text each; in a VideoFolder
origins_LANG and so on, lists beside the captions. A parent is named by the id that it had in the exported corpus.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from data_tools.pairs import Pairs
from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row

NAMES = ("origin", "producer", "text_id", "parent_text_id")
ORIGINS = ("raw", "rewrite", "translation", "aux")


def columns_of(texts: Iterable[Row], lang: str) -> Row:
    """The columns of a clip's texts in one language as lists beside its captions; '' where there is nothing to say."""
    return {f"{name}s_{lang}": [str(text.get(name) or "") for text in texts] for name in NAMES}


class Provenance:
    """What the rows of a table say about their texts, and the parents of texts, which may be in later rows."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._new_ids: dict[tuple[str, str], str] = {}  # (clip id, exported text id) -> text id
        self._children: list[tuple[Row, str]] = []  # (text, exported id of its parent)

    def stated(self, number: int, row: Row, lang: str, index: int) -> Row:
        """Name -> value, of what the row states about its text number `index` in a language; {} where it has no such columns.

        Raises M2raapError for an origin that is none.
        """
        stated = {name: _cell(row, name, lang, index) for name in NAMES}
        origin = stated["origin"]
        if origin and origin not in ORIGINS:
            raise M2raapError(
                f"{self._pairs.listing}: row {number}, column 'origin_{lang}': expected one of {', '.join(ORIGINS)}, "
                f"found '{origin[:60]}'"
            )
        return {name: value for name, value in stated.items() if value}

    def add(self, clip_id: str, text: str, lang: str, stated: Row) -> str | None:
        """Adds a text with what is stated about it, and returns its id as `Pairs.text` does."""
        known = {name: stated[name] for name in ("origin", "producer") if name in stated}
        text_id = self._pairs.text(clip_id, text, lang, **known)
        if text_id and "text_id" in stated:
            self._new_ids[clip_id, stated["text_id"]] = text_id
        if text_id and "parent_text_id" in stated:
            self._children.append((self._pairs.texts[-1], stated["parent_text_id"]))
        return text_id

    def link(self) -> None:
        """Names the parents, once all rows are read; one that was not exported (a rewritten text) stays unnamed."""
        for row, parent in self._children:
            row["parent_text_id"] = self._new_ids.get((row["clip_id"], parent))


def _cell(row: Row, name: str, lang: str, index: int) -> str:
    value: Any = row.get(f"{name}_{lang}")
    if value is None:
        values = row.get(f"{name}s_{lang}")
        value = values[index] if isinstance(values, list) and index < len(values) else None
    return value.strip() if isinstance(value, str) else ""
