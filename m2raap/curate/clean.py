"""Removes from a caption what does not describe the video: links, tags, stock phrases, capitals throughout, odd characters.

It adds no word. Each step has a name; `clean` returns the names of the steps that changed the text.
"""

from __future__ import annotations

import re

from m2raap.curate import language, mojibake, phrases
from m2raap.curate.patterns import LINK, is_bare, is_machine_word

_WIDE_ALL = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x3002: 0x2E, 0x3001: 0x2C}
_HTML = re.compile(r"</?(?:br|p|b|i|u|em|strong|span|div|a|font)\b[^<>]{0,200}>", re.IGNORECASE)
_HASH_TAG = re.compile("[#\uff03]([^\\s#\uff03]+)")
_GLUED_TAGS = re.compile("(?:[#\uff03][^#\uff03]*)+$")
# Separators of a caption's segments. Hyphens and colons separate only between blanks, brackets always.
_CUT = re.compile(
    "([,;|!\uff0c\u3002\uff1b\uff01\u3001()\\[\\]\u3010\u3011\uff08\uff09]+|\\s[-\u2013\u2014/:]+\\s|[.:](?=\\s|$)|\uff1a)"
)
_EDGES = " ,;|:-/\u2013\u2014\uff0c\uff1b\u3001\uff1a()[]\u3010\u3011\uff08\uff09"
_ARTICLES = frozenset({"a", "an", "the"})
_JOINING = frozenset({"of", "in", "on", "at", "to", "with", "and", "or", "by", "for", "from", "this", "that", "\u7684"})
_OWNERS = frozenset({"his", "her", "its", "their", "my", "your", "our", "watching", "making"})
_HAN_GAP = re.compile("(?<=[\u3400-\u9fff\uff0c\u3002\u3001])\\s+(?=[\u3400-\u9fff\uff0c\u3002\u3001])")
_HAN_COMMA = re.compile("(?<=[\u4e00-\u9fff]),\\s*(?=[\u4e00-\u9fff])")
_TWICE = re.compile(r"([!?.,;\uff01\uff1f\u3002\uff0c])\1+")


def normalise(text: str, lang: str, simplified: bool = False) -> str:
    """The same words in the same order, with encoding repaired, in one width and without markup. Both `clean` and the
    fidelity check start from it."""
    text = _HTML.sub(" ", mojibake.repair(text))
    if not text.isascii():
        if lang == "en":
            text = text.translate(_WIDE_ALL)
        else:
            text = _HAN_COMMA.sub("\uff0c", text)
            text = mojibake.to_simplified(text) if simplified else text
    return language.visible(text)


def clean(text: str, lang: str, simplified: bool = False) -> tuple[str, list[str]]:
    """(the cleaned caption, names of the steps that changed it). The caption may be empty."""
    steps: list[str] = []
    for name, step in (
        ("normalise", lambda t: normalise(t, lang, simplified)),
        ("links", _without_links),
        ("stock phrases", lambda t: _without_ends(t, lang)),
        ("stock tail", _without_glued_stock),
        ("capitals", _without_capitals),
        ("punctuation", _tidy),
    ):
        changed = step(text)
        if changed != text:
            steps.append(name)
        text = changed
    return text, steps


def _without_links(text: str) -> str:
    if not any(c in text for c in ".@#\uff20\uff03"):
        return text
    words = text.split()
    while words and _is_tag(words[-1]):
        words.pop()
    while words and _is_tag(words[0]):
        words.pop(0)
    if words:
        words[-1] = _GLUED_TAGS.sub("", words[-1])
    text = " ".join(words)
    text = _HASH_TAG.sub(r"\1", text)  # in "a #dog runs" the word belongs to the sentence
    return language.visible(LINK.sub(" ", text))


def _is_tag(word: str) -> bool:
    return word.startswith(("#", "\uff03"))


def _segments(text: str) -> list[tuple[str, str]]:
    """[(segment, separator after it)]; joined they are the text."""
    parts = _CUT.split(text)
    return list(zip(parts[::2], [*parts[1::2], ""], strict=True))


def _without_ends(text: str, lang: str) -> str:
    """Drops segments at both ends that are only stock phrases, file names, or tags that repeat the sentence."""
    segments = _segments(text)
    while segments and _is_uninformative(segments[-1][0], segments[:-1], lang):
        segments.pop()
    while segments and _is_uninformative(segments[0][0], segments[1:], lang):
        segments.pop(0)
    return "".join(a + b for a, b in segments).rstrip(_EDGES) if segments else ""


def _is_uninformative(segment: str, rest: list[tuple[str, str]], lang: str) -> bool:
    words = language.tokens(segment)
    if not words:
        return not segment.strip() or not any(c.isalnum() for c in segment)
    flags = phrases.covered(words)
    if any(flags) and all(flag or phrases.is_serial(w) for w, flag in zip(words, flags, strict=True)):
        return True
    if all(map(is_machine_word, segment.split())):
        return True
    others = [language.tokens(s) for s, _ in rest]
    is_sentence = any(len(o) >= 3 and not is_bare(s, lang) for o, (s, _) in zip(others, rest, strict=True))
    known = {w for o in others for w in o}
    return is_sentence and is_bare(segment, lang) and set(words) <= known


def _without_glued_stock(text: str) -> str:
    """Drops stock phrases at either end that no comma separates, if they have at least three words (five Han characters)."""
    spans = [(m.group().lower(), m.start(), m.end()) for m in language.TOKEN.finditer(text)]
    words = [word for word, _, _ in spans]
    flags = phrases.covered(words)
    if not any(flags) or all(flags):
        return text
    tail = len(flags)
    while flags[tail - 1]:
        tail -= 1
    if _is_long(words[tail:]) and words[tail - 1] not in _ARTICLES | _JOINING | _OWNERS:
        text = text[: spans[tail - 1][2]]
    head = flags.index(False)
    if head >= 2 and words[head] in phrases.JOINS:  # as in "4K stock footage of a dog"
        return text[spans[head][2] :].lstrip(_EDGES)
    return text[spans[head][1] :] if _is_long(words[:head]) and words[head] not in _JOINING else text


def _is_long(words: list[str]) -> bool:
    han = sum(language.weight(w) < 1 for w in words)
    return han >= 5 or len(words) - han >= 3


def _without_capitals(text: str) -> str:
    """Lower case for a text that is mostly capitals."""
    letters = [c for c in text if c.isascii() and c.isalpha()]
    words = [w for w in language.tokens(text) if len(w) > 2 and w.isascii() and w.isalpha()]
    mostly_upper = len(letters) >= 8 and len(words) >= 2 and sum(c.isupper() for c in letters) > 0.7 * len(letters)
    return text.lower() if mostly_upper else text


def _tidy(text: str) -> str:
    text = _TWICE.sub(r"\1", _HAN_GAP.sub("", language.visible(text)))
    return text.strip(_EDGES)
