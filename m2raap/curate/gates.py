"""Fidelity gates: may what a model wrote stand where the original stood? Scores first, thresholds after, as in text_rules.

A gate refuses by one number. The first that refuses is the verdict, the others are recorded with it; the original stays.
Facts are compared by rules for English and Chinese (facts.py). A translation is also held against its original (bilingual.py).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from m2raap.core.config import Config
from m2raap.curate import bilingual, facts, language, mojibake
from m2raap.curate.clean import clean
from m2raap.curate.echo import echoes
from m2raap.curate.fidelity import claims
from m2raap.curate.refusal import Refusal

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
    """A model's text and what it was made from, as (lang, text): the raw `parent`, None where only `aux` were there."""

    text: str
    lang: str
    kind: Kind
    parent: tuple[str, str] | None
    aux: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Gate:
    """Refuses where `signal` is on the bad side of the threshold, the field of GatesConfig; null switches it off."""

    reason: str
    version: int
    signal: str
    refuse: Literal["below", "above"]
    threshold: str
    of: tuple[Kind, ...] = ("rewrite", "translation")


GATES: dict[str, Gate] = {
    gate.reason: gate
    for gate in (
        Gate("rewrite_echo", 1, "num_echoes", "above", "max_echoes"),
        Gate("rewrite_language", 1, "rewrite_lang_share", "below", "min_lang_share"),
        Gate("rewrite_too_short", 1, "rewrite_words", "below", "min_words"),
        Gate("rewrite_too_long", 1, "tokens_over", "above", "max_tokens_over"),
        Gate("rewrite_script", 1, "mixed_script", "above", "max_mixed_script"),
        Gate("rewrite_numbers", 1, "number_faults", "above", "max_number_faults"),
        Gate("rewrite_negation", 1, "negation_faults", "above", "max_negation_faults"),
        Gate("rewrite_names", 1, "name_faults", "above", "max_name_faults"),
        Gate("rewrite_colours", 1, "colour_faults", "above", "max_colour_faults"),
        Gate("rewrite_lost", 1, "lost_share", "above", "max_lost_share", ("rewrite",)),
        Gate("rewrite_invented", 1, "new_share", "above", "max_new_share", ("rewrite",)),
        Gate("translation_length", 1, "length_ratio_log", "above", "max_length_ratio_log", ("translation",)),
        Gate("translation_residue", 1, "residue_share", "above", "max_residue_share", ("translation",)),
        Gate("rewrite_copies", 1, "num_sources", "above", "max_sources"),
        Gate("rewrite_similarity", 1, "similarity_drop", "above", "max_similarity_drop", ("rewrite",)),
    )
}
SIGNALS: dict[str, str] = {gate.signal: "float" for gate in GATES.values() if gate.signal != "num_sources"}


class GatesConfig(Config):
    """Thresholds; null switches a gate off. They are applied after scoring: a new one asks no model again."""

    max_echoes: float | None = Field(
        default=0, description="links, role tags, markup, talk about the task: kinds found"
    )
    min_lang_share: float | None = Field(default=0.5, ge=0, le=1)  # in the language asked for
    min_words: float | None = Field(default=3, ge=0, description="words (en), characters (zh)")
    max_tokens_over: float | None = Field(default=0, ge=0, description="tokens that the backbone would cut off")
    max_mixed_script: float | None = Field(default=0, ge=0, description="traditional characters among simplified ones")
    max_number_faults: float | None = Field(default=0, ge=0, description="numbers lost or invented")
    max_negation_faults: float | None = Field(default=0, ge=0)  # negations lost or invented
    max_name_faults: float | None = Field(default=0, ge=0, description="names lost or invented")
    max_colour_faults: float | None = Field(default=0, ge=0, description="colours and sides lost or invented")
    max_lost_share: float | None = Field(default=0.7, ge=0, le=1, description="of the original's content words")
    max_new_share: float | None = Field(
        default=0.6, ge=0, le=1, description="of the rewrite's content words that neither text nor frames hold"
    )
    max_length_ratio_log: float | None = Field(default=1.1, ge=0, description="|ln(length of translation / original)|")
    max_residue_share: float | None = Field(default=0.12, ge=0, le=1, description="untranslated words")
    max_sources: float | None = Field(default=10, ge=1, description="different originals that one answer may stand for")
    max_similarity_drop: float | None = Field(default=0.03, description="of image-text cosine against the original's")


def score(candidate: Candidate, simplified: bool = False) -> tuple[dict[str, float], str]:
    """(every signal that text alone gives, what was lost and invented in words). `simplified`: the script that is asked for.

    Raises M2raapError for a language outside en, zh.
    """
    lang, text = candidate.lang, _one_script(candidate.text, candidate.lang)
    found = facts.facts(text, lang)
    pictures = [(aux_lang, _one_script(t, aux_lang)) for aux_lang, t in candidate.aux]
    aux = [facts.facts(t, aux_lang) for aux_lang, t in pictures]
    faults: dict[str, Counter[str]] = {}
    if candidate.parent is not None:
        source_lang, raw = candidate.parent[0], _one_script(candidate.parent[1], candidate.parent[0])
        cleaned = claims(clean(raw, source_lang)[0])
        source = facts.facts(cleaned, source_lang)
        given = facts.facts(raw, source_lang)
    else:
        source_lang, raw, cleaned, source, given = lang, "", "", facts.Facts(), facts.Facts()
    allowed = facts.union([source, given, *aux])
    same = source_lang == lang
    faults["number_faults"] = facts.number_faults(source, allowed, found)
    faults["colour_faults"] = facts.colour_faults(source, allowed, found)
    faults["name_faults"] = facts.name_faults(source, allowed, found, None if same else lang)
    lost_no, new_no = source.negated and not found.negated, found.negated and not allowed.negated
    faults["negation_faults"] = Counter(
        (["lost negation"] if lost_no else []) + (["invented negation"] if new_no else [])
    )
    heard = echoes(candidate.text)
    signals = {name: float(sum(counts.values())) for name, counts in faults.items()}
    signals |= {
        "num_echoes": float(len(heard)),
        "rewrite_lang_share": language.lang_share(text, lang),
        "rewrite_words": float(language.num_words(text, lang)),
        "mixed_script": float(bilingual.mixed_script(candidate.text, simplified)) if lang == "zh" else 0.0,
    }
    if candidate.kind == "translation" and candidate.parent is not None:
        ratio = bilingual.length_ratio(cleaned, source_lang, text, lang)
        names = frozenset(word for name in given.names | given.places for word in name.split())
        signals["length_ratio_log"] = abs(math.log(max(ratio, 1e-3)))
        signals["residue_share"] = bilingual.residue_share(text, lang, names, raw)
    elif candidate.parent is not None:
        new, old = content(text), content(cleaned)
        seen = content(raw).union(*(content(t) for aux_lang, t in pictures if aux_lang == lang))
        signals["lost_share"] = len(old - new) / len(old) if old else 0.0
        signals["new_share"] = len(new - seen) / len(new) if new else 0.0
    told = [fault for counts in faults.values() for fault in counts]
    return {name: round(value, 6) for name, value in signals.items()}, "; ".join([*heard, *told])


def _one_script(text: str, lang: str) -> str:
    """Facts and words are compared in simplified characters."""
    return mojibake.to_simplified(text) if lang == "zh" else text


def refusals(signals: Mapping[str, Any], kind: Kind, cfg: GatesConfig) -> list[Refusal]:
    """Every gate that refuses, in the order of GATES. A signal that was not measured refuses nothing."""
    found = []
    for gate in GATES.values():
        threshold, value = getattr(cfg, gate.threshold), signals.get(gate.signal)
        if threshold is None or value is None or kind not in gate.of:
            continue
        if value < threshold if gate.refuse == "below" else value > threshold:
            found.append(Refusal(gate.reason, gate.signal, float(value), float(threshold), gate.version))
    return found


def content(text: str) -> frozenset[str]:
    """Content words: English stems (a rough cut of endings), Han characters without the small ones."""
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
    """Equal for texts that say the same in almost the same words: order, endings, small words and numbers do not count."""
    words = sorted(word for word in content(text) if not word.isdigit())
    digest = hashlib.blake2b(f"{lang}\0{' '.join(words)}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
