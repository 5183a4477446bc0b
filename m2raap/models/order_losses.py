"""Losses on the order of two events, for captions that say it. N clips whose captions split, E size of the common space.

All vectors are unit vectors, and `scale` is the inverse temperature; the losses are computed in fp32 also where the towers
run in less.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clause_contrast(queries_N2E: Tensor, clauses_N2E: Tensor, texts_N2: Tensor, scale: Tensor | float) -> Tensor:
    """(N,) mean over both queries of a clip of -log softmax: each against all 2N clauses, its target the clause of its place.

    `queries_N2E`: what a vector says of the first and of the second event. Among the candidates is the clip's other clause,
    which is the hard negative. `texts_N2` are numbers of the clauses' texts: clauses with the text of the target are left
    out, they are neither negatives nor targets. Ours.
    """
    with torch.autocast(queries_N2E.device.type, enabled=False):
        logits_MM = scale * (queries_N2E.float().flatten(0, 1) @ clauses_N2E.float().flatten(0, 1).T)
        texts_M = texts_N2.flatten()
        same_MM = texts_M[:, None] == texts_M[None]
        same_MM.fill_diagonal_(False)
        target_M = torch.arange(len(texts_M), device=logits_MM.device)
        loss_M = F.cross_entropy(logits_MM.masked_fill(same_MM, float("-inf")), target_M, reduction="none")
    return loss_M.unflatten(0, (-1, 2)).mean(1)


def event_order_contrast(
    video_NE: Tensor, swapped_NE: Tensor, text_NE: Tensor, swapped_text_NE: Tensor, scale: Tensor | float
) -> Tensor:
    """(N,) a clip and its caption, and both with their events exchanged, as a 2 x 2 contrast in both directions.

    The mean over the two clips and the two texts of -log softmax of each over its match and the other one. After Bagad et al.
    (Test of Time, CVPR 2023; bpiyush/TestOfTime, package/datasets/tempo.py: `video_tokens_swapped`, `text_swapped`, and
    package/losses/weighted_contrastive.py), who have these negatives in the denominator over the batch with weights, know
    where each event begins and swap there. Here they are a term of its own, and a clip may be cut in its middle. A clip that
    looks the same with its halves exchanged costs log 2 at least.
    """
    v, w, t, u = (vectors.float() for vectors in (video_NE, swapped_NE, text_NE, swapped_text_NE))
    vt, vu, wt, wu = ((a * b).sum(-1) for a, b in ((v, t), (v, u), (w, t), (w, u)))
    gaps_4N = torch.stack(
        [vu - vt, wt - wu, wt - vt, vu - wu]
    )  # of each clip over the texts, of each text over the clips
    return F.softplus(scale * gaps_4N).mean(0)
