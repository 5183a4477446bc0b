"""Fidelity rules: conditions that a model's text has to meet before it replaces the original.

A text is scored first and compared with thresholds after, as in text_rules. If a rule refuses, the original stays. Facts are
compared by rules for English and Chinese (facts.py). A translation is also compared with its original as a whole
(bilingual.py).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from m2raap.core.config import Config
from m2raap.curate import bilingual, facts, language, mojibake
from m2raap.curate.clean import clean
from m2raap.curate.echo import echoes
from m2raap.curate.fidelity import claims
from m2raap.curate.limits import Limit
from m2raap.curate.rules import Rule, RuleSet

Kind = Literal["rewrite", "translation"]
_SMALL = frozenset(
    {
        "a", "an", "the", "of", "on", "in", "at", "to", "by", "for", "from", "with", "and", "or", "but", "as", "is", "are",
        "was", "were", "be", "been", "being", "it", "its", "he", "she", "his", "her", "they", "their", "them", "him", "this",
        "that", "these", "those", "there", "then", "while", "who", "which", "what", "when", "where", "into", "onto", "over",
        "under", "up", "down", "out", "off", "some", "any", "very", "can", "has", "have", "had", "do", "does", "did",
        "video", "clip", "footage", "scene", "shows", "showing", "shown", "seen", "see",
    }
)  # fmt: skip
_SMALL_HAN = frozenset("的了着在是有和与个一这那里中上下地得到正并把被向从给对用过来去他她它们以及及也都而后前其")


@dataclass(frozen=True)
class Candidate:
    """A model's text and what it was made from, as (lang, text): the raw text `parent` (None: there is none) and `aux`."""

    text: str
    lang: str
    kind: Kind
    parent: tuple[str, str] | None
    aux: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class FidelityRule(Rule[Limit]):
    """`kinds`: the kinds of texts that the rule judges. Signals are scored part by part, so a limit cannot be a share."""

    kinds: tuple[Kind, ...] = ("rewrite", "translation")

    @property
    def takes_share(self) -> bool:
        """See Rule."""
        return False


FIDELITY_RULES = RuleSet(
    (
        FidelityRule("rewrite_echo", 1, "num_echoes", "above", Limit(max=0)),
        FidelityRule("rewrite_language", 2, "rewrite_lang_share", "below", Limit(min=0.5)),
        FidelityRule("rewrite_too_short", 1, "rewrite_words", "below", Limit(min=3)),
        FidelityRule("rewrite_too_long", 1, "tokens_over", "above", Limit(max=0)),
        FidelityRule("rewrite_script", 1, "mixed_script", "above", Limit(max=0)),
        FidelityRule("rewrite_numbers", 1, "number_faults", "above", Limit(max=0)),
        FidelityRule("rewrite_negation", 1, "negation_faults", "above", Limit(max=0)),
        FidelityRule("rewrite_names", 1, "name_faults", "above", Limit(max=0)),
        FidelityRule("rewrite_colours", 1, "colour_faults", "above", Limit(max=0)),
        FidelityRule("rewrite_lost", 1, "lost_share", "above", Limit(max=0.7), ("rewrite",)),
        FidelityRule("rewrite_invented", 1, "new_share", "above", Limit(max=0.6), ("rewrite",)),
        FidelityRule("translation_length", 1, "length_ratio_log", "above", Limit(max=1.1), ("translation",)),
        FidelityRule("translation_residue", 2, "residue_share", "above", Limit(max=0.12), ("translation",)),
        FidelityRule("rewrite_copies", 1, "num_sources", "above", Limit(max=10)),
        FidelityRule("rewrite_similarity", 1, "similarity_drop", "above", Limit(max=0.03), ("rewrite",)),
    )
)
# Columns that `score` and the stage fill part by part; num_sources is counted over the whole corpus.
SIGNALS: dict[str, str] = {rule.signal: "float" for rule in FIDELITY_RULES.values() if rule.signal != "num_sources"}


class FidelityConfig(Config):
    """The limits at which rules refuse a model's text. They are applied after scoring, so a new limit asks no model again."""

    rules: dict[str, Limit | None] = Field(
        default_factory=FIDELITY_RULES.defaults, description="Limits by rule: a number, {min | max: number}, or off."
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _over_defaults(cls, tree: Any) -> dict[str, Any]:
        return FIDELITY_RULES.over_defaults(tree)

    @field_validator("rules")
    @classmethod
    def _usable(cls, limits: dict[str, Limit | None]) -> dict[str, Limit | None]:
        return FIDELITY_RULES.checked(limits)

    def thresholds(self, kind: Kind) -> dict[str, float]:
        """reason -> threshold of the rules that are on and judge texts of this kind."""
        return FIDELITY_RULES.thresholds(
            {reason: limit for reason, limit in self.rules.items() if kind in FIDELITY_RULES[reason].kinds}
        )


def score(candidate: Candidate, simplified: bool = False) -> tuple[dict[str, float], str]:
    """(every signal that needs the texts alone, a description of what was lost and invented).

    `simplified`: whether Chinese has to be in simplified characters.
    Raises M2raapError for a language outside en, zh.
    """
    lang, text = candidate.lang, _one_script(candidate.text, candidate.lang)
    claimed = facts.facts(text, lang)
    pictures = [(aux_lang, _one_script(t, aux_lang)) for aux_lang, t in candidate.aux]
    aux = [facts.facts(t, aux_lang) for aux_lang, t in pictures]
    faults: dict[str, Counter[str]] = {}
    if candidate.parent is not None:
        source_lang, raw = candidate.parent[0], _one_script(candidate.parent[1], candidate.parent[0])
        cleaned = claims(clean(raw, source_lang)[0])
        source = facts.facts(cleaned, source_lang)
        raw_facts = facts.facts(raw, source_lang)
    else:
        source_lang, raw, cleaned, source, raw_facts = lang, "", "", facts.Facts(), facts.Facts()
    allowed = facts.union([source, raw_facts, *aux])
    same_lang = source_lang == lang
    faults["number_faults"] = facts.number_faults(source, allowed, claimed)
    faults["colour_faults"] = facts.colour_faults(source, allowed, claimed)
    faults["name_faults"] = facts.name_faults(source, allowed, claimed, None if same_lang else lang)
    lost_negation = source.negated and not claimed.negated
    new_negation = claimed.negated and not allowed.negated
    faults["negation_faults"] = Counter(
        (["lost negation"] if lost_negation else []) + (["invented negation"] if new_negation else [])
    )
    kinds_of_echo = echoes(candidate.text)
    signals = {name: float(sum(counts.values())) for name, counts in faults.items()}
    signals |= {
        "num_echoes": float(len(kinds_of_echo)),
        "rewrite_lang_share": language.lang_share(text, lang),
        "rewrite_words": float(language.num_words(text, lang)),
        "mixed_script": float(bilingual.mixed_script(candidate.text, simplified)) if lang == "zh" else 0.0,
    }
    if candidate.kind == "translation" and candidate.parent is not None:
        ratio = bilingual.length_ratio(cleaned, source_lang, text, lang)
        names = frozenset(word for name in raw_facts.names | raw_facts.places for word in name.split())
        signals["length_ratio_log"] = abs(math.log(max(ratio, 1e-3)))
        signals["residue_share"] = bilingual.residue_share(text, lang, names, raw)
    elif candidate.parent is not None:
        new, old = content(text), content(cleaned)
        seen = content(raw).union(*(content(t) for aux_lang, t in pictures if aux_lang == lang))
        signals["lost_share"] = len(old - new) / len(old) if old else 0.0
        signals["new_share"] = len(new - seen) / len(new) if new else 0.0
    descriptions = [fault for counts in faults.values() for fault in counts]
    return {name: round(value, 6) for name, value in signals.items()}, "; ".join([*kinds_of_echo, *descriptions])


def _one_script(text: str, lang: str) -> str:
    """The text in simplified characters, in which facts and words are compared."""
    return mojibake.to_simplified(text) if lang == "zh" else text


def content(text: str) -> frozenset[str]:
    """Content words: English stems (common endings are cut off), and Han characters; both without function words."""
    words = (w for w in language.tokens(text.replace("-", " ")) if w not in _SMALL and w not in _SMALL_HAN)
    return frozenset(_stem(w) for w in words)


def _stem(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("’s")
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def near_key(text: str, lang: str) -> int:
    """A key that is equal for texts of the same words: order, endings, function words and numbers do not count."""
    words = sorted(word for word in content(text) if not word.isdigit())
    digest = hashlib.blake2b(f"{lang}\0{' '.join(words)}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
