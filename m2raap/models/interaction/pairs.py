"""Texts and clips brought together: all with all, or the i-th text with the i-th clip, by the same formulas.

`...` in a shape is (A, B) for all with all and (N,) for given pairs. A texts, B clips, N pairs, X parts of a text, Y parts of
a clip, E size of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from m2raap.models.interaction.units import ClipUnits, TextUnits


@dataclass(frozen=True)
class Pairs:
    """`crossed`: every text with every clip, so that scores are (A, B); else as many texts as clips, and scores are (N,)."""

    texts: TextUnits
    clips: ClipUnits
    crossed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the scores."""
        num_texts, num_clips = len(self.texts.pooled_AE), len(self.clips.pooled_BE)
        return (num_texts, num_clips) if self.crossed else (num_texts,)

    def inner(self, text_AXE: Tensor, clip_BYE: Tensor) -> Tensor:
        """Inner products (..., X, Y) of the parts of each text with the parts of each clip."""
        return torch.einsum("axe,bye->abxy" if self.crossed else "axe,aye->axy", text_AXE, clip_BYE)

    def cosine(self) -> Tensor:
        """The first stage's score (...): the cosine of the text's vector with the clip's."""
        return self.inner(self.texts.pooled_AE[:, None], self.clips.pooled_BE[:, None])[..., 0, 0]

    def with_text(self, clip_BYE: Tensor) -> Tensor:
        """Inner products (..., Y) of the text's one vector with the parts of each clip."""
        return self.inner(self.texts.pooled_AE[:, None], clip_BYE)[..., 0, :]

    def of_texts(self, value_AX: Tensor) -> Tensor:
        """What belongs to texts, in a shape that broadcasts to (..., X)."""
        return value_AX[:, None] if self.crossed else value_AX

    def of_clips(self, value_BY: Tensor) -> Tensor:
        """What belongs to clips, in a shape that broadcasts to (..., Y)."""
        return value_BY[None] if self.crossed else value_BY
