"""Scores of the validation clips, each against all of them. They choose a checkpoint and are not reported as results.

N clips, Q queries, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.captions import CaptionTable
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.state import FrameReader, Split
from m2raap.adapt.texts import encode_texts
from m2raap.core.ahead import ahead
from m2raap.core.errors import M2raapError
from m2raap.core.extension import code_in_use
from m2raap.models.batches import Batches
from m2raap.models.interaction.score import score_matrix
from m2raap.models.interaction.units import ClipUnits, Need, tensors_of
from m2raap.models.losses import cosine_logits, info_nce, owned_mask
from m2raap.models.mask import on_device
from m2raap.models.video_clip import VideoCLIP

CHUNK = 32
RANKED_AT_ONCE = 1024  # queries whose similarities to all clips are in memory together
LOSS_CHUNK = 32  # pairs of one InfoNCE; fixed, so that the losses of different runs are of equally hard choices


@dataclass(frozen=True)
class ValScores:
    """The scores of one validation.

    `numbers`: `mrr` and `r1` (0..1), the means over languages and both directions, `loss`, the mean over languages, and each
    of them for every language (`en_t2v_r1`, `en_v2t_mrr`, `en_loss`). `per_clip`: for `mrr`, `r1` and `loss` the part of each
    clip (N,) in fp64; the mean of the parts is the number of that name.
    """

    numbers: dict[str, float]
    per_clip: dict[str, Tensor]


def ranks_with_ties(query_QE: Tensor, gallery_NE: Tensor, target_Q: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the gallery are nearer than the target (Q,), and how many are exactly as near, with the target itself (Q,).

    Raises M2raapError for vectors with NaN or infinity: no comparison with them holds, so that they would count as found.
    """
    blocks = [slice(start, start + RANKED_AT_ONCE) for start in range(0, len(query_QE), RANKED_AT_ONCE)]
    with torch.autocast(query_QE.device.type, enabled=False):  # in 16 bits many scores would be ties
        ranked = [ranks_by_score(query_QE[rows].float() @ gallery_NE.float().T, target_Q[rows]) for rows in blocks]
    above, ties = zip(*ranked, strict=True)
    return torch.cat(above), torch.cat(ties)


def ranks_by_score(score_QN: Tensor, target_Q: Tensor) -> tuple[Tensor, Tensor]:
    """As `ranks_with_ties`, from the scores of all queries with the whole gallery."""
    if not bool(score_QN.isfinite().all()):
        raise M2raapError(
            "vectors of the validation clips or of their texts hold NaN or infinity, so that no checkpoint can be chosen: "
            f"lower adapt.lr, adapt.lr_new or adapt.lr_gate, or set adapt.precision to fp32{code_in_use()}"
        )
    target_Q1 = score_QN.gather(1, target_Q[:, None])
    return (score_QN > target_Q1).sum(1), (score_QN == target_Q1).sum(1)


def expected_hits(above_Q: Tensor, ties_Q: Tensor) -> Tensor:
    """The probability (Q,) in fp64 that the target is first, where ties are broken at random."""
    return (above_Q == 0).double() / ties_Q


def expected_reciprocal_ranks(above_Q: Tensor, ties_Q: Tensor) -> Tensor:
    """The mean (Q,) in fp64 of 1 / rank, where ties are broken at random: the ranks above + 1 .. above + ties are as likely."""
    last = int((above_Q + ties_Q).max())
    reciprocals = 1 / torch.arange(1, last + 1, dtype=torch.float64, device=above_Q.device)
    harmonic = torch.cat([reciprocals.new_zeros(1), reciprocals.cumsum(0)])
    return (harmonic[above_Q + ties_Q] - harmonic[above_Q]) / ties_Q


def pair_losses(video_QE: Tensor, text_QE: Tensor, twins: list[Tensor], scale: Tensor) -> Tensor:
    """InfoNCE of every pair (Q,) in fp64, within chunks of as many pairs as the masks in `twins`, in their order."""
    sizes = [len(mask) for mask in twins]
    chunks = zip(video_QE.split(sizes), text_QE.split(sizes), twins, strict=True)
    return torch.cat([info_nce(cosine_logits(v, t, scale), mask.to(v.device)).double() for v, t, mask in chunks])


def encode_clips(
    model: VideoCLIP,
    frames: FrameReader,
    num_clips: int,
    captions: CaptionTable | None = None,
    dist_context: DistContext | None = None,
) -> Tensor:
    """Unit video vectors (N, E) of all clips, fp32, on the model's device."""
    return encode_units(model, frames, num_clips, captions, dist_context=dist_context).pooled_BE


def encode_units(
    model: VideoCLIP,
    frames: FrameReader,
    num_clips: int,
    captions: CaptionTable | None = None,
    needs: Collection[Need] | None = None,
    dist_context: DistContext | None = None,
) -> ClipUnits:
    """What an interaction with these `needs` reads of all clips, fp32, on the model's device.

    None: the vectors of the clips alone, each as its only frame. Of several processes each encodes its share of the clips, and
    all get those of all.
    """
    if dist_context is None or num_clips < dist_context.world_size:  # then each process encodes all of the few clips
        dist_context = DistContext()
    device, was_training = model.backbone.device, model.temporal.training
    start, stop = dist_context.slice_of(num_clips)
    chunks = [np.arange(at, min(at + CHUNK, stop)) for at in range(start, stop, CHUNK)]
    batches = ahead(frames.batch, chunks, frames.reads_ahead, frames.reads_ahead)
    in_batches = Batches(CHUNK, "clips")
    model.temporal.eval()
    parts: dict[str, list[Tensor]] = {}
    try:
        with torch.inference_mode(), closing(batches):
            for clips, (inputs, mask_BT) in zip(chunks, batches, strict=True):

                def units_of(
                    places: list[int], clips: np.ndarray = clips, inputs: Tensor = inputs, mask_BT: Tensor = mask_BT
                ) -> ClipUnits:
                    some = slice(places[0], places[-1] + 1)
                    device_mask_BT = on_device(mask_BT[some], device)
                    levels = frames.levels(model, inputs[some].to(device), device_mask_BT)
                    caption_features = captions.encode(model, clips[some]) if captions else None
                    units = model.clip_units(levels, device_mask_BT, caption_features, needs or ())
                    if needs is None:
                        units = ClipUnits(units.pooled_BE, units.pooled_BE[:, None], device_mask_BT[:, :1])
                    return units

                for units in in_batches(units_of, range(len(clips))):
                    for name, tensor in tensors_of(units).items():
                        parts.setdefault(name, []).append(tensor)
                frames.give_back(inputs)
            share = {name: torch.cat(tensors) for name, tensors in parts.items()}
            return ClipUnits(**{name: dist_context.gather_rows(rows, num_clips) for name, rows in share.items()})
    finally:
        model.temporal.train(was_training)


class _Cosines:
    """The scores of the queries of a language with all clips, as cosines: never all of them at once."""

    def __init__(self, text_QE: Tensor, video_NE: Tensor, clip_Q: Tensor) -> None:
        self.text_QE, self.video_NE, self.clip_Q = text_QE, video_NE, clip_Q

    def ranks(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """`ranks_with_ties` from text to video, and from video to text."""
        place_Q = torch.arange(len(self.clip_Q), device=self.clip_Q.device)
        video_QE = self.video_NE[self.clip_Q]
        return (
            ranks_with_ties(self.text_QE, self.video_NE, self.clip_Q),
            ranks_with_ties(video_QE, self.text_QE, place_Q),
        )

    def losses(self, twins: list[Tensor], scale: Tensor) -> Tensor:
        return pair_losses(self.video_NE[self.clip_Q], self.text_QE, twins, scale)


class _Interaction:
    """The same by the scores of an interaction, of all queries with all clips (Q, N)."""

    def __init__(self, score_QN: Tensor, clip_Q: Tensor) -> None:
        self.score_QN, self.clip_Q = score_QN, clip_Q

    def ranks(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        place_Q = torch.arange(len(self.clip_Q), device=self.clip_Q.device)
        to_text = ranks_by_score(self.score_QN[:, self.clip_Q].T, place_Q)
        return ranks_by_score(self.score_QN, self.clip_Q), to_text

    def losses(self, twins: list[Tensor], scale: Tensor) -> Tensor:
        losses, start = [], 0
        for mask in twins:
            rows = slice(start, start + len(mask))
            logits_BB = scale * self.score_QN[rows][:, self.clip_Q[rows]].T
            losses.append(info_nce(logits_BB, mask.to(logits_BB.device)).double())
            start = rows.stop
        return torch.cat(losses)


def validate(
    model: VideoCLIP, split: Split, by_interaction: bool = False, dist_context: DistContext | None = None
) -> ValScores:
    """MRR and R@1 in both directions and the plain InfoNCE at the model's temperature, for every language with texts.

    `by_interaction`: by the scores of the model's interaction in place of the cosines of the first stage. One text per clip
    and language is a query, and from video to text these texts are the gallery. Expected values over a random tie-break.
    The loss is computed over chunks of at most LOSS_CHUNK pairs, in the order of the clips. Of several processes each
    encodes its share of clips and texts, and all get the same scores.
    """
    device, table = model.backbone.device, split.texts
    dist_context = dist_context or DistContext()
    needs = model.interaction.needs if by_interaction and model.interaction is not None else None
    units = encode_units(model, split.frames, split.num_clips, split.captions, needs, dist_context)
    parts: dict[str, dict[str, tuple[np.ndarray, Tensor]]] = {"mrr": {}, "r1": {}, "loss": {}}
    with torch.inference_mode():
        scale = model.backbone.logit_scale.exp()
        for lang in table.langs:
            clips, rows = table.queries_of(lang)
            if not len(clips):
                continue
            scores = _scores(model, split, rows, units, torch.from_numpy(clips).to(device), needs, dist_context)
            for direction, ranked in zip(("t2v", "v2t"), scores.ranks(), strict=True):
                parts["mrr"][f"{lang}_{direction}_mrr"] = clips, expected_reciprocal_ranks(*ranked)
                parts["r1"][f"{lang}_{direction}_r1"] = clips, expected_hits(*ranked)
            twins = _twins(split, clips, rows)
            parts["loss"][f"{lang}_loss"] = clips, scores.losses(twins, scale)
    per_clip = {name: _per_clip(list(cells.values()), split.num_clips) for name, cells in parts.items()}
    numbers = {name: float(part_N.mean()) for name, part_N in per_clip.items()}
    cells = {name: float(value_Q.mean()) for by_cell in parts.values() for name, (_, value_Q) in by_cell.items()}
    return ValScores(numbers | cells, per_clip)


def _scores(
    model: VideoCLIP,
    split: Split,
    rows: np.ndarray,
    units: ClipUnits,
    clip_Q: Tensor,
    needs: Collection[Need] | None,
    dist_context: DistContext,
) -> _Cosines | _Interaction:
    """The scores of the texts `rows`, whose clips are `clip_Q`; each process computes those of its share of the texts."""
    if needs is None or model.interaction is None:
        return _Cosines(encode_texts(model, split.texts.tokens, rows, dist_context), units.pooled_BE, clip_Q)
    device = model.backbone.device
    start, stop = dist_context.slice_of(len(rows))
    blocks = [torch.zeros(0, len(units.pooled_BE), device=device)]

    def scores_of(some: list[int]) -> Tensor:
        part = np.array(some)
        spans_QX2 = split.spans_NX2[torch.from_numpy(part)].to(device) if split.spans_NX2 is not None else None
        texts = model.text_units(split.texts.tokens.rows(part).to(device), needs, spans_QX2)
        return score_matrix(model.interaction, texts, units)

    blocks += Batches(CHUNK, "texts")(scores_of, rows[start:stop].tolist())
    return _Interaction(dist_context.gather_rows(torch.cat(blocks), len(rows)), clip_Q)


def _twins(split: Split, clips: np.ndarray, rows: np.ndarray) -> list[Tensor]:
    """The masks of the chunks of these pairs, of nearly equal size, by which clips that share a text are no negatives."""
    masks = []
    for places in np.array_split(np.arange(len(clips)), -(-len(clips) // LOSS_CHUNK)):
        texts = split.texts.texts.take(rows[places])
        masks.append(owned_mask(texts, split.texts.owners(clips[places])))
    return masks


def _per_clip(cells: list[tuple[np.ndarray, Tensor]], num_clips: int) -> Tensor:
    """The part (N,) of every clip in the mean over cells of the mean over a cell's queries: the mean of the parts is that mean.

    A cell is a language, or a language and a direction, with the clip of each query and its value. Clips without a query
    have the part 0.
    """
    part_N = np.zeros(num_clips)
    for clips, value_Q in cells:
        part_N[clips] += value_Q.cpu().numpy() * (num_clips / (len(clips) * len(cells)))
    return torch.from_numpy(part_N)
