"""The choice of the texts of a step, the clips that have a text, and the queries of a validation.

The choice is a function of (seed, step, clip). B clips, C clips of the source, N texts, L text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.distributed import DistContext
from m2raap.adapt.sources import PairSource, TextColumns
from m2raap.adapt.tokens import Tokenizes, Tokens, TokenStore, tokens_of
from m2raap.core.errors import M2raapError
from m2raap.core.strings import Strings
from m2raap.models.batches import Batches
from m2raap.models.video_clip import VideoCLIP

TEXTS_AT_ONCE = 256
_QUERIES = ("raw", "rewrite", "translation", "aux")  # origins of texts, the best validation queries first


@dataclass
class TextTable:
    """All texts of a source that may be drawn, tokenised once; a row is the number of a text. They are ordered by clip.

    The texts of clip c are the rows first_C1[c] .. first_C1[c + 1]. `lang_N`: index in `names`, the languages by name.
    `odds_N`: of a text among those of its clip and language.
    """

    texts: Strings
    raw_ids: Strings  # as of TextColumns
    first_C1: np.ndarray
    clip_N: np.ndarray
    lang_N: np.ndarray
    odds_N: np.ndarray
    query_N: np.ndarray  # place of the text's origin in _QUERIES
    names: tuple[str, ...]
    tokens: Tokens
    langs: tuple[str, ...]
    lang_odds: dict[str, float]

    @property
    def num_truncated(self) -> int:
        return self.tokens.num_truncated

    def rows_of(self, clip: int) -> dict[str, np.ndarray]:
        """lang -> rows of the clip's texts, the languages by name."""
        start, stop = self.first_C1[clip], self.first_C1[clip + 1]
        langs = self.lang_N[start:stop]
        return {self.names[lang]: start + np.flatnonzero(langs == lang) for lang in np.unique(langs).tolist()}

    def draw(self, clips: np.ndarray, count: int, seed: int, step: int) -> np.ndarray:
        """(count, B) rows: `count` texts for every clip. A language is drawn again only after all languages of the clip."""
        rows = np.empty((count, len(clips)), np.int64)
        for place, clip in enumerate(clips):
            rng = np.random.default_rng([seed, 1, step, int(clip)])
            by_lang = self.rows_of(clip)
            undrawn: list[str] = []
            for turn in range(count):
                if not undrawn:
                    undrawn = list(by_lang)
                odds = np.cumsum([self.lang_odds.get(lang, 1.0) for lang in undrawn])
                candidates = by_lang[undrawn.pop(_pick(odds, rng))]
                rows[turn, place] = candidates[_pick(np.cumsum(self.odds_N[candidates]), rng)]
        return rows

    def queries_of(self, lang: str) -> tuple[np.ndarray, np.ndarray]:
        """The clips (Q,) that have a query in the language, and the rows (Q,) of these queries: one text per clip.

        A raw text is preferred to a rewritten one, and that to a translated one. Captions of single frames are queries only
        where no clip has another text, because ACG reads these captions and would match the query with itself.
        """
        if lang not in self.names:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        is_aux_N = self.query_N == _QUERIES.index("aux")
        may_be = (self.lang_N == self.names.index(lang)) & (is_aux_N.all() | ~is_aux_N)
        rows = np.flatnonzero(may_be)
        rows = rows[np.lexsort((rows, self.query_N[rows], self.clip_N[rows]))]
        clip_Q, first = np.unique(self.clip_N[rows], return_index=True)
        return clip_Q.astype(np.int64), rows[first]

    def owners(self, clips: np.ndarray) -> dict[str, list[int]]:
        """Every text of these clips, with the places in `clips` of the clips that have it."""
        places_of: dict[str, list[int]] = {}
        for place, clip in enumerate(clips):
            for text in dict.fromkeys(self.texts.between(*self.first_C1[clip : clip + 2].tolist())):
                places_of.setdefault(text, []).append(place)
        return places_of


def _pick(cumulative: np.ndarray, rng: np.random.Generator) -> int:
    return min(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")), len(cumulative) - 1)


def text_table(
    source: PairSource,
    tokenizer: Tokenizes,
    langs: tuple[str, ...],
    lang_odds: dict[str, float],
    origin_odds: dict[str, float],
    text_length: int | None = None,
    store: TokenStore | None = None,
    name: str = "texts",
) -> TextTable:
    """The texts of a source in `langs`. Among the texts of a clip in a language each has the odds of its origin.

    Texts of the same clip, language and origin share the odds of that origin. `text_length`: number of tokens to which texts
    are cut; None: the model's own. `store`: keeps the tokens under `name`; None: in memory. Raises M2raapError naming the
    first clip without a text that may be drawn.
    """
    columns = source.text_columns()
    odds_N = _odds(columns, langs, lang_odds, origin_odds)
    rows = np.flatnonzero(odds_N > 0)
    clip_N = columns.clip_N[rows]
    first_C1 = np.searchsorted(clip_N, np.arange(source.num_clips + 1))
    without = np.flatnonzero(first_C1[1:] == first_C1[:-1])
    if len(without):
        raise M2raapError(
            f"clip '{source.clip_ids[int(without[0])]}' has no text in {', '.join(langs)} that adapt.lang_odds and "
            "adapt.origin_odds allow: drop it in a stage before adapt, or change these keys or adapt.langs"
        )
    names = tuple(sorted(columns.langs))
    number_of_lang = np.array([names.index(lang) for lang in columns.langs], np.int8)
    place_of_origin = np.array([_QUERIES.index(origin) for origin in columns.origins], np.int8)
    is_all = len(rows) == len(columns.texts)
    texts, raw_ids = (column if is_all else column.taken(rows) for column in (columns.texts, columns.raw_ids))
    tokens = tokens_of(tokenizer, texts, text_length, store, name)
    lang_N, query_N = number_of_lang[columns.lang_N[rows]], place_of_origin[columns.origin_N[rows]]
    return TextTable(texts, raw_ids, first_C1, clip_N, lang_N, odds_N[rows], query_N, names, tokens, langs, lang_odds)


def _odds(
    columns: TextColumns, langs: tuple[str, ...], lang_odds: dict[str, float], origin_odds: dict[str, float]
) -> np.ndarray:
    """(N,) the odds of each text among those of its clip and language; 0 for a text that may not be drawn."""
    num_langs, num_origins = len(columns.langs), len(columns.origins)
    kind_N = (columns.clip_N.astype(np.int64) * num_langs + columns.lang_N) * num_origins + columns.origin_N
    _, place_N, count = np.unique(kind_N, return_inverse=True, return_counts=True)
    of_origin = np.array([origin_odds.get(origin, 1.0) for origin in columns.origins])
    is_drawn = np.array([lang in langs and lang_odds.get(lang, 1.0) > 0 for lang in columns.langs])
    return np.where(is_drawn[columns.lang_N], of_origin[columns.origin_N] / count[place_N], 0.0)


def encode_texts(model: VideoCLIP, tokens: Tokens, rows: np.ndarray, dist_context: DistContext) -> Tensor:
    """Unit vectors (N, E) of the rows (N,) of `tokens`, in fp32 also under autocast; each process encodes its share of them."""
    device = model.backbone.device
    start, stop = dist_context.slice_of(len(rows))

    def vectors_of(some: list[int]) -> Tensor:
        return model.encode_text(tokens.rows(np.array(some)).to(device)).float()

    features = list(Batches(TEXTS_AT_ONCE, "texts")(vectors_of, rows[start:stop].tolist()))
    share_NE = torch.cat(features) if features else torch.zeros(0, model.backbone.embed_dim, device=device)
    return dist_context.gather_rows(share_NE, len(rows))


def encode_rows(model: VideoCLIP, tokens: Tokens, rows: np.ndarray) -> Tensor:
    """Unit vectors (*rows.shape, E) of these rows of `tokens`, in fp32 also under autocast; 0 for row -1.

    Each distinct row is encoded once.
    """
    device = model.backbone.device
    used = np.unique(rows[rows >= 0])
    if not len(used):
        return torch.zeros(*rows.shape, model.backbone.embed_dim, device=device)
    known_NE = model.encode_text(tokens.rows(used).to(device)).float()
    place = torch.from_numpy(np.searchsorted(used, np.maximum(rows, used[0]))).to(device)
    return known_NE[place] * torch.from_numpy(rows >= 0).to(device)[..., None]
