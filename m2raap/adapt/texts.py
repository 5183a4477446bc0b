"""The choice of the texts of a step, the clips that have a text, and the queries of a validation.

The choice is a function of (seed, step, clip). B clips, N texts, L text tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.batches import PairSource
from m2raap.core.errors import M2raapError
from m2raap.models.video_clip import VideoCLIP

_QUERIES = ("raw", "rewrite", "translation", "aux")  # origins of texts, the best validation queries first


@dataclass
class TextTable:
    """All texts of a source that may be drawn, tokenised once; a row is the number of a text."""

    texts: list[str]
    origins: list[str]
    tokens_NL: Tensor
    rows_of: list[dict[str, tuple[list[int], np.ndarray]]]  # clip -> lang -> rows, cumulative odds
    langs: tuple[str, ...]
    lang_odds: dict[str, float]
    num_truncated: int

    def draw(self, clips: np.ndarray, count: int, seed: int, step: int) -> np.ndarray:
        """(count, B) rows: `count` texts for every clip. A language is drawn again only after all languages of the clip."""
        rows = np.empty((count, len(clips)), np.int64)
        for place, clip in enumerate(clips):
            rng = np.random.default_rng([seed, 1, step, int(clip)])
            by_lang = self.rows_of[clip]
            undrawn: list[str] = []
            for turn in range(count):
                if not undrawn:
                    undrawn = list(by_lang)
                odds = np.cumsum([self.lang_odds.get(lang, 1.0) for lang in undrawn])
                lang = undrawn.pop(_pick(odds, rng))
                candidates, cumulative = by_lang[lang]
                rows[turn, place] = candidates[_pick(cumulative, rng)]
        return rows

    def queries_of(self, lang: str) -> tuple[np.ndarray, np.ndarray]:
        """The clips (Q,) that have a query in the language, and the rows (Q,) of these queries: one text per clip.

        A raw text is preferred to a rewritten one, and that to a translated one. Captions of single frames are queries only
        where no clip has another text, because ACG reads these captions and would match the query with itself.
        """
        has_own_texts = any(origin != "aux" for origin in self.origins)
        pairs = []
        for clip, by_lang in enumerate(self.rows_of):
            rows = by_lang[lang][0] if lang in by_lang else []
            query_rows = [row for row in rows if not has_own_texts or self.origins[row] != "aux"]
            if query_rows:
                pairs.append((clip, min(query_rows, key=lambda row: _QUERIES.index(self.origins[row]))))
        return np.array([clip for clip, _ in pairs], np.int64), np.array([row for _, row in pairs], np.int64)

    def owners(self, clips: np.ndarray) -> dict[str, list[int]]:
        """Every text of these clips, with the places in `clips` of the clips that have it."""
        places_of: dict[str, list[int]] = {}
        for place, clip in enumerate(clips):
            for text in {self.texts[row] for rows, _ in self.rows_of[clip].values() for row in rows}:
                places_of.setdefault(text, []).append(place)
        return places_of


def _pick(cumulative: np.ndarray, rng: np.random.Generator) -> int:
    return min(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")), len(cumulative) - 1)


class Tokenizes(Protocol):
    @property
    def can_shorten(self) -> bool: ...
    def tokenize(self, texts: Sequence[str], text_length: int | None = None) -> Tensor: ...
    def count_truncated(self, texts: Sequence[str], text_length: int | None = None) -> int: ...


def text_table(
    source: PairSource,
    tokenizer: Tokenizes,
    langs: tuple[str, ...],
    lang_odds: dict[str, float],
    origin_odds: dict[str, float],
    text_length: int | None = None,
) -> TextTable:
    """The texts of a source in `langs`. Among the texts of a clip in a language each has the odds of its origin.

    Texts of the same clip, language and origin share the odds of that origin. `text_length`: number of tokens to which texts
    are cut; None: the model's own. Raises M2raapError naming the first clip without a text that may be drawn.
    """
    texts: list[str] = []
    origins: list[str] = []
    rows_of: list[dict[str, tuple[list[int], np.ndarray]]] = []
    for clip, clip_id in enumerate(source.clip_ids):
        candidates: dict[str, list[tuple[int, float]]] = {}
        clip_texts = source.texts(clip)
        counts = Counter((lang, origin) for lang, _, origin in clip_texts)
        for lang, text, origin in clip_texts:
            odds = origin_odds.get(origin, 1.0) / counts[lang, origin]
            if lang in langs and lang_odds.get(lang, 1.0) > 0 and odds > 0:
                candidates.setdefault(lang, []).append((len(texts), odds))
                texts.append(text)
                origins.append(origin)
        if not candidates:
            raise M2raapError(
                f"clip '{clip_id}' has no text in {', '.join(langs)} that adapt.lang_odds and adapt.origin_odds allow: drop it "
                "in a stage before adapt, or change these keys or adapt.langs"
            )
        rows_of.append(
            {
                lang: ([row for row, _ in rows], np.cumsum([odds for _, odds in rows]))
                for lang, rows in sorted(candidates.items())
            }
        )
    truncated = sum(tokenizer.count_truncated(chunk, text_length) for chunk in _chunks(texts))
    tokens_NL = tokenised(tokenizer, texts, text_length)
    return TextTable(texts, origins, tokens_NL, rows_of, langs, lang_odds, truncated)


def tokenised(tokenizer: Tokenizes, texts: Sequence[str], text_length: int | None = None) -> Tensor:
    """Token ids (N, L). All texts of a source have the same length L, so that a vector never depends on its batch."""
    tokens = torch.cat([tokenizer.tokenize(chunk, text_length) for chunk in _chunks(texts)])
    return tokens[:, : int(tokens.argmax(1).max()) + 1] if tokenizer.can_shorten else tokens


def encode_rows(model: VideoCLIP, tokens_NL: Tensor, rows: np.ndarray) -> Tensor:
    """Unit vectors (*rows.shape, E) of these rows of `tokens_NL`, in fp32 also under autocast; 0 for row -1.

    Each distinct row is encoded once.
    """
    device = model.backbone.device
    used = np.unique(rows[rows >= 0])
    if not len(used):
        return torch.zeros(*rows.shape, model.backbone.embed_dim, device=device)
    known_NE = model.encode_text(tokens_NL[torch.from_numpy(used)].to(device)).float()
    place = torch.from_numpy(np.searchsorted(used, np.maximum(rows, used[0]))).to(device)
    return known_NE[place] * torch.from_numpy(rows >= 0).to(device)[..., None]


def _chunks(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + 4096] for start in range(0, len(texts), 4096)]
