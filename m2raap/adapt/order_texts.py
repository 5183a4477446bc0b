"""The events of the training texts as texts of their own: what the losses on the order of events encode beside the captions.

N texts, M distinct texts of events, B clips, K texts per clip, L text tokens, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.clauses import clauses, swapped
from m2raap.adapt.texts import Tokenizes, encode_rows, tokenised
from m2raap.models.video_clip import VideoCLIP

FIRST, SECOND, SWAPPED = 0, 1, 2


@dataclass(frozen=True)
class OrderTexts:
    """Every distinct clause and every caption with its events exchanged, tokenised once.

    `rows_N3`: of each text the rows of its first clause, its second clause and the exchanged caption; -1 where it has none.
    """

    texts: list[str]
    tokens_ML: Tensor
    rows_N3: np.ndarray

    def encode(self, model: VideoCLIP, rows_BK: np.ndarray, features_ME: Tensor | None = None) -> Tensor:
        """Unit vectors (*rows_BK.shape, E) of these rows, 0 for row -1. `features_ME`: of all rows, where they never change."""
        if features_ME is None:
            return encode_rows(model, self.tokens_ML, rows_BK)
        vectors = features_ME[torch.from_numpy(np.maximum(rows_BK, 0)).to(features_ME.device)]
        return vectors * torch.from_numpy(rows_BK >= 0).to(vectors.device)[..., None]

    @property
    def num_split(self) -> int:
        """Number of texts that have two clauses."""
        return int((self.rows_N3[:, FIRST] >= 0).sum())


def order_texts(texts: Sequence[str], tokenizer: Tokenizes, text_length: int | None = None) -> OrderTexts:
    """The events of these texts, cut to `text_length` tokens (None: the model's own).

    A text whose two events are in the same words has none: no order can be told by them.
    """
    numbers: dict[str, int] = {}
    rows_N3 = np.full((len(texts), 3), -1, np.int64)
    for row, text in enumerate(texts):
        events = clauses(text)
        if events is None or events[0].lower() == events[1].lower():
            continue
        parts = [*events, *([other] if (other := swapped(text)) is not None else [])]
        rows_N3[row, : len(parts)] = [numbers.setdefault(part, len(numbers)) for part in parts]
    distinct = list(numbers)
    tokens_ML = tokenised(tokenizer, distinct, text_length) if distinct else torch.zeros(0, 1, dtype=torch.int64)
    return OrderTexts(distinct, tokens_ML, rows_N3)
