"""Clips and texts as an importer finds them, with the ids that they get: what every importer fills."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from data_tools.listing import sniff_lang
from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_ID = 500  # characters of a clip's id or of a file's name; longer ones are no names


class Pairs:
    """A growing corpus. `notes` counts what was mended or left out; it ends in the corpus's `source`."""

    def __init__(self, listing: Path, name: str, producer: str | None = None) -> None:
        self.listing, self.name = listing, name
        self.clips: dict[str, Row] = {}
        self.texts: list[Row] = []
        self.scores: dict[str, Row] = {}  # the list's own figures of a clip: motion, aesthetics ...
        self.notes: Counter[str] = Counter()
        self._producer = producer  # None: the name of the list that is being read
        self._num_texts: Counter[str] = Counter()

    def clip(self, where: str, clip_id: str, video: str, **columns: Any) -> Row:
        """The clip's row, new or known. Raises M2raapError for an id that is no name or that names two videos."""
        for what, value in (("id", clip_id), ("video", video)):
            if not 0 < len(value) <= (MAX_ID if what == "id" else 4 * MAX_ID) or not _clean(value):
                raise M2raapError(f"{self.listing}: {where}: {value[:60]!r} cannot be a clip's {what}")
        row: Row = {"clip_id": clip_id, "video": video, "start_s": None, "end_s": None, "source": self.name}
        row |= {key: value for key, value in columns.items() if value not in (None, "")}
        known = self.clips.setdefault(clip_id, row)
        if known["video"] != row["video"]:
            raise M2raapError(f"{self.listing}: {where}: clip_id '{clip_id}' names two videos")
        if (known["start_s"], known["end_s"]) != (row["start_s"], row["end_s"]):
            raise M2raapError(f"{self.listing}: {where}: clip_id '{clip_id}' names two stretches of its video")
        return known

    def text(self, clip_id: str, text: str, lang: str | None = None, **columns: Any) -> str | None:
        """Adds a text and returns its id; None, and a note, where there is nothing in it. `lang` None: by its script."""
        if not text.strip():
            self.notes["empty_texts"] += 1
            return None
        if not _encodes(text):  # half of a surrogate pair, as broken JSON escapes leave it: no file can hold it
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            self.notes["mended_texts"] += 1
        lang = lang or sniff_lang(text)
        key = f"{clip_id}.{lang}"
        text_id = f"{key}{self._num_texts[key]}"
        self._num_texts[key] += 1
        row = {"text_id": text_id, "clip_id": clip_id, "lang": lang, "text": text, "origin": "raw"}
        self.texts.append(row | {"producer": self._producer or self.listing.name, "active": True} | columns)
        return text_id

    def counts(self) -> dict[str, int]:
        """Clips, and texts of each language that has any."""
        langs = Counter(row["lang"] for row in self.texts)
        return {"clips": len(self.clips)} | {lang: langs[lang] for lang in sorted(langs)}


def _clean(value: str) -> bool:
    return _encodes(value) and _CONTROL.search(value) is None


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
