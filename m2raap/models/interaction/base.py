"""The base of interactions: how a score starts at the cosine of the first stage.

`...` in a shape is (A, B) for all texts with all clips and (N,) for given pairs (m2raap.models.interaction.pairs).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from m2raap.models.interaction.pairs import Pairs
from m2raap.models.interaction.units import Need


class Interaction(nn.Module):
    """Scores pairs: with start `gate` cosine + gate x (inner - cosine), with start `open` inner alone.

    The gate is learnt and starts at 0, so that a new model's scores equal the first stage's cosine. `needs`: what the
    interaction reads besides the vectors of texts, clips and frames.
    """

    needs: frozenset[Need] = frozenset()

    def __init__(self, start: Literal["gate", "open"]) -> None:
        super().__init__()
        self.start = start
        if start == "gate":
            self.gate = nn.Parameter(torch.zeros(()))

    def inner(self, pairs: Pairs) -> Tensor:
        """The interaction's score (...) without the gate."""
        raise NotImplementedError  # abstract

    def forward(self, pairs: Pairs) -> Tensor:
        """The score (...) of every pair, in the dtype of the units."""
        scores = self.inner(pairs)
        if self.start == "open":
            return scores
        cosine = pairs.cosine()
        return cosine + self.gate * (scores - cosine)

    def gates(self) -> dict[str, float | Tensor]:
        """Learnt scalars, and norms of learnt matrices, by name, for the log."""
        return {
            name.removesuffix(".weight"): p.detach() if p.ndim == 0 else p.detach().norm()
            for name, p in self.named_parameters()
            if p.ndim != 1
        }
