"""Mug, mutual-guided matching of a text's tokens and a clip's frames: late interaction without weights of its own.

Liu et al., arXiv 2311.15075; code farewellthree/STAN @ c9dc7b6, mmaction/models/heads/mug_head.py (`full` is its
`mug_frame_token`, `simple` its default `mug_frame_token_simple`). Different from the code: every softmax over tokens
is masked by a boolean, so that padding never takes part (there the full form lets it leak, and a true similarity of 0
counts as padding). A texts, B clips, L tokens, T frames, E size of the common space.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from m2raap.core.extension import is_extension, load
from m2raap.models.outside import expect_floats

MugForm = Literal["simple", "full"] | str  # or the name of an extension
TAU = 100.0  # inverse temperature, fixed in the code


def mug_scores(
    tokens_ALE: Tensor,
    token_mask_AL: Tensor,
    frames_BTE: Tensor,
    frame_mask_BT: Tensor,
    form: MugForm = "simple",
    block_bytes: int = 256 * 1024**2,
) -> Tensor:
    """Scores (A, B) of every text with every clip. Tokens and frames are unit vectors; masks are True where they count.

    Texts are taken in blocks, so that the (A, B, L, T) similarities never exceed about `block_bytes` in fp32; with
    gradients a block is computed again on the way back.
    """
    assert bool(token_mask_AL.any(1).all()) and bool(frame_mask_BT.any(1).all()), (
        "a text without tokens, or a clip without frames"
    )
    # About four such tensors exist at once.
    bytes_per_text = 4 * 4 * frames_BTE.shape[0] * frames_BTE.shape[1] * tokens_ALE.shape[1]
    rows = max(1, block_bytes // bytes_per_text)
    score_blocks = []
    for start in range(0, len(tokens_ALE), rows):
        block = (tokens_ALE[start : start + rows], token_mask_AL[start : start + rows], frames_BTE, frame_mask_BT)
        if torch.is_grad_enabled() and len(tokens_ALE) > rows:
            score_blocks.append(checkpoint(_block, *block, form, use_reentrant=False))
        else:
            score_blocks.append(_block(*block, form))
    return torch.cat(score_blocks)  # type: ignore[arg-type]  # checkpoint() has no return type


def mug_pairs(
    tokens_NLE: Tensor, token_mask_NL: Tensor, frames_NTE: Tensor, frame_mask_NT: Tensor, form: MugForm = "simple"
) -> Tensor:
    """Scores (N,) of N given pairs: for reranking candidates."""
    similar_NLT = torch.einsum("nle,nte->nlt", tokens_NLE.float(), frames_NTE.float())
    return _score(similar_NLT, token_mask_NL, frame_mask_NT, form)


def _block(
    tokens_ALE: Tensor, token_mask_AL: Tensor, frames_BTE: Tensor, frame_mask_BT: Tensor, form: MugForm
) -> Tensor:
    # fp32 also where the towers run in less, because the softmaxes are at scale 100.
    with torch.autocast(tokens_ALE.device.type, enabled=False):
        similar_ABLT = torch.einsum("ale,bte->ablt", tokens_ALE.float(), frames_BTE.float())
        return _score(similar_ABLT, token_mask_AL[:, None], frame_mask_BT[None], form)


def _score(similar_LT: Tensor, token_mask_L: Tensor, frame_mask_T: Tensor, form: MugForm) -> Tensor:
    """(..., L, T) similarities, masks that broadcast to (..., L) and (..., T) -> (...)."""
    if is_extension(form):
        scores = load(form, "adapt.mug_form")(similar_LT, token_mask_L, frame_mask_T)
        return expect_floats(scores, similar_LT.shape[:-2], form, "adapt.mug_form")
    no_token, no_frame = ~token_mask_L[..., :, None], ~frame_mask_T[..., None, :]
    masked = float("-inf")
    # p_l = <sum_i a_li v_i, t_l> is sum_i a_li S_li: the guided vectors themselves are never needed.
    of_token_L = ((TAU * similar_LT).masked_fill(no_frame, masked).softmax(-1) * similar_LT).sum(-1)
    of_frame_T = ((TAU * similar_LT).masked_fill(no_token, masked).softmax(-2) * similar_LT).sum(-2)
    weight_L = (TAU * of_token_L).masked_fill(no_token[..., 0], masked).softmax(-1)
    weight_T = (TAU * of_frame_T).masked_fill(no_frame[..., 0, :], masked).softmax(-1)
    if form == "full":  # <T*, V*> with T* = sum_l w_l t_l and V* = sum_i u_i v_i
        return (weight_L[..., :, None] * similar_LT * weight_T[..., None, :]).sum((-2, -1))
    return ((weight_L * of_token_L).sum(-1) + (weight_T * of_frame_T).sum(-1)) / 2
