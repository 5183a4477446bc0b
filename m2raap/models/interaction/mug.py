"""Mug, mutual-guided matching of a text's tokens and a clip's frames.

Liu et al., arXiv 2311.15075; code farewellthree/STAN @ c9dc7b6, mmaction/models/heads/mug_head.py (`full` is its
`mug_frame_token`, `simple` its default `mug_frame_token_simple`; both have no weights and an inverse temperature of 100).
Different from the code: every softmax over tokens is masked by a boolean, so that padding never takes part (there the full
form lets it leak, and a true similarity of 0 counts as padding).
L tokens, T frames; `...` is (A, B) for all texts with all clips and (N,) for given pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from m2raap.core.extension import is_extension, load
from m2raap.models.config import MugConfig
from m2raap.models.interaction.base import Interaction
from m2raap.models.interaction.pairs import Pairs
from m2raap.models.outside import expect_floats

# From similarities (..., L, T) and masks that broadcast to (..., L) and (..., T) to scores (...).
Matching = Callable[[Tensor, Tensor, Tensor], Tensor]


class Mug(Interaction):
    """Mug's score of a text's tokens with a clip's frames."""

    needs = frozenset({"tokens"})

    def __init__(self, cfg: MugConfig, embed_dim: int, key: str) -> None:
        super().__init__(cfg.start)
        self.match = matching(cfg.form, cfg.inverse_temperature, f"{key}.form")

    def inner(self, pairs: Pairs) -> Tensor:
        texts, clips = pairs.texts, pairs.clips
        assert texts.tokens_ALE is not None and texts.token_mask_AL is not None
        similar_LT = pairs.inner(texts.tokens_ALE, clips.frames_BTE)
        return self.match(similar_LT, pairs.of_texts(texts.token_mask_AL), pairs.of_clips(clips.mask_BT))


def matching(form: str, inverse_temperature: float, key: str) -> Matching:
    """Mug in one of its forms, or a function from outside of the package, whose scores are then checked.

    `key`: the setting that names the form. Raises UsageError as extension.load.
    """
    if is_extension(form):
        outside = load(form, key)
        return lambda similar_LT, token_mask_L, frame_mask_T: expect_floats(
            outside(similar_LT, token_mask_L, frame_mask_T), similar_LT.shape[:-2], form, key
        )
    return lambda similar_LT, token_mask_L, frame_mask_T: mug(
        similar_LT, token_mask_L, frame_mask_T, form == "full", inverse_temperature
    )


def mug(
    similar_LT: Tensor, token_mask_L: Tensor, frame_mask_T: Tensor, full: bool, inverse_temperature: float
) -> Tensor:
    """Mug's scores (...) from similarities (..., L, T) and masks that broadcast to (..., L) and (..., T).

    `full`: the published form; else the efficient one, which is the default of the code.
    """
    no_token, no_frame = ~token_mask_L[..., :, None], ~frame_mask_T[..., None, :]
    masked = float("-inf")
    # One masked copy for both softmaxes. It is finite, because all frames of a padding token are masked; their weights, which
    # are even, are masked below.
    sharp_LT = (inverse_temperature * similar_LT).masked_fill(no_token | no_frame, torch.finfo(similar_LT.dtype).min)
    # p_l = <sum_i a_li v_i, t_l> is sum_i a_li S_li: the guided vectors themselves are never needed.
    of_token_L = (sharp_LT.softmax(-1) * similar_LT).sum(-1)
    of_frame_T = (sharp_LT.softmax(-2) * similar_LT).sum(-2)
    weight_L = (inverse_temperature * of_token_L).masked_fill(no_token[..., 0], masked).softmax(-1)
    weight_T = (inverse_temperature * of_frame_T).masked_fill(no_frame[..., 0, :], masked).softmax(-1)
    if full:  # <T*, V*> with T* = sum_l w_l t_l and V* = sum_i u_i v_i
        return (weight_L[..., :, None] * similar_LT * weight_T[..., None, :]).sum((-2, -1))
    return ((weight_L * of_token_L).sum(-1) + (weight_T * of_frame_T).sum(-1)) / 2
