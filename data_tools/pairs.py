"""The clips and texts that an importer collects, with their ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.cells import is_nothing, sniff_lang
from data_tools.columns import Columns
from data_tools.listing import read_rows, require
from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TEXT_COLUMNS = ("source", "licence", "category", "url")
MAX_ID = 500  # most characters of a clip's id; a video's path may have four times as many


def rows_of(
    listing: Path,
    unread: dict[str, list[str]],
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    what: str = "row",
) -> Iterator[tuple[int, Row]]:
    """(row number, row) of a list, with these names of columns whatever their spelling; the others are added to `unread`.

    `what`: how a row is called in messages. Raises M2raapError for a row without one of the required columns.
    """
    columns = Columns((*required, *optional))
    columns.used.update((*required, *optional))
    for number, listed in read_rows(listing):
        row = columns.row(listed)
        require(listing, f"{what} {number}", row, required)
        yield number, row
    unread[listing.name] = columns.unread


class Pairs:
    """The clips and texts of one import. `notes` counts what was repaired or left out; the corpus's `source` holds it."""

    def __init__(self, listing: Path, name: str, producer: str | None = None) -> None:
        self.listing, self.name = listing, name
        self.clips: dict[str, Row] = {}
        self.texts: list[Row] = []
        self.scores: dict[str, Row] = {}  # clip_id -> scores that the list holds: motion, aesthetics ...
        self.notes: Counter[str] = Counter()
        self.unread: dict[str, list[str]] = {}  # list -> its columns that were not read
        self.unread_lists: list[str] = []
        self._producer = producer  # None: the name of the list that is being read
        self._num_texts: Counter[str] = Counter()
        self._id_of_span: dict[tuple[str, float, float | None], str] = {}

    def rows(
        self, required: tuple[str, ...], optional: tuple[str, ...] = (), what: str = "row"
    ) -> Iterator[tuple[int, Row]]:
        """`rows_of` the list that is being read."""
        return rows_of(self.listing, self.unread, required, optional, what)

    def clip(self, where: str, clip_id: str, video: str, **columns: Any) -> Row:
        """Adds a clip if its id and its span of the video are new; returns its row.

        A span that is listed under another id is the clip that is known already: its id in the returned row counts.

        Raises M2raapError for an id or a path that is empty, too long or holds control characters, for an id that is used for
        two videos or for two spans of one, and for a clip with two splits.
        """
        for what, value, most in (("id", clip_id, MAX_ID), ("video", video, 4 * MAX_ID)):
            if not 0 < len(value) <= most or not _is_printable(value):
                raise M2raapError(
                    f"{self.listing}: {where}: {value[:60]!r} cannot be a clip's {what}: expected 1 to {most:,} characters "
                    "without control characters"
                )
        stated = {key: self._column(where, key, value) for key, value in columns.items() if value not in (None, "")}
        row: Row = {
            "clip_id": clip_id,
            "video": video,
            "start_s": None,
            "end_s": None,
            "source": mended(self.name),
        } | stated
        first_id = self._id_of_span.setdefault(_span(row), clip_id)
        if first_id != clip_id:
            self.notes["rows_under_other_ids"] += 1
        known = self.clips.setdefault(first_id, row)
        if known["video"] != row["video"]:
            raise M2raapError(
                f"{self.listing}: {where}: clip_id '{clip_id}' is used for two videos; ids have to be unique"
            )
        if _span(known) != _span(row):
            raise M2raapError(
                f"{self.listing}: {where}: clip_id '{clip_id}' is used for two spans of its video; ids have to be unique"
            )
        if known is not row:
            for key, value in stated.items():
                known.setdefault(key, value)
            if (split := stated.get("split")) and split != known["split"]:
                raise M2raapError(
                    f"{self.listing}: {where}: clip '{first_id}' is listed for {split} and for {known['split']}; "
                    "leave it in one split"
                )
        return known

    def text(self, clip_id: str, text: str, lang: str | None = None, **columns: Any) -> str | None:
        """Adds a text and returns its id. `lang` None: by the script.

        An empty one (also nan, None, N/A ...) is only counted in `notes`; then None.
        """
        if is_nothing(text):
            self.notes["empty_texts"] += 1
            return None
        whole = mended(text)
        if whole != text:
            text = whole
            self.notes["mended_texts"] += 1
        columns = {key: mended(value) if isinstance(value, str) else value for key, value in columns.items()}
        lang = lang or sniff_lang(text)
        key = f"{clip_id}.{lang}"
        text_id = f"{key}{self._num_texts[key]}"
        self._num_texts[key] += 1
        row = {"text_id": text_id, "clip_id": clip_id, "lang": lang, "text": text, "origin": "raw"}
        self.texts.append(row | {"producer": self._producer or self.listing.name, "active": True} | columns)
        return text_id

    def _column(self, where: str, name: str, value: Any) -> Any:
        """The value of a clip's column. Raises M2raapError for bytes, which are no text."""
        if name not in _TEXT_COLUMNS:
            return value
        if isinstance(value, bytes):
            raise M2raapError(
                f"{self.listing}: {where}, column '{name}': expected a text, found bytes that are no UTF-8"
            )
        return mended(str(value))

    def counts(self) -> dict[str, int]:
        """Number of clips, and of texts in each language that has any."""
        langs = Counter(row["lang"] for row in self.texts)
        return {"clips": len(self.clips)} | {lang: langs[lang] for lang in sorted(langs)}


def _span(row: Row) -> tuple[str, float, float | None]:
    """What two clips of one span have in common; a clip without a start begins with its video."""
    return row["video"], row["start_s"] or 0.0, row["end_s"]


def mended(text: str) -> str:
    """The text with a replacement character for what a table cannot hold: lone surrogates, which broken JSON escapes leave and
    which cannot be written as UTF-8, and NUL."""
    if not _encodes(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")


def _is_printable(value: str) -> bool:
    return _encodes(value) and _CONTROL.search(value) is None


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
