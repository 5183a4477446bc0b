"""The events of the training texts as texts of their own: what the losses on the order of events encode beside the captions.

N texts, M distinct texts of events, B clips, K texts per clip, L text tokens, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.clauses import clauses, swapped
from m2raap.adapt.texts import encode_rows
from m2raap.adapt.tokens import Tokenizes, Tokens, TokenStore, tokens_of
from m2raap.core.strings import Strings
from m2raap.models.video_clip import VideoCLIP

FIRST, SECOND, SWAPPED = 0, 1, 2


@dataclass(frozen=True)
class OrderTexts:
    """Every distinct clause and every caption with its events exchanged, tokenised once.

    `rows_N3`: of each text the rows of its first clause, its second clause and the exchanged caption; -1 where it has none.
    """

    texts: list[str]
    tokens: Tokens
    rows_N3: np.ndarray

    def encode(self, model: VideoCLIP, rows_BK: np.ndarray, features_ME: Tensor | None = None) -> Tensor:
        """Unit vectors (*rows_BK.shape, E) of these rows, 0 for row -1. `features_ME`: of all rows, where they never change."""
        if features_ME is None:
            return encode_rows(model, self.tokens, rows_BK)
        vectors = features_ME[torch.from_numpy(np.maximum(rows_BK, 0)).to(features_ME.device)]
        return vectors * torch.from_numpy(rows_BK >= 0).to(vectors.device)[..., None]

    @property
    def num_split(self) -> int:
        """Number of texts that have two clauses."""
        return int((self.rows_N3[:, FIRST] >= 0).sum())


def order_texts(
    texts: Iterable[str], tokenizer: Tokenizes, text_length: int | None = None, store: TokenStore | None = None
) -> OrderTexts:
    """The events of these texts, cut to `text_length` tokens (None: the model's own). `store` keeps the tokens; None: in memory.

    A text whose two events are in the same words has none: no order can be told by them.
    """
    numbers: dict[str, int] = {}
    rows: list[list[int]] = []
    for text in texts:
        events = clauses(text)
        if events is None or events[0].lower() == events[1].lower():
            rows.append([-1, -1, -1])
            continue
        parts = [*events, *([other] if (other := swapped(text)) is not None else [])]
        places = [numbers.setdefault(part, len(numbers)) for part in parts]
        rows.append(places + [-1] * (3 - len(places)))
    distinct = list(numbers)
    rows_N3 = np.array(rows, np.int64).reshape(-1, 3)
    return OrderTexts(distinct, tokens_of(tokenizer, Strings.of(distinct), text_length, store, "train-events"), rows_N3)
