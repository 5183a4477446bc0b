"""Signals of a translation: its length, residue of the other language, its script. facts.py compares numbers and names."""

from __future__ import annotations

import re

from m2raap.curate import language, mojibake

_LATIN = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_POS_TAG = re.compile(r"(?<=[\w\u4e00-\u9fff])[#/_](?:nns?|vb[dgnpz]?|jj|rb|[nvadr]{1,2})\b", re.IGNORECASE)


def length_ratio(source: str, source_lang: str, text: str, lang: str) -> float:
    """Length of `text` over that of `source`, both in words; 1.6 Han characters make a word of English."""
    return _words(text, lang) / max(_words(source, source_lang), 0.5)


def _words(text: str, lang: str) -> float:
    tokens = language.tokens(text)
    if lang == "en":
        return float(len(tokens))
    han = len(language.HAN.findall(text))
    return han / 1.6 + (len(tokens) - han)


def residue_share(text: str, lang: str, names: frozenset[str], source: str = "") -> float:
    """0..1: share of `text` that is left in the other language or is a tagger's residue ('猫#n').

    `names` may stay Latin in Chinese, and so may words of `source` that the translation writes with a capital.
    """
    words = {word.lower() for word in _LATIN.findall(source)}
    tagged = len(_POS_TAG.findall(text))
    if lang == "en":
        num_chars = len(language.HAN.findall(text)) + len(language.KANA.findall(text))
        foreign_words = num_chars / 1.6
        units = foreign_words + len(language.tokens(text)) - num_chars
        return min(1.0, (foreign_words + tagged) / max(units, 1.0))
    units = max(_words(text, lang), 1.0)
    kept = lambda w: w.lower() in names or _is_code(w) or (w[0].isupper() and w.lower() in words)  # noqa: E731
    foreign = sum(not kept(word) for word in _LATIN.findall(text))
    return min(1.0, (foreign + tagged) / units)


def _is_code(word: str) -> bool:
    return word.isupper() and len(word) <= 5


def mixed_script(text: str, simplified: bool) -> int:
    """Number of Han characters in the wrong script: the traditional ones if `simplified`, else those of the rarer script."""
    han = "".join(language.HAN.findall(text))
    traditional = sum(a != b for a, b in zip(han, mojibake.to_simplified(han), strict=True))
    if simplified or not traditional:
        return traditional
    return min(traditional, sum(map(_only_simplified, han)))


def _only_simplified(char: str) -> bool:
    """Whether Big5 lacks the character and OpenCC changes it. (里 and 后 belong to both scripts.)"""
    try:
        char.encode("big5")
    except UnicodeEncodeError:
        return mojibake.to_traditional(char) != char
    return False
