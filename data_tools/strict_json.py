"""JSON that others wrote, within limits of memory: small files can hold millions of empty lists, of 60 bytes each in memory.

All functions raise ValueError with what is wrong; the callers add file and row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

MAX_ENTRY = 16 * 1024**2  # characters of one entry of a list that is read entry by entry
MAX_WEIGHT = 10_000_000  # of all values of one text: about 600 MB
_WEIGHTS = {"{": 4, "[": 1, ",": 1}  # of the values that these characters begin or part; one is about 60 bytes
_FREE_CHARS = 1024**2  # a text of so few characters is not weighed
_CHUNK = 1024**2
_BLANKS = re.compile(r"[ \t\r\n]*")


def parse_json(text: str) -> Any:
    """The value in `text`. Raises ValueError for no JSON, infinities, a key that an object has twice, and too many values."""
    if len(text) > _FREE_CHARS and sum(n * text.count(char) for char, n in _WEIGHTS.items()) > MAX_WEIGHT:
        raise ValueError(f"holds more than {MAX_WEIGHT:,} values")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None


def list_entries(source: IO[str], head: str = "") -> Iterator[Any]:
    """The entries of the list in `head` and `source`, one by one, so that memory holds one of them.

    Raises ValueError as `parse_json` does, and for what is no list.
    """
    text = _Text(source, head)
    if text.next_char() != "[":
        raise ValueError("expected a list")
    text.at += 1
    if text.next_char() != "]":
        while True:
            text.next_char()
            yield text.value()
            if (mark := text.next_char()) != ",":
                break
            text.at += 1
        if mark != "]":
            raise ValueError(f"expected ',' or ']' after an entry, found {mark!r}" if mark else "the list has no end")
    text.at += 1
    if rest := text.next_char():
        raise ValueError(f"{rest!r} after the end of the list")


class _Text:
    """The part of a text that is read but not yet parsed: `buffer` from `at` on."""

    def __init__(self, source: IO[str], head: str) -> None:
        self._source, self.buffer, self.at = source, head, 0

    def next_char(self) -> str:
        """The next character that is no blank, at which `at` then is; '' at the end."""
        while True:
            self.at = _BLANKS.match(self.buffer, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Reads about as much again as is not yet parsed; False at the end."""
        self.buffer, self.at = self.buffer[self.at :], 0
        more = self._source.read(max(len(self.buffer), _CHUNK))
        self.buffer += more
        return bool(more)

    def value(self) -> Any:
        """The value that begins at `at`, which then is behind it."""
        while True:
            fault: ValueError | None = None
            value, end = None, len(self.buffer)
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.at)
            except RecursionError:
                raise ValueError("is nested too deep") from None
            except json.JSONDecodeError as error:  # perhaps because it is not read to its end
                fault = error
            if end - self.at > MAX_ENTRY:
                raise ValueError(f"an entry is longer than {MAX_ENTRY:,} characters, or no JSON")
            if end == len(self.buffer) and self._read_on():
                continue
            if fault:
                raise fault
            self.at = end
            return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key '{twice[:60]}' is given twice")
    return tree


def no_constant(name: str) -> None:
    """NaN is how Python writes a missing value. Raises ValueError for the infinities."""
    if name != "NaN":
        raise ValueError(f"JSON has no {name}")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=no_constant)
