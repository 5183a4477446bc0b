"""Contrastive objectives over a batch of pairs. B pairs, E size of the common space.

Twins (B, B), bool: True where text j belongs to clip i. The diagonal is True; others are True where clips share a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.core.extension import is_extension, load
from m2raap.models.outside import expect_floats


def owned_mask(texts: Sequence[str], owners: Mapping[str, Sequence[int]]) -> Tensor:
    """Twins (B, B): whether clip i has the text of pair j, even where another text was drawn for clip i.

    `owners`: of every text the places in the batch of the clips that have it.
    """
    mask = torch.eye(len(texts), dtype=torch.bool)
    for column, text in enumerate(texts):
        mask[list(owners[text]), column] = True
    return mask


def cosine_logits(video_BE: Tensor, text_BE: Tensor, scale: Tensor | float) -> Tensor:
    """scale x cosine (B, B) of unit vectors, videos in rows; fp32 also where the towers run in less."""
    # In bf16 a logit at scale 100 would be off by a third.
    with torch.autocast(video_BE.device.type, enabled=False):
        return scale * (video_BE.float() @ text_BE.float().T)


def info_nce(logits_BB: Tensor, twins_BB: Tensor) -> Tensor:
    """Symmetric InfoNCE of every pair (B,), the mean of both directions (CLIP4Clip's; STAN's code sums them).

    Twins off the diagonal are left out of the denominator: they are neither negatives nor targets.
    """
    off_diagonal = twins_BB & ~torch.eye(len(twins_BB), dtype=torch.bool, device=twins_BB.device)
    logits_BB = logits_BB.masked_fill(off_diagonal, float("-inf"))
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    rows, columns = (F.cross_entropy(logits, target_B, reduction="none") for logits in (logits_BB, logits_BB.T))
    return (rows + columns) / 2


def info_nce_multi(logits_BB: Tensor, twins_BB: Tensor) -> Tensor:
    """As `info_nce`, but twins are targets too: the mean log-probability over them (SupCon's outer sum, eq. 2)."""

    def one_way(logits: Tensor, twins: Tensor) -> Tensor:
        return -(twins.float() / twins.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)

    rows, columns = one_way(logits_BB, twins_BB), one_way(logits_BB.T, twins_BB.T)
    return (rows + columns) / 2


def direction_contrast(video_BE: Tensor, reversed_BE: Tensor, text_BE: Tensor, scale: Tensor | float) -> Tensor:
    """-log softmax of every pair (B,): the clip against itself with its frames in reversed order.

    Ours. It teaches the direction of motion, which alone tells a clip from its reversal: for the order of two events see
    `m2raap.models.order_losses`. A clip that looks the same backwards costs log 2 and teaches nothing.
    """
    gap_B = ((reversed_BE.float() - video_BE.float()) * text_BE.float()).sum(-1)
    return F.softplus(scale * gap_B)


def sigmoid(logits_BB: Tensor, twins_BB: Tensor) -> Tensor:
    """SigLIP's loss (arXiv 2303.15343, algorithm 1): a binary loss for every pair, match or not. The logits include the bias.

    The sum over the pairs of every row (B,). Twins off the diagonal are left out.
    """
    diagonal = torch.eye(len(twins_BB), dtype=torch.bool, device=twins_BB.device)
    signed_BB = torch.where(diagonal, logits_BB, -logits_BB)
    cost_BB = -F.logsigmoid(signed_BB)
    return cost_BB.masked_fill(twins_BB & ~diagonal, 0.0).sum(1)


def start_bias(logits_BB: Tensor) -> Tensor:
    """The bias, a scalar, at which about one wrong pair per row is classified as a match.

    It is minus the mean logit of wrong pairs, minus log(B - 1). For logits near 0 and a batch of 32k that is SigLIP's -10;
    the cosines of a CLIP lie far from 0.
    """
    wrong = ~torch.eye(len(logits_BB), dtype=torch.bool, device=logits_BB.device)
    return -logits_BB.detach()[wrong].mean() - math.log(len(logits_BB) - 1)


# Each takes logits (B, B), with the pairs on the diagonal, and twins (B, B), and returns a loss for every row (B,).
OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "info_nce": info_nce,
    "info_nce_multi": info_nce_multi,
    "sigmoid": sigmoid,
}
BIASED = frozenset({"sigmoid"})  # objectives whose logits have a learnt bias


def objective_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The objective that `adapt.objective` names. Raises M2raapError for an unknown name, UsageError as extension.load."""
    if is_extension(name):
        outside = load(name, "adapt.objective")
        return lambda logits_BB, twins_BB: expect_floats(
            outside(logits_BB, twins_BB), (len(logits_BB),), name, "adapt.objective"
        )
    if name not in OBJECTIVES:
        raise M2raapError(f"adapt.objective '{name}' is unknown; known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
