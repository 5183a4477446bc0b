"""Rules on texts: all scores are computed first and compared with thresholds after, so a new threshold needs no new score.

A rule is a score of a batch of texts and a side on which it refuses. RULES has them in order: the first that refuses
decides, the others are recorded too. To add a rule, write a score function, an entry in RULES and a sentence in
curate/reasons.

Most scores are computed for every text; those that need regular expressions or models run them only where the batch's
columns say that there can be a match (`TextBatch.where`), and are 0 elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from m2raap.core.config import Config
from m2raap.curate import language, minhash, phrases
from m2raap.curate.columns import (
    DIGIT,
    DOT,
    HAN,
    KANA,
    LATIN,
    LINK_MARK,
    LOST,
    MACHINE_MARK,
    OTHER_LETTER,
    RARE,
    SEPARATOR,
    SLASH,
    SUSPECT,
    TRADITIONAL,
    WIDE,
    WORD,
    Columns,
    HashSet,
    TextBatch,
    blocks,
)  # fmt: skip
from m2raap.curate.hostile import hostile_score
from m2raap.curate.limits import LangLimit, Limit
from m2raap.curate.mojibake import MANY_RARE, broken_share
from m2raap.curate.patterns import LINK, LIST_SEPARATOR, NOTHING_WORDS, is_bare, is_machine_word
from m2raap.curate.rules import Rule, RuleSet
from m2raap.curate.text_copies import text_keys

_MAX_PERIOD = 8


def broken_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of characters that a wrong encoding broke beyond repair."""
    columns = batch.columns
    many_rare = columns.count(RARE) > MANY_RARE * np.maximum(columns.count(HAN), 1)
    return batch.where(columns.has(SUSPECT | LOST) | many_rare, broken_share)


def link_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of addresses, handles and hash tags, each counting as a word."""
    columns = batch.columns
    return batch.where(
        columns.has(LINK_MARK) | columns.followed(DOT, WORD) | columns.followed(SLASH, SLASH), link_share
    )


def link_share(text: str) -> float:
    """`link_shares` of one text."""
    rest, links = LINK.subn(" ", text)
    words = sum(map(language.weight, language.tokens(rest)))
    return links / (links + words) if links else 0.0


def tag_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of file names, identifiers and tokeniser markup, or of tags in a list."""
    columns = batch.columns
    odd = columns.has(MACHINE_MARK) | columns.followed(DOT, WORD) | (columns.count(DIGIT) >= 2)
    odd |= columns.sum_T(_nothing().holds(columns.hash_T)) > 0
    listed = columns.count(SEPARATOR) >= 2
    listed |= columns.has(SLASH)
    shares_N = batch.where(odd, machine_share)
    return np.maximum(shares_N, batch.where(listed, lambda text: list_share(text, batch.lang)))


@lru_cache(maxsize=1)
def _nothing() -> HashSet:
    return HashSet.of_words(NOTHING_WORDS)


def machine_share(text: str) -> float:
    """0..1: share of the words that are file names, identifiers or tokeniser markup."""
    words = LINK.sub(" ", text).split() if "#" in text and not re.search(r"\w#\w", text) else text.split()
    return sum(map(is_machine_word, words)) / len(words) if words else 0.0


def list_share(text: str, lang: str) -> float:
    """0..1: share of the words that are in tags, in a list of at least three items. Words are counted, not items, so that a
    sentence among the tags weighs more."""
    items = [item.strip() for item in LIST_SEPARATOR.split(text)]
    items = [(item, len(language.tokens(item))) for item in items if item]
    words = sum(size for _, size in items)
    return sum(size for item, size in items if is_bare(item, lang)) / words if len(items) >= 3 and words else 0.0


def stock_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of the text that stock-site and channel phrases cover."""
    columns = batch.columns
    words, pairs = phrases.first_tokens()
    hits = words.holds(columns.plain_T) | pairs.holds(columns.pair_T)
    return batch.where(columns.sum_T(hits) > 0, phrases.share)


def lang_shares(batch: TextBatch) -> np.ndarray:
    """0..1: how likely a text is in its language (`language.lang_share`)."""
    columns = batch.columns
    if batch.lang == "zh":
        clear = ~columns.has(KANA | LATIN | OTHER_LETTER)
    else:
        english, shared = _english()
        long = columns.length_T > 1
        known_english, common = (columns.sum_T(known.holds(columns.hash_T) & long) for known in (english, shared))
        clear = ~columns.has(HAN | KANA | OTHER_LETTER)
        clear &= language.is_clearly_english(known_english, common, columns.sum_T(long))
    return batch.where(~clear, lambda text: language.lang_share(text, batch.lang), otherwise=1.0)


@lru_cache(maxsize=1)
def _english() -> tuple[HashSet, HashSet]:
    words = language.english_words()
    return HashSet.of_words([*words, *(word + "s" for word in words)]), HashSet.of_words(language.shared_words())


def repeat_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of tokens that repeat the 1 to 8 tokens right before them."""
    columns = batch.columns
    hashes, text_of = columns.hash_T, columns.text_of_T
    repeated = np.zeros(len(hashes), bool)
    for period in range(1, min(_MAX_PERIOD, len(hashes) - 1) + 1):
        same = np.zeros(len(hashes) + 1, bool)
        same[period:-1] = (hashes[period:] == hashes[:-period]) & (text_of[period:] == text_of[:-period])
        edges = np.flatnonzero(same[1:] != same[:-1]) + 1
        starts, stops = edges[::2], edges[1::2]
        # One doubled word is natural: "very very", 慢慢.
        for start, stop in zip(
            *(ends[stops - starts >= max(period, 2)].tolist() for ends in (starts, stops)), strict=True
        ):
            repeated[start:stop] = True
    return _share(columns.sum_T(repeated), columns.num_tokens_N)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


@dataclass(frozen=True)
class TextRule(Rule[LangLimit]):
    """`score(batch)` gives the column `signal`. None: the rule looks across clips, and its signal comes from `text_copies`
    after all parts are scored."""

    score: Callable[[TextBatch], np.ndarray] | None

    @property
    def across(self) -> bool:
        """Whether the rule counts over the whole corpus."""
        return self.score is None

    @property
    def takes_share(self) -> bool:
        """See Rule; what counts over the whole corpus is no score of one text."""
        return not self.across

    def spelled_out(self, value: Any) -> Any:
        """As Rule.spelled_out, for every language; or by language, and then a language that is left out keeps its default."""
        if value is None or value is False or isinstance(value, LangLimit):
            return value or None
        if isinstance(value, Mapping) and value.keys() & set(language.LANGS):
            default = {lang: getattr(self.limit, lang, None) for lang in language.LANGS}
            return default | {lang: super(TextRule, self).spelled_out(limit) for lang, limit in value.items()}
        return dict.fromkeys(language.LANGS, super().spelled_out(value))


def _above(
    signal: str,
    score: Callable[[TextBatch], np.ndarray] | None,
    en: float | None,
    zh: float | None,
    reason: str,
    version: int = 1,
) -> TextRule:
    limit = None if en is None else LangLimit(en=Limit(max=en), zh=Limit(max=zh))
    return TextRule(reason, version, signal, "above", limit, score)


def _below(
    signal: str, score: Callable[[TextBatch], np.ndarray], en: float, zh: float, reason: str, version: int = 1
) -> TextRule:
    return TextRule(reason, version, signal, "below", LangLimit(en=Limit(min=en), zh=Limit(min=zh)), score)


def num_words(batch: TextBatch) -> np.ndarray:
    """Words (en), or Han characters plus words in other scripts (zh)."""
    return batch.columns.num_tokens_N


def num_content_words(batch: TextBatch) -> np.ndarray:
    """(N,) content words: without function words and words about videos in general. A Han character counts half a word."""
    columns = batch.columns
    single, double = _generic()
    generic = single.holds(columns.hash_T)
    pairs = double.holds(columns.pair_T)
    generic |= pairs
    generic[1:] |= pairs[:-1]
    weight_T = np.where((columns.flags_T & HAN) != 0, 0.5, 1.0)
    return columns.sum_T(np.where(generic, 0.0, weight_T))


@lru_cache(maxsize=1)
def _generic() -> tuple[HashSet, HashSet]:
    """Hashes of the listed words, and of Chinese words of two characters as pairs of tokens."""
    lines = resources.files("m2raap").joinpath("assets/words/generic.txt").read_text(encoding="utf-8").splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    columns = Columns(words)
    pairs = columns.pair_T
    return HashSet([columns.hash_T[columns.num_tokens_N[columns.text_of_T] == 1]]), HashSet([pairs[pairs != 0]])


def digit_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of digits among letters and digits; a Han character counts as two letters."""
    columns = batch.columns
    return _share(columns.count(DIGIT), columns.count(WORD) + columns.count(HAN))


def wide_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of full-width letters and digits among all letters and digits, before repair."""
    return _share(batch.raw_columns.count(WIDE), batch.raw_columns.count(WORD | WIDE))


def traditional_shares(batch: TextBatch) -> np.ndarray:
    """0..1: share of the Han characters that have another, simplified form."""
    return _share(batch.columns.count(TRADITIONAL), batch.columns.count(HAN))


RULES = RuleSet(
    (
        _above("hostile", hostile_score, 0.5, 0.5, "hostile_text"),
        _above("broken_share", broken_shares, 0.15, 0.15, "mojibake", version=2),
        _above("link_share", link_shares, 0.6, 0.6, "link"),
        _above("tag_share", tag_shares, 0.7, 0.7, "machine_tags", version=2),
        _above("stock_share", stock_shares, 0.7, 0.7, "boilerplate", version=2),
        _below("lang_share", lang_shares, 0.1, 0.4, "wrong_language", version=3),
        _above("repeat_share", repeat_shares, 0.5, 0.5, "repetition"),
        _above("digit_share", digit_shares, 0.5, 0.5, "digits"),
        _above("wide_share", wide_shares, None, None, "full_width"),
        _above("traditional_share", traditional_shares, None, None, "traditional"),
        _below("num_words", num_words, 2, 4, "text_too_short"),
        _above("num_words", num_words, 100, 150, "text_too_long"),
        _below("content_words", num_content_words, 1, 0.5, "unspecific"),
        _above("copies", None, 20, 20, "duplicate_text", version=2),
        _above("source_share", None, 0.02, 0.02, "frequent_in_source"),
        _above("near_copies", None, 20, 20, "near_duplicate_text"),
    )
)


class FilterTextConfig(Config):
    """The limits at which rules refuse texts. For zh a 'word' is one Han character."""

    rules: dict[str, LangLimit | None] = Field(
        default_factory=RULES.defaults,
        description="Limits by rule, for all languages or by language ({en: 3, zh: 5}): a number, {min | max: number, "
        "lowest | highest: share of the texts of a language}, or off.",
    )
    near_jaccard: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Least share of common word pairs (Jaccard) of two texts that are near copies.",
    )
    batch_share: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="Share of all clips that may have the same text, for each of its content words, if this allows more clips "
        "than the limits of duplicate_text and near_duplicate_text.",
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _over_defaults(cls, tree: Any) -> dict[str, Any]:
        return RULES.over_defaults(tree)

    @field_validator("rules")
    @classmethod
    def _usable(cls, limits: dict[str, LangLimit | None]) -> dict[str, LangLimit | None]:
        return RULES.checked(limits)

    @property
    def by_share(self) -> list[str]:
        """Rules whose thresholds depend on the scores of the corpus, for texts of any language."""
        return [
            reason
            for reason, limit in self.rules.items()
            if limit and any(part and part.has_share for part in (limit.en, limit.zh))
        ]

    def thresholds(self, lang: str, scores: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
        """reason -> threshold of the rules that are on, for texts in `lang`. `scores`: of all of these, by the reasons in
        `by_share`; without them these rules are left out."""
        return RULES.thresholds({name: limit and getattr(limit, lang) for name, limit in self.rules.items()}, scores)


def score_texts(texts: Sequence[str], lang: str) -> dict[str, np.ndarray]:
    """signal -> (N,) scores of the repaired texts: a fault that `repair` mends is not refused.

    Raises M2raapError for a language outside en, zh.
    """
    language.check_lang(lang)
    scored = {rule.signal: rule.score for rule in RULES.values() if rule.score}
    rows = [
        {name: score(batch).astype(np.float64) for name, score in scored.items()}
        for batch in (TextBatch(texts[block], lang) for block in blocks(texts))
    ]
    return {name: np.concatenate([np.zeros(0), *(row[name] for row in rows)]) for name in scored}


def score_rows(texts: Sequence[str], lang: str) -> list[dict[str, Any]]:
    """One row a text: every signal, and text_key and sketch, by which `text_copies` counts copies over the corpus."""
    rows: list[dict[str, Any]] = []
    scored = {rule.signal: rule.score for rule in RULES.values() if rule.score}
    for block in blocks(texts):
        batch = TextBatch(texts[block], lang)
        columns = [score(batch).astype(np.float64).round(6).tolist() for score in scored.values()]
        keys, sketches = text_keys(batch).tolist(), minhash.sketches(batch.columns)
        for scores, key, sketch in zip(zip(*columns, strict=True), keys, sketches, strict=True):
            rows.append(dict(zip(scored, scores, strict=True)) | {"text_key": key, "sketch": sketch.tobytes()})
    return rows


def score_text(text: str, lang: str) -> dict[str, float]:
    """`score_texts` of one text."""
    return {name: float(values[0]) for name, values in score_texts([text], lang).items()}
