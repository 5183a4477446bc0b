"""Gradients of texts against those of auxiliary captions and of sound: harmonisation (arXiv 2211.02077, NeurIPS 2022).

The paper's triplet is (video, audio, text) and its encoder one for all modalities. Here the losses that share the video tower
are those of a clip's texts, of the captions of its frames (the term clip_caption), which a machine wrote who saw them, and of
its sound (clip_sound). A wrong text pulls the video vector against these. Realignment projects conflicting gradients (PCGrad, Yu
et al. 2020, arXiv 2001.06782; the paper's rule is not published). The curriculum leaves out the losses of texts in conflict,
more and more of them; such a text stays in the batch as a negative.

Gradients are taken at the video vector, where those of a pair are known without a backward pass: in the softmax over texts a
video vector is in its own row alone. B clips, K texts per clip, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from m2raap.adapt.clip_captions import caption_vectors, captioned_clips
from m2raap.adapt.objective import BatchTexts, Features, StepLoss
from m2raap.models.losses import owned_mask

REFERENCES = frozenset({"clip_caption", "clip_sound"})  # terms with whose gradients those of texts are compared
SMALLEST = 1e-12  # squared norm below which a gradient has no direction


def pull_at_vector(video_BE: Tensor, text_BE: Tensor, twins_BB: Tensor, scale: Tensor | float) -> Tensor:
    """Gradient (B, E) of every row of the softmax over texts with regard to its unit video vector, over `scale`.

    It is the mean text by the softmax less the pair's own text, on the tangent space of the sphere. Twins off the diagonal (B, B)
    are left out. Whatever the objective of the run is, this is that of InfoNCE.
    """
    video_BE, text_BE = video_BE.detach().float(), text_BE.detach().float()
    off_diagonal = twins_BB & ~torch.eye(len(twins_BB), dtype=torch.bool, device=twins_BB.device)
    weight_BB = (scale * video_BE @ text_BE.T).masked_fill(off_diagonal, float("-inf")).softmax(1)
    pull_BE = weight_BB @ text_BE - text_BE
    return pull_BE - (pull_BE * video_BE).sum(1, keepdim=True) * video_BE


def agreement_of(pull_BE: Tensor, other_BE: Tensor) -> Tensor:
    """Cosine (B,) of two gradients; below 0 they are in conflict. NaN where one of them vanishes."""
    lengths_B = (pull_BE.square().sum(1) * other_BE.square().sum(1)).sqrt()
    return torch.where(lengths_B > SMALLEST, (pull_BE * other_BE).sum(1) / lengths_B, torch.nan)


def kept_pairs(agreement_BK: Tensor, gamma: float) -> Tensor:
    """Which texts (B, K) count: those whose agreement is above gamma or NaN; the best one where there is none."""
    kept_BK = ~(agreement_BK <= gamma)
    best_BK = agreement_BK == agreement_BK.nan_to_num(-2.0).max()
    return kept_BK | (best_BK & ~kept_BK.any())


def gamma_at(gamma: tuple[float, float], progress: float) -> float:
    """The threshold after the share `progress` (0..1) of a run: from the first to the last value on a line."""
    return gamma[0] + (gamma[1] - gamma[0]) * progress


def project(gradients: Sequence[Tensor]) -> list[Tensor]:
    """PCGrad, for each row (..., E) by itself: each gradient without its parts against the others, one after the other.

    The others are as they were given, as in PCGrad; they come in their order, where PCGrad draws it.
    """
    projected = []
    for place, gradient in enumerate(gradients):
        for other_place, other in enumerate(gradients):
            if other_place == place:
                continue
            along = (gradient * other).sum(-1, keepdim=True)
            length = other.square().sum(-1, keepdim=True)
            share = torch.where(length > SMALLEST, along.clamp(max=0) / length.clamp(min=SMALLEST), 0.0)
            gradient = gradient - share * other
        projected.append(gradient)
    return projected


def add_projected(gradients: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """The sum of several gradients of the same weights, each projected as one vector over all of them. None: no gradient."""
    columns = list(zip(*gradients, strict=True))
    zeros = {
        place: torch.zeros_like(part)
        for place, column in enumerate(columns)
        if (part := next((part for part in column if part is not None), None)) is not None
    }
    flat = [
        torch.cat([(zero if (part := row[place]) is None else part).flatten() for place, zero in zeros.items()])
        for row in gradients
    ]
    parts = torch.stack(project(flat)).sum(0).split([zero.numel() for zero in zeros.values()])
    total = {place: part.reshape(zero.shape) for (place, zero), part in zip(zeros.items(), parts, strict=True)}
    return [total.get(place) for place in range(len(columns))]


def harmony(loss: StepLoss) -> dict[str, Tensor]:
    """For the log of a step: the share of its texts in conflict, of those that were compared, and the share that is kept."""
    shares: dict[str, Tensor] = {}
    if loss.agreement_BK is not None:
        num_compared = (~loss.agreement_BK.isnan()).sum().clamp(min=1)
        shares["in_conflict"] = (loss.agreement_BK < 0).sum() / num_compared
    if loss.kept_BK is not None:
        shares["kept"] = loss.kept_BK.float().mean()
    return shares


class _Realigned(torch.autograd.Function):
    """The same vectors several times; on the way back their gradients are projected, then added."""

    @staticmethod
    def forward(ctx: Any, vectors_BE: Tensor, count: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(vectors_BE.clone() for _ in range(count))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        present = [gradient for gradient in gradients if gradient is not None]
        return (torch.stack(project(present)).sum(0) if present else None), None


def realigned(video_BE: Tensor, weights: Collection[str], num_texts: int) -> dict[str, Sequence[Tensor]]:
    """The video vectors once for each loss of the terms in `weights` that are harmonised, `num_texts` times for `plain`.

    Conflicting gradients of a clip are projected before they are added.
    """
    counts = {"plain": num_texts} | dict.fromkeys(sorted(REFERENCES), 1)
    counts = {name: count for name, count in counts.items() if name in weights}
    copies = iter(_Realigned.apply(video_BE, sum(counts.values())))
    return {name: list(islice(copies, count)) for name, count in counts.items()}


def text_agreement(
    features: Features,
    batch_texts: BatchTexts,
    weights: Mapping[str, float],
    scale: Tensor | float,
    sound: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Agreement (B, K) of the gradients of a clip's texts with those of its captions and its sound, which are added with their
    `weights`; NaN for a clip with neither.

    `scale`: 1 / temperature of the softmaxes. The smaller it is, the more texts the gradients are measured against: at 0 they
    are the mean text less the pair's own. `sound`: the places (M,) of the clips with sound, and their vectors (M, E).
    """
    video_BE = features.video_BE.detach()
    other_BE = torch.zeros_like(video_BE, dtype=torch.float32)
    if "clip_caption" in weights:
        assert features.caption_BTE is not None and batch_texts.caption_BT is not None
        clip_M, twins_MM = captioned_clips(batch_texts.caption_BT, video_BE.device)
        captions_ME = caption_vectors(features.caption_BTE)[clip_M]
        pull_ME = pull_at_vector(video_BE[clip_M], captions_ME, twins_MM, scale)
        other_BE.index_add_(0, clip_M, pull_ME, alpha=weights["clip_caption"])
    if sound is not None:
        clip_M, sound_ME = sound
        alone_MM = torch.eye(len(clip_M), dtype=torch.bool, device=video_BE.device)
        pull_ME = pull_at_vector(video_BE[clip_M], sound_ME, alone_MM, scale)
        other_BE.index_add_(0, clip_M, pull_ME, alpha=weights["clip_sound"])
    agreement_BK = video_BE.new_empty((len(video_BE), len(batch_texts.texts)), dtype=torch.float32)
    for turn, texts in enumerate(batch_texts.texts):
        twins_BB = owned_mask(texts, batch_texts.owners).to(video_BE.device)
        agreement_BK[:, turn] = agreement_of(
            pull_at_vector(video_BE, features.text_BKE[:, turn], twins_BB, scale), other_BE
        )
    return agreement_BK
