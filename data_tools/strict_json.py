"""JSON that others wrote, within limits of memory: small files can hold millions of empty lists, of 60 bytes each in memory.

All functions raise ValueError with what is wrong; the callers add file and row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

MAX_ENTRY = 16 * 1024**2  # characters of one entry of a list that is read entry by entry
MAX_WEIGHT = 10_000_000  # of all values of one text: about 600 MB
_WEIGHTS = {"{": 4, "[": 1, ",": 1}  # of the values that these characters begin or part; one is about 60 bytes
_FREE_CHARS = 1024**2  # a text of so few characters is not weighed
_CHUNK = 1024**2
_BLANK = " \t\r\n"


def parse_json(text: str) -> Any:
    """The value in `text`. Raises ValueError for what is no JSON, NaN, a key that an object has twice, and too many values."""
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
    buffer, at = head, 0

    def skip_blanks() -> str:
        """The next character that is no blank; '' at the end."""
        nonlocal buffer, at
        while True:
            while at < len(buffer) and buffer[at] in _BLANK:
                at += 1
            if at < len(buffer):
                return buffer[at]
            buffer, at = source.read(_CHUNK), 0
            if not buffer:
                return ""

    if skip_blanks() != "[":
        raise ValueError("expected a list")
    at += 1
    if skip_blanks() != "]":
        while True:
            skip_blanks()
            buffer, at = buffer[at:], 0
            value, at, buffer = _entry(buffer, source)
            yield value
            if (mark := skip_blanks()) != ",":
                break
            at += 1
        if mark != "]":
            raise ValueError(f"expected ',' or ']' after an entry, found {mark!r}" if mark else "the list has no end")
    at += 1
    if rest := skip_blanks():
        raise ValueError(f"{rest!r} after the end of the list")


def _entry(buffer: str, source: IO[str]) -> tuple[Any, int, str]:
    """(value, where it ends in the buffer, buffer) of the entry with which `buffer` begins; reads on as far as it goes."""
    while True:
        whole = len(buffer) > MAX_ENTRY or not (more := source.read(max(len(buffer), _CHUNK)))
        if not whole:
            buffer += more
        try:
            value, end = _DECODER.raw_decode(buffer)
        except RecursionError:
            raise ValueError("is nested too deep") from None
        except json.JSONDecodeError:
            if not whole:
                continue
            if len(buffer) > MAX_ENTRY:
                raise ValueError(f"an entry is longer than {MAX_ENTRY:,} characters, or no JSON") from None
            raise
        if end < len(buffer) or whole:
            return value, end, buffer


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key '{twice[:60]}' is given twice")
    return tree


def _no_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
