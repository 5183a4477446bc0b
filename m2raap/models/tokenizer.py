"""Texts to token ids, without the text tower: small enough to be sent to the processes that tokenise a corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from m2raap.core.errors import M2raapError


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a text tower.

    `encode`: token ids (B, size) of texts, for any size. `num_ids`: number of ids that the tower knows, None where that is not
    known. `can_shorten`: whether texts have the same vectors without the padding behind their end token.
    """

    encode: Callable[[Sequence[str], int], Tensor]
    context_length: int
    pad_id: int
    num_ids: int | None
    can_shorten: bool

    def tokenize(self, texts: Sequence[str], text_length: int | None = None) -> Tensor:
        """Token ids (B, L), L = context_length. A text that is too long is cut and keeps its end token.

        `text_length`: how many tokens a text is cut to, with start and end token; the rest is padding. None: context_length.
        Raises M2raapError where the tokenizer gives ids that the text tower does not know.
        """
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        return self._filled(self.encode(texts, text_length or self.context_length))

    def tokenize_counted(self, texts: Sequence[str], text_length: int | None = None) -> tuple[Tensor, int]:
        """As `tokenize`, and how many of the texts were cut."""
        if not texts:
            return self.tokenize(texts), 0
        length = text_length or self.context_length
        longer = self.encode(texts, length + 1)
        # A text that is cut has something other than padding in its last two places. Only these texts are tokenised again.
        maybe_cut = (longer[:, length - 1 :] != self.pad_id).any(1).nonzero()[:, 0]
        tokens_BL = longer[:, :length].clone()
        num_cut = 0
        if len(maybe_cut):
            cut = self.encode([str(texts[place]) for place in maybe_cut.tolist()], length)
            tokens_BL[maybe_cut] = cut
            num_cut = int(((longer[maybe_cut] != self.pad_id).sum(1) > (cut != self.pad_id).sum(1)).sum())
        return self._filled(tokens_BL), num_cut

    def _filled(self, tokens_BL: Tensor) -> Tensor:
        if self.num_ids is not None and not 0 <= int(tokens_BL.min()) <= int(tokens_BL.max()) < self.num_ids:
            raise M2raapError(
                f"the tokenizer gives the token id {int(tokens_BL.max())}, but the text tower of this model knows {self.num_ids} "
                "tokens: its files are of two models; take another model"
            )
        return F.pad(tokens_BL, (0, self.context_length - tokens_BL.shape[1]), value=self.pad_id)
