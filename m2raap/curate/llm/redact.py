"""Keeps the key of a server out of messages and out of the cache, also where the server repeats only a piece of it."""

from __future__ import annotations

import base64
import html
import re
from urllib.parse import quote

_PIECE = 6  # characters in a row, of the key's letters and digits, that are masked in a message
# Servers without keys are given placeholders. "x" is in every message; "dummy" and "EMPTY" may be words of a caption.
_SHORTEST_IN_MESSAGES, _SHORTEST_IN_ANSWERS = 4, 8
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_OTHER_KEYS = re.compile(r"(?i)\b(bearer\s+|sk-)[\w.~+/=-]{6,}")


class Redactor:
    """Finds one key in texts. Case and all characters but letters and digits are ignored in pieces of the key."""

    def __init__(self, key: str) -> None:
        """`key`: printable ASCII; '': there is none."""
        encoded = base64.b64encode(key.encode()).decode().rstrip("=")
        spellings = {key, quote(key, safe=""), html.escape(key), key.replace("/", "\\/"), encoded}
        self._spellings = sorted(spellings, key=len, reverse=True) if len(key) >= _SHORTEST_IN_MESSAGES else []
        self._plain = _letters(key)[0]
        self._whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(key)}(?![A-Za-z0-9])")
        self._is_secret = len(key) >= _SHORTEST_IN_ANSWERS

    def mask(self, text: str) -> str:
        """The text with *** in place of the key, of pieces of it, and of what looks like the key of another server."""
        for spelling in self._spellings:
            text = text.replace(spelling, "***")
        for start, end in reversed(self._pieces(text, _PIECE)):
            text = f"{text[:start]}***{text[end:]}"
        return _OTHER_KEYS.sub(r"\1***", text)

    def is_in(self, text: str) -> bool:
        """Whether a text holds the key, or so long a piece of it that it is no accident; JSON escapes are read, too."""
        if not self._is_secret:
            return False
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
        length = max(8, min(12, len(self._plain) - 4))
        return bool(self._whole.search(text)) or bool(self._pieces(text, length))

    def _pieces(self, text: str, length: int) -> list[tuple[int, int]]:
        """(start, end) of every stretch of the text whose letters and digits stand in the key, at least `length` of them."""
        pieces = {self._plain[i : i + length] for i in range(len(self._plain) - length + 1)}
        if not pieces:
            return []
        plain, places = _letters(text)
        spans: list[tuple[int, int]] = []
        for i in range(len(plain) - length + 1):
            if plain[i : i + length] in pieces:
                start, end = places[i], places[i + length - 1] + 1
                spans[-1:] = [(spans[-1][0], end)] if spans and start <= spans[-1][1] else [*spans[-1:], (start, end)]
        return spans


def _letters(text: str) -> tuple[str, list[int]]:
    """The ASCII letters and digits of a text in lower case, and the place of each in the text."""
    places = [place for place, char in enumerate(text) if char.isascii() and char.isalnum()]
    return "".join(text[place] for place in places).lower(), places
