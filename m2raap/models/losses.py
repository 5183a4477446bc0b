"""Contrastive objectives over a batch of pairs. B pairs, E size of the common space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def owned_mask(texts: Sequence[str], owners: Mapping[str, Sequence[int]]) -> Tensor:
    """(B, B) bool: clip i owns the text of pair j, whichever of its texts was drawn for itself. The diagonal is True."""
    mask = torch.eye(len(texts), dtype=torch.bool)
    for column, text in enumerate(texts):
        mask[list(owners[text]), column] = True
    return mask


def cosine_logits(video_BE: Tensor, text_BE: Tensor, scale: Tensor | float) -> Tensor:
    """scale x cosine (B, B) of unit vectors, videos in rows; fp32 whatever the towers ran in."""
    # At scale 100 a bf16 cosine is off by a third of a unit.
    with torch.autocast(video_BE.device.type, enabled=False):
        return scale * (video_BE.float() @ text_BE.float().T)


def info_nce(logits_BB: Tensor, twins_BB: Tensor) -> Tensor:
    """Symmetric InfoNCE, the mean of both directions (CLIP4Clip's; STAN's code sums them).

    Twins off the diagonal are left out of the denominator: they are no negatives, and no targets either.
    """
    off_diagonal = twins_BB & ~torch.eye(len(twins_BB), dtype=torch.bool, device=twins_BB.device)
    logits_BB = logits_BB.masked_fill(off_diagonal, float("-inf"))
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits_BB, target_B) + cross_entropy(logits_BB.T, target_B)) / 2


def info_nce_multi(logits_BB: Tensor, twins_BB: Tensor) -> Tensor:
    """As `info_nce`, but twins are targets too: the mean log-probability over them (SupCon's outer sum, eq. 2)."""

    def one_way(logits: Tensor, twins: Tensor) -> Tensor:
        return -(twins.float() / twins.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()

    rows, columns = one_way(logits_BB, twins_BB), one_way(logits_BB.T, twins_BB.T)
    return (rows + columns) / 2


def order_contrast(video_BE: Tensor, reversed_BE: Tensor, text_BE: Tensor, scale: Tensor | float) -> Tensor:
    """Mean over the pairs of -log softmax: the clip against itself with its frames in reversed order.

    Time-reversed clips as negatives are Bagad et al.'s (Test of Time, CVPR 2023, section 4); as a term of its own, not in
    the denominator of InfoNCE, is ours. A clip that looks the same backwards costs log 2 and teaches nothing.
    """
    gap_B = ((reversed_BE.float() - video_BE.float()) * text_BE.float()).sum(-1)
    return torch.nn.functional.softplus(scale * gap_B).mean()


def sigmoid(logits_BB: Tensor, twins_BB: Tensor) -> Tensor:
    """SigLIP's loss (arXiv 2303.15343, algorithm 1): every pair is a question of its own, right or wrong. Logits with bias.

    The sum over all pairs, by the number of rows. Twins off the diagonal are neither: they are left out.
    """
    diagonal = torch.eye(len(twins_BB), dtype=torch.bool, device=twins_BB.device)
    signed_BB = torch.where(diagonal, logits_BB, -logits_BB)
    cost_BB = -torch.nn.functional.logsigmoid(signed_BB)
    return cost_BB.masked_fill(twins_BB & ~diagonal, 0.0).sum() / len(logits_BB)


def start_bias(logits_BB: Tensor) -> Tensor:
    """The bias at which a wrong pair is called right about once a row: minus their mean logit, minus log(B - 1).

    With logits near 0 that is SigLIP's -10 at its batch of 32k; a CLIP's own cosines lie far from 0.
    """
    wrong = ~torch.eye(len(logits_BB), dtype=torch.bool, device=logits_BB.device)
    return -logits_BB.detach()[wrong].mean() - math.log(len(logits_BB) - 1)


# Logits (B, B) with the pairs on the diagonal, and which others are no negatives.
OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "info_nce": info_nce,
    "info_nce_multi": info_nce_multi,
    "sigmoid": sigmoid,
}
BIASED = frozenset({"sigmoid"})  # these want a learnt bias on the logits
