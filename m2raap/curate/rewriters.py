"""Raw texts and auxiliary captions of one clip -> one faithful caption a text, in the recipe's languages.

The 'rules' rewriter only cleans; where a language has no text at all it says what the auxiliary captions of that
language say. It never translates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field

from m2raap.core.config import Config
from m2raap.curate import language
from m2raap.curate.clean import clean
from m2raap.curate.fidelity import compare

Row = Mapping[str, Any]


class RewriterConfig(Config):
    """Which rewriter, and what it may do."""

    name: Literal["rules", "none"] = "rules"
    simplified: bool = Field(default=False, description="traditional characters -> simplified ones (OpenCC)")
    fill_missing: bool = Field(default=True, description="a language without a text gets an auxiliary caption")
    min_words_en: int = Field(
        default=3, ge=1, description="a cleaned text with fewer words is nothing: auxiliary caption"
    )
    min_words_zh: int = Field(default=4, ge=1, description="the same in Han characters")


@dataclass
class Rewrite:
    """new: rows lang, text, origin 'rewrite'|'translation', parent_text_id (None where no raw text stood), note.
    inactive: text_ids that a new row replaces. refused: rows text_id, reason, detail; the raw text stays as it is."""

    new: list[dict[str, Any]] = field(default_factory=list)
    inactive: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)


class Rewriter(Protocol):
    """Texts of one clip: rows with text_id, lang, text. Auxiliary captions: rows with lang, text and score."""

    producer: str

    def rewrite(self, raw: Sequence[Row], aux: Sequence[Row], langs: Sequence[str]) -> Rewrite: ...


class NoRewriter:
    """Leaves every text as it is."""

    producer = "none"

    def __init__(self, cfg: RewriterConfig | None = None) -> None:
        self.cfg = cfg or RewriterConfig(name="none")

    def rewrite(self, raw: Sequence[Row], aux: Sequence[Row], langs: Sequence[str]) -> Rewrite:
        return Rewrite()


class RulesRewriter:
    """Cleans by rules (clean.py), checks itself (fidelity.py), falls back on the auxiliary captions. No model."""

    producer = "rules"

    def __init__(self, cfg: RewriterConfig | None = None) -> None:
        self.cfg = cfg or RewriterConfig()

    def rewrite(self, raw: Sequence[Row], aux: Sequence[Row], langs: Sequence[str]) -> Rewrite:
        """Texts in languages outside `langs` stay untouched. Raises M2raapError for a language that is not known."""
        result = Rewrite()
        for lang in langs:
            language.check_lang(lang)
            best = best_auxiliary(aux, lang)
            texts = [row for row in raw if row["lang"] == lang]
            for row in texts:
                self._rewrite_one(row, best, result)
            if not texts and best is not None and self.cfg.fill_missing:
                result.new.append(_row(lang, best, None, "no raw text: auxiliary caption"))
        return result

    def _rewrite_one(self, row: Row, best_aux: str | None, result: Rewrite) -> None:
        lang, text, text_id = row["lang"], row["text"], row["text_id"]
        cleaned, steps = clean(text, lang, self.cfg.simplified)
        if cleaned == text:
            return
        if language.num_words(cleaned, lang) < getattr(self.cfg, f"min_words_{lang}"):
            if best_aux is None:
                result.refused.append(
                    {
                        "text_id": text_id,
                        "reason": "nothing_left",
                        "detail": f"after {', '.join(steps)}; no auxiliary caption",
                    }
                )
                return
            result.new.append(
                _row(lang, best_aux, text_id, f"nothing left after {', '.join(steps)}: auxiliary caption")
            )
            result.inactive.append(text_id)
            return
        fidelity = compare(text, cleaned, lang, self.cfg.simplified)
        if not fidelity.kept:
            detail = f"lost: {' '.join(fidelity.lost) or '-'}; invented: {' '.join(fidelity.invented) or '-'}"
            result.refused.append({"text_id": text_id, "reason": "unfaithful", "detail": detail})
            return
        result.new.append(_row(lang, cleaned, text_id, ", ".join(steps)))
        result.inactive.append(text_id)


def _row(lang: str, text: str, parent_text_id: str | None, note: str) -> dict[str, Any]:
    return {"lang": lang, "text": text, "origin": "rewrite", "parent_text_id": parent_text_id, "note": note}


def best_auxiliary(aux: Sequence[Row], lang: str) -> str | None:
    """The auxiliary caption that most key-frames share; the higher score decides ties, then the alphabet."""
    votes: dict[str, list[float]] = defaultdict(list)
    for row in aux:
        if row["lang"] == lang and row["text"]:
            votes[row["text"]].append(row.get("score") or 0.0)
    return min(votes, key=lambda text: (-len(votes[text]), -sum(votes[text]), text)) if votes else None


REWRITERS: dict[str, Callable[[RewriterConfig], Rewriter]] = {"rules": RulesRewriter, "none": NoRewriter}
