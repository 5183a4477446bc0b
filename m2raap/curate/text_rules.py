"""Cheap refusals of texts: first every score, then thresholds, so a new threshold costs no new score.

A rule is a score from `text` alone and a side on which it refuses. RULES is their order: the first that refuses is the
verdict, the others are recorded too. To add a rule: a score function, an entry here, a threshold in FilterTextConfig.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from m2raap.core.config import Config
from m2raap.curate import language, phrases
from m2raap.curate.mojibake import broken_share, repair
from m2raap.curate.patterns import LINK, LIST_SEPARATOR, is_bare, is_machine_word
from m2raap.curate.refusal import Refusal

_MAX_TOKENS = 1000  # of very long texts the rest says nothing new about repetition
_MAX_PERIOD = 8


def link_share(text: str, _lang: str) -> float:
    """0..1: share of addresses, handles and hash tags, each counting as a word."""
    if not any(c in text for c in ".@#\uff20\uff03"):
        return 0.0
    rest, links = LINK.subn(" ", text)
    words = sum(map(language.weight, language.tokens(rest)))
    return links / (links + words) if links else 0.0


def tag_share(text: str, lang: str) -> float:
    """0..1: share of file names, identifiers and tokeniser residue, or of bare tags in a list."""
    words = LINK.sub(" ", text).split() if "#" in text and not re.search(r"\w#\w", text) else text.split()
    if not words:
        return 0.0
    machine = sum(map(is_machine_word, words))
    return max(machine / len(words), _list_share(text, lang))


def _list_share(text: str, lang: str) -> float:
    items = [item.strip() for item in LIST_SEPARATOR.split(text)]
    items = [item for item in items if item]
    if len(items) < 3:
        return 0.0
    return sum(is_bare(item, lang) for item in items) / len(items)


def repeat_share(text: str, _lang: str) -> float:
    """0..1: share of tokens that only repeat what stands right before them (periods of 1 to 8 tokens)."""
    tokens = language.tokens(text)[:_MAX_TOKENS]
    if len(tokens) < 4:
        return 0.0
    repeated = [False] * len(tokens)
    for period in range(1, min(_MAX_PERIOD, len(tokens) // 2) + 1):
        run, needed = 0, max(period, 2)  # one doubled word is natural: "very very", 慢慢
        for at in range(period, len(tokens) + 1):
            if at < len(tokens) and tokens[at] == tokens[at - period]:
                run += 1
                continue
            if run >= needed:
                repeated[at - run : at] = [True] * run
            run = 0
    return sum(repeated) / len(tokens)


@dataclass(frozen=True)
class TextRule:
    """`score(text, lang)` fills the column `signal`; `refuse` says on which side of the threshold the text is bad.

    `threshold` names the field of FilterTextConfig, where '{lang}' stands for the text's language.
    """

    reason: str
    signal: str
    score: Callable[[str, str], float]
    refuse: Literal["below", "above"]
    threshold: str


RULES: dict[str, TextRule] = {
    rule.reason: rule
    for rule in (
        TextRule("mojibake", "broken_share", lambda text, _: broken_share(text), "above", "max_broken_share"),
        TextRule("link", "link_share", link_share, "above", "max_link_share"),
        TextRule("machine_tags", "tag_share", tag_share, "above", "max_tag_share"),
        TextRule("boilerplate", "stock_share", lambda text, _: phrases.share(text), "above", "max_stock_share"),
        TextRule("wrong_language", "lang_share", language.lang_share, "below", "min_lang_share_{lang}"),
        TextRule("repetition", "repeat_share", repeat_share, "above", "max_repeat_share"),
        TextRule("text_too_short", "num_words", language.num_words, "below", "min_words_{lang}"),
        TextRule("text_too_long", "num_words", language.num_words, "above", "max_words_{lang}"),
    )
}


class FilterTextConfig(Config):
    """Thresholds of the text rules. For zh a 'word' is one Han character."""

    rules: tuple[str, ...] = tuple(RULES)
    min_words_en: int = Field(default=3, ge=0)
    min_words_zh: int = Field(default=4, ge=0)
    max_words_en: int = Field(default=100, ge=1)
    max_words_zh: int = Field(default=150, ge=1)
    min_lang_share_en: float = Field(default=0.1, ge=0, le=1)
    min_lang_share_zh: float = Field(default=0.4, ge=0, le=1)
    max_broken_share: float = Field(default=0.15, ge=0, le=1)
    max_stock_share: float = Field(default=0.7, ge=0, le=1)
    max_tag_share: float = Field(default=0.7, ge=0, le=1)
    max_repeat_share: float = Field(default=0.4, ge=0, le=1)
    max_link_share: float = Field(default=0.6, ge=0, le=1)
    max_copies: int = Field(default=10, ge=1, description="clips on which one and the same text may stand")

    @field_validator("rules")
    @classmethod
    def _known(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(rules) - set(RULES))
        if unknown:
            raise ValueError(f"unknown rule {', '.join(unknown)}; known: {', '.join(RULES)}")
        return tuple(name for name in RULES if name in rules)

    def thresholds(self, lang: str) -> dict[str, float]:
        """reason -> threshold of the rules that are on, for texts in `lang`."""
        return {name: float(getattr(self, RULES[name].threshold.format(lang=lang))) for name in self.rules}


def score_text(text: str, lang: str) -> dict[str, float]:
    """One number a signal, of the text as `repair` leaves it: what can be repaired is not refused.

    Raises M2raapError for a language outside en, zh.
    """
    language.check_lang(lang)
    fixed = repair(text)
    signals: dict[str, float] = {}
    for rule in RULES.values():
        if rule.signal not in signals:
            signals[rule.signal] = float(rule.score(fixed, lang))
    return signals


def refusals(signals: Mapping[str, float], lang: str, thresholds: Mapping[str, float]) -> list[Refusal]:
    """Every rule that refuses, in the order of RULES: the first is the verdict. `thresholds`: of FilterTextConfig."""
    language.check_lang(lang)
    found = []
    for reason, rule in RULES.items():
        if reason not in thresholds:
            continue
        score, threshold = signals[rule.signal], thresholds[reason]
        if score < threshold if rule.refuse == "below" else score > threshold:
            found.append(Refusal(reason, rule.signal, score, threshold))
    return found
