"""The columns of a list: known ones are read whatever their spelling, and the others are named after the import."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from data_tools.cells import is_nothing
from m2raap.core import talk
from m2raap.core.corpus import LANGS
from m2raap.core.errors import listed

CAPTION = (
    "caption", "captions", "text", "texts", "sentence", "sentences", "description", "descriptions", "cap", "title", "name",
)  # fmt: skip
LANG_NAMES = {
    "en": ("en", "eng", "english", "en_us", "en_gb"),
    "zh": ("zh", "cn", "ch", "chs", "chn", "zho", "cmn", "chinese", "zh_cn", "zh_hans", "zh_hant", "zh_tw", "mandarin"),
}
# Rows of jsonl may each have other keys: so many spellings of a row's columns, and columns that are not known, are remembered.
_MAX_HEADERS, _MAX_UNKNOWN = 100, 10_000
NUMBERED = frozenset(CAPTION) - {"title", "name"}  # caption1, caption2 ...
# What a start or an end may be that of, in a folded name.
OF_TIMES = "(?:clip|video|segment|seg|shot|scene|moment|timestamp|time|t)?"
_EDGE = re.compile(
    OF_TIMES + "(start|begin|end|stop)(?:timestamp|timecode|time|ts|t)?(?:in)?(?:seconds|second|secs|sec|s)?"
)
SHARDS = "the shards"  # under which an import of tar archives names the endings of members that it has not read
_MAX_NAMES = 20  # in a message


def folded(name: object) -> str:
    """A column's name without regard to case, blanks, '_', '-' and brackets: 'Clip_ID', 'clip-id' and 'clipId' are the same."""
    text = unicodedata.normalize("NFKC", str(name)).casefold()
    return "".join(char for char in text if char not in "_-. \t\ufeff\u200b()[]")


# Folded name of a column -> (its name among CAPTION, language): caption_cn and chinese_caption are ('caption', 'zh').
_CAPTION_OF = {
    folded(spelling): (base, lang)
    for base in CAPTION
    for lang in LANGS
    for word in LANG_NAMES[lang]
    for spelling in (base + word, word + base)
}


_LANG_TAG = re.compile(r"(en|eng|zh|zho|cmn)(?:[-_][a-z]{4})?(?:[-_][a-z]{2}|[-_][0-9]{3})?")  # en-AU, zh-Hant-TW
_LANG_OF = {folded(word): lang for lang, words in LANG_NAMES.items() for word in words}


def lang_named(value: object) -> str | None:
    """en or zh where a cell names one of them in any spelling ('English', 'zh-CN', 'zh-Hant-TW'); None for another language."""
    return _LANG_OF.get(folded(value)) or _LANG_OF.get(_LANG_TAG.sub(r"\1", str(value).strip().lower()))


def numbered_caption(name: object) -> tuple[str, str | None] | None:
    """(name among CAPTION, language or None) of a column of one of several captions, such as caption_2 and text_en_1."""
    text = folded(name)
    stem = text.rstrip("0123456789")
    if stem == text:
        return None
    return (stem, None) if stem in NUMBERED else _CAPTION_OF.get(stem)


def caption_column(name: object) -> tuple[str, str] | None:
    """(name among CAPTION, language) of a column of captions in one language; None for another column."""
    return _CAPTION_OF.get(folded(name))


def edge_named(name: object) -> str | None:
    """'start' or 'end' where the name of a column says that it holds one, such as `Start_timestamp` or `clip end (s)`."""
    match = _EDGE.fullmatch(folded(name))
    return None if match is None else "start" if match[1] in ("start", "begin") else "end"


class Columns:
    """The columns of one list, over all of its rows.

    `row` gives a row in which each known column has its known name. What a reader reads it adds to `used`; the other columns
    are `unread`. `by_lang` holds the columns of captions in one language, with that language, `numbered` those
    of one of several captions, with their language or None, `edges` those of starts and ends under other names than the known.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {folded(name): name for name in reversed(tuple(known))}
        self._renamed: dict[tuple[Any, ...], dict[str, str]] = {}
        # Name in the list -> the name that it is read by; None: a second spelling.
        self._names: dict[str, str | None] = {}
        self._empty: set[str] = set()  # names in the list of the columns that no row has filled so far
        self.by_lang: dict[str, str] = {}
        self.numbered: dict[str, str | None] = {}
        self.edges: dict[str, str] = {}  # 'start' or 'end'
        self.used: set[str] = set()

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row by known names. Of two spellings of one name in a row, the known one counts, else the first."""
        header = tuple(row)
        renamed = self._renamed.get(header)
        if renamed is None:
            if len(self._renamed) >= _MAX_HEADERS:
                self._renamed.clear()
            renamed = self._renamed[header] = self._rename(row)
        self._empty -= {name for name in self._empty if name in row and not is_nothing(row[name])}
        if not renamed:
            return row
        return {renamed.get(name, name): value for name, value in row.items()}

    def _rename(self, row: dict[str, Any]) -> dict[str, str]:
        taken_names = {name for name in row if self._known.get(folded(name)) == name}
        renamed = {}
        for name in row:
            by_lang = caption_column(name)
            known = self._known.get(folded(name), name)
            if name not in self._names:
                is_known = known != name or name in taken_names or by_lang
                if not is_known and len(self._names) >= _MAX_UNKNOWN:
                    continue
                self._empty.add(name)
            if known != name and known in taken_names:
                self._names.setdefault(name, None)
                continue
            taken_names.add(known)
            self._names[name] = known
            if known != name:
                renamed[name] = known
            if by_lang:
                self.by_lang.setdefault(known, by_lang[1])
            elif known == name and name not in self._known.values() and (caption := numbered_caption(name)):
                self.numbered.setdefault(name, caption[1])
            elif known == name and name not in self._known.values() and (edge := edge_named(name)):
                self.edges.setdefault(name, edge)
        return renamed

    @property
    def names(self) -> list[str]:
        """All columns of the list, as they are spelled in it."""
        return list(self._names)

    def known_name(self, name: str) -> str:
        """The name by which a column of the list is read; its own name if it is not known."""
        return self._names[name] or name

    @property
    def unread(self) -> list[str]:
        """The columns that hold something and that no row was read from, as they are spelled in the list."""
        names = (name for name, known in self._names.items() if known is None or known not in self.used)
        return [name for name in names if name not in self._empty]


def shortened(names: list[str]) -> str:
    """The names for a message, each cut: the first twenty, and the number of the others."""
    return listed([talk.one_line(str(name)[:60]) for name in names], _MAX_NAMES)


def say_unread(columns: dict[str, list[str]], lists: list[str]) -> None:
    """Prints one line that names the columns that were not read, by list, and the lists that were not."""
    phrases = [
        f"{'members' if name == SHARDS else 'columns'} of {talk.one_line(name)}: {shortened(names)}"
        for name, names in columns.items()
        if names
    ]
    if lists:
        phrases.append(f"lists: {shortened(lists)}")
    if phrases:
        talk.log(f"not read: {'; '.join(phrases)}")
