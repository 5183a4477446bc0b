"""Fine-grained similarity of the parts of a text (tokens or phrases) with those of a clip (frames or patches).

Wang and Karout (BMVC 2021, arXiv 2112.12182) compare embeddings of feature maps and phrases, weighted by attention; their
formula was not available to us, so that `fg` and `fg2` are our reading. `milnce` is the numerator of MIL-NCE
(antoine77340/MIL-NCE_HowTo100M, loss.py), `filip` FILIP's (arXiv 2111.07783). With S the X x Y similarities of a pair:

    fg      sum of softmax(S / tau) S over all X Y at once
    fg2     s_x = sum_y softmax_y(S / tau) S, then sum_x softmax_x(s / tau) s_x
    milnce  tau (logsumexp of S / tau over all X Y - log(X Y))
    filip   (mean_x max_y S + mean_y max_x S) / 2

All but filip become the mean of S as tau goes to infinity.
X parts of a text, Y parts of a clip; `...` is (A, B) for all texts with all clips and (N,) for given pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from m2raap.models.config import FineConfig
from m2raap.models.interaction.base import Interaction
from m2raap.models.interaction.pairs import Pairs

FineForm = Literal["fg", "fg2", "milnce", "filip"]


class Fine(Interaction):
    """The fine-grained score; it has no weights of its own besides the gate."""

    def __init__(self, cfg: FineConfig, embed_dim: int, key: str) -> None:
        super().__init__(cfg.start)
        self.cfg = cfg
        self.needs = frozenset({cfg.text_units, *(("patches",) if cfg.clip_units == "patches" else ())})

    def inner(self, pairs: Pairs) -> Tensor:
        texts, clips = pairs.texts, pairs.clips
        if self.cfg.text_units == "phrases":
            text_AXE, text_mask_AX = texts.phrases_AXE, texts.phrase_mask_AX
        else:
            text_AXE, text_mask_AX = texts.tokens_ALE, texts.token_mask_AL
        assert text_AXE is not None and text_mask_AX is not None
        clip_BYE, clip_mask_BY = clips.frames_BTE, clips.mask_BT
        if self.cfg.clip_units == "patches":
            assert clips.patches_BTPE is not None
            clip_BYE = clips.patches_BTPE.flatten(1, 2)
            clip_mask_BY = clips.mask_BT.repeat_interleave(clips.patches_BTPE.shape[2], 1)
        mask_XY = pairs.of_texts(text_mask_AX)[..., :, None] & pairs.of_clips(clip_mask_BY)[..., None, :]
        return fine(pairs.inner(text_AXE, clip_BYE), mask_XY, self.cfg.form, self.cfg.tau_a)


def fine(similar_XY: Tensor, mask_XY: Tensor, form: FineForm, tau: float) -> Tensor:
    """Scores (...) from similarities (..., X, Y) and a mask that broadcasts to them, True where both parts are no padding.

    Every pair has at least one part of each kind.
    """
    masked = float("-inf")
    mask_X, mask_Y = mask_XY.any(-1), mask_XY.any(-2)
    if form == "filip":
        # The rows and columns of padding hold -inf alone, and do not enter the means.
        best_X = similar_XY.masked_fill(~mask_XY, masked).amax(-1).masked_fill(~mask_X, 0.0)
        best_Y = similar_XY.masked_fill(~mask_XY, masked).amax(-2).masked_fill(~mask_Y, 0.0)
        return (best_X.sum(-1) / mask_X.sum(-1) + best_Y.sum(-1) / mask_Y.sum(-1)) / 2
    sharp_XY = (similar_XY / tau).masked_fill(~mask_XY, masked)
    if form == "milnce":
        return tau * (sharp_XY.flatten(-2).logsumexp(-1) - mask_XY.sum((-2, -1)).to(similar_XY.dtype).log())
    if form == "fg":
        return (sharp_XY.flatten(-2).softmax(-1) * similar_XY.flatten(-2)).sum(-1)
    # A row of padding would be a softmax over -inf alone, which has no gradient: it is computed, and then left out.
    clip_mask_XY = mask_Y[..., None, :].expand_as(mask_XY)
    of_part_X = ((similar_XY / tau).masked_fill(~clip_mask_XY, masked).softmax(-1) * similar_XY).sum(-1)
    weight_X = (of_part_X / tau).masked_fill(~mask_X, masked).softmax(-1)
    return (weight_X * of_part_X).sum(-1)


def phrase_vectors(tokens_ALE: Tensor, spans_AX2: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of phrases (A, X, E), the means of their tokens, and a mask (A, X), False where a span is empty.

    spans_AX2: first token and one behind the last, as `phrases.token_spans` gives them.
    """
    place_L = torch.arange(tokens_ALE.shape[1], device=tokens_ALE.device)
    inside_AXL = (place_L >= spans_AX2[..., :1]) & (place_L < spans_AX2[..., 1:])
    sums_AXE = inside_AXL.to(tokens_ALE.dtype) @ tokens_ALE
    return torch.nn.functional.normalize(sums_AXE, dim=-1), inside_AXL.any(-1)
