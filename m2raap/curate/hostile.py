"""Texts that address a program instead of describing a video: orders to a model, role tags, script, hidden characters.

Every kind of evidence has a weight, the probability that a text with it is no caption; the score is the probability that at
least one of them is right. A word alone is no evidence ('ignore', 'system', a URL, a quote): an order has to be an order (an
imperative at the beginning of a sentence, or addressed to a 'you') about what models have (prompts, rules, answers). The
patterns are data in the package (assets/words/hostile.yaml).

Such texts are dropped before any model reads them. This is the first protection, not the only one: a text that passes is
sent as data in a field of its own, and answers have to fit a schema and the fidelity rules.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import yaml

from m2raap.curate import language, mojibake
from m2raap.curate.columns import LATIN, LINK_MARK, MARKUP, ODD, SLASH, Columns, HashSet, TextBatch

_MAX_CHARS = 4000  # characters that are read; the rule on length refuses a longer caption anyway


class Evidence(NamedTuple):
    """A pattern of orders, and the probability (0..1) that a text with it is no caption."""

    name: str
    weight: float
    pattern: re.Pattern[str]


@lru_cache(maxsize=1)
def _listed() -> dict[str, Any]:
    text = resources.files("m2raap").joinpath("assets/words/hostile.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@lru_cache(maxsize=3)
def _kinds(section: str) -> tuple[Evidence, ...]:
    """The evidence of 'shared', 'english' or 'chinese'."""
    macros = _listed()["macros"]

    def expanded(pattern: str) -> str:
        while "\u00ab" in pattern:
            pattern = re.sub("\u00ab(\\w+)\u00bb", lambda name: macros[name[1]], pattern)
        return pattern.replace("~", r"(?:[^\w.!?\n]+\w+)")

    return tuple(
        Evidence(
            row["name"],
            row["weight"],
            re.compile("|".join(f"(?:{expanded(alternative)})" for alternative in row["any"])),
        )
        for row in _listed()[section]
    )


_LATIN = re.compile("[a-z]")

_ESCAPES = re.compile(r"[\x1b\x9b]\[?[0-9;?]{0,12}[A-Za-z]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_REVERSED = re.compile("[\u202d\u202e]")
_EMBEDDED = re.compile("[\u202a-\u202c\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_INSIDE_WORDS = re.compile("(?<=\\w)[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]+(?=\\s?\\w)")
_FLAG_TAGS = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f")
_TAGS = re.compile("[\U000e0000-\U000e007f]")
_MIXED = re.compile(r"\b(?=\w*\d)(?=\w*[a-z])[a-z\d]{4,}\b")
_DIGITS_FOR_LETTERS = str.maketrans("013457", "oieast")
_SPACED = re.compile(r"\b(?:\w[.\-_* ]){4,}\w\b")
_MIN_SWAPPED = 6


def hostile_score(batch: TextBatch) -> np.ndarray:
    """(N,) 0..1: the probability that a text is or holds an order to a program."""
    raw, columns = batch.raw_columns, batch.columns
    suspects = raw.has(ODD | MARKUP) | raw.followed(SLASH, SLASH) | (raw.count(LINK_MARK) > 1)
    suspects |= _cued(columns) | _disguised(columns)
    scores_N = np.zeros(batch.num)
    for at in np.flatnonzero(suspects).tolist():
        scores_N[at] = hostility(batch.raw[at])
    return scores_N


def hostility(text: str) -> float:
    """`hostile_score` of one raw text."""
    return 1.0 - float(np.prod([1.0 - weight for _, weight in evidence(text)]))


def evidence(text: str) -> list[tuple[str, float]]:
    """(name, weight) of all evidence in `text` that it is or holds an order."""
    text = text[:_MAX_CHARS]
    plain = _plain(text)
    kinds = _kinds("shared")
    kinds += _kinds("english") if _LATIN.search(plain) else ()
    kinds += _kinds("chinese") if language.HAN.search(plain) else ()
    visible_evidence = [(item.name, item.weight) for item in kinds if item.pattern.search(plain)]
    return visible_evidence + _hidden_characters(text)


def _hidden_characters(text: str) -> list[tuple[str, float]]:
    if text.isascii() and text.isprintable():
        return []
    hidden = []
    if _ESCAPES.search(text) or _CONTROLS.search(text):
        hidden.append(("control characters", 0.8))
    if _REVERSED.search(text):
        hidden.append(("reversed direction", 0.8))
    if _EMBEDDED.search(text) and not _RIGHT_TO_LEFT.search(text):
        hidden.append(("embedded direction", 0.6))
    if len(_INSIDE_WORDS.findall(text)) >= 3:
        hidden.append(("invisible characters inside words", 0.7))
    if _TAGS.search(_FLAG_TAGS.sub("", text)):
        hidden.append(("tag characters", 0.9))
    return hidden


def _plain(text: str) -> str:
    """Lower case, in simplified characters, without invisible ones; spaced letters are joined ('i g n o r e'), digits that stand
    for letters and swapped letters are put right."""
    text = unicodedata.normalize("NFKC", language.INVISIBLE.sub("", _TAGS.sub("", text))).lower()
    if not text.isascii():
        text = mojibake.to_simplified(text)
    text = _SPACED.sub(lambda m: re.sub(r"[.\-_* ]", "", m.group()), text).replace("_", " ")
    if len(_MIXED.findall(text)) >= 3:
        text = _MIXED.sub(lambda m: m.group().translate(_DIGITS_FOR_LETTERS), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return language.TOKEN.sub(lambda m: _unswapped().get(_bag(m.group()), m.group()), text)


def _bag(word: str) -> str:
    """The letters of a long word in alphabetical order; '' for a shorter one, which is another word with letters swapped."""
    return "".join(sorted(word)) if len(word) >= _MIN_SWAPPED else ""


@lru_cache(maxsize=1)
def _unswapped() -> dict[str, str]:
    return {bag: word for word in _listed()["cues"]["en"].split() if (bag := _bag(word))}


@lru_cache(maxsize=1)
def _cue_sets() -> tuple[HashSet, HashSet, HashSet]:
    bags = HashSet([Columns(list(_unswapped().values())).bag_T])
    simplified = _listed()["cues"]["zh"].split()
    pairs = Columns(simplified + [mojibake.to_traditional(cue) for cue in simplified]).pair_T
    return HashSet.of_words(_listed()["cues"]["en"].split()), bags, HashSet([pairs[pairs != 0]])


def _cued(columns: Columns) -> np.ndarray:
    """(N,) whether a text has a cue word; the letters of a long one may be in any order."""
    words, bags, pairs = _cue_sets()
    swapped = bags.holds(columns.bag_T) & (columns.length_T >= _MIN_SWAPPED)
    return columns.sum_T(words.holds(columns.hash_T) | swapped | pairs.holds(columns.pair_T)) > 0


def _disguised(columns: Columns) -> np.ndarray:
    """(N,) whether a text has at least four single letters, or at least three words with digits among their letters."""
    letter = (columns.flags_T & LATIN) != 0
    return (columns.sum_T(letter & (columns.length_T == 1)) >= 4) | (columns.sum_T(columns.mixed_T) >= 3)
