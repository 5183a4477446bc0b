"""The loss of a step, a pure function of the features of the batch, however the batch was encoded.

B clips, T frames, P patches a frame, K texts per clip (turns), L text tokens, X phrases, E size of the common space. Every
tensor has the clips first, so that chunks and shares of a batch are joined along it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.adapt.clip_captions import clip_caption_loss
from m2raap.adapt.clip_sound import BatchSound, clip_sound_loss
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.loss_modules import LossModules
from m2raap.adapt.order_terms import clause_rows, event_order_rows
from m2raap.models.acg import frame_caption_loss
from m2raap.models.interaction.score import score_matrix
from m2raap.models.interaction.units import ClipUnits, TextUnits, select
from m2raap.models.losses import (
    BIASED,
    cosine_logits,
    direction_contrast,
    info_nce,
    objective_of,
    owned_mask,
    start_bias,
)
from m2raap.models.shared_rows import SharedRows, every_row


@dataclass(frozen=True)
class Features:
    """The features of B clips. A tensor that no term of the loss reads is None."""

    mask_BT: Tensor
    video_BE: Tensor
    text_BKE: Tensor
    vectors_BTE: Tensor | None = None
    patches_BTPE: Tensor | None = None
    reversed_BE: Tensor | None = None
    token_BKLE: Tensor | None = None
    token_mask_BKL: Tensor | None = None
    phrase_BKXE: Tensor | None = None
    phrase_mask_BKX: Tensor | None = None
    clause_BK2E: Tensor | None = None
    swapped_BE: Tensor | None = None
    swapped_text_BKE: Tensor | None = None
    caption_BTE: Tensor | None = None
    guide_BT: Tensor | None = None  # frames whose captions the interaction reads

    def present(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def vectors(self) -> dict[str, Tensor]:
        """The tensors that may have a gradient: all but the masks, by name."""
        return {name: tensor for name, tensor in self.present().items() if tensor.is_floating_point()}

    def replace(self, tensors: dict[str, Tensor]) -> Features:
        return replace(self, **tensors)

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: torch.cat([part.present()[name] for part in parts]) for name in parts[0].present()})


OF_CAPTIONS = frozenset({"frame_caption", "clip_caption"})  # terms of the captions of frames
WITHOUT_TEXT = OF_CAPTIONS | {"clip_sound"}  # terms that no text enters
OF_SOME_TEXTS = {"clauses", "event_order"}  # terms of texts of several clauses alone

# The fields of TextUnits, and those of Features that hold them for K texts per clip.
TEXT_FEATURES = {
    "pooled_AE": "text_BKE",
    "tokens_ALE": "token_BKLE",
    "token_mask_AL": "token_mask_BKL",
    "phrases_AXE": "phrase_BKXE",
    "phrase_mask_AX": "phrase_mask_BKX",
}


@dataclass(frozen=True)
class BatchTexts:
    """The texts of the whole batch, by which clips that share a text are left out of each other's negatives; and its sound.

    `texts`: K lists of B texts. `owners`: of every text the places in the batch of the clips that have it. `caption_BT`: the
    number of the caption of every frame, -1 without one. `order_KB3`: the rows of OrderTexts of every text. These and `sound`
    are None where no term reads them.
    """

    texts: list[list[str]]
    owners: dict[str, list[int]]
    caption_BT: np.ndarray | None = None
    order_KB3: np.ndarray | None = None
    sound: BatchSound | None = None


def bias_of(cfg: AdaptConfig, backbone_bias: nn.Parameter | None) -> nn.Parameter | None:
    """The bias of the objective; None for an objective without one.

    `backbone_bias`, where the backbone has a bias, learns and is saved with the model. Else the bias is a new parameter,
    which is NaN until the first batch sets it.
    """
    if cfg.objective not in BIASED:
        return None
    if backbone_bias is None:
        return nn.Parameter(torch.tensor(math.nan))
    backbone_bias.requires_grad_(True)
    return backbone_bias


@dataclass(frozen=True)
class StepLoss:
    """The loss of a step: the weighted sum of its terms, and the mean of each term without its weight, by name.

    `agreement_BK`: of the texts with the captions of the frames, or the sound, where harmonisation compares them.
    """

    total: Tensor
    terms: dict[str, Tensor]
    agreement_BK: Tensor | None = None
    kept_BK: Tensor | None = None  # the texts whose losses count, where some may be left out

    def detached(self) -> StepLoss:
        terms = {name: term.detach() for name, term in self.terms.items()}
        return StepLoss(self.total.detach(), terms, self.agreement_BK, self.kept_BK)

    def floats(self) -> dict[str, float]:
        """The terms as numbers, for the log."""
        return {name: float(term) for name, term in self.terms.items()}


def step_loss(
    weights: Mapping[str, float],
    rows: Mapping[str, Tensor],
    agreement_BK: Tensor | None = None,
    kept_BK: Tensor | None = None,
) -> StepLoss:
    """The loss of a batch from the losses of its pairs (`loss_rows`), each term with its weight.

    A term of texts is the mean over those that are kept (None: all). Of a term that some texts alone have it is the mean over
    those, for each of the K texts of the clips, and then over the K.
    """
    terms = {
        name: rows_BK.mean() if kept_BK is None or name in WITHOUT_TEXT else _mean_of_kept(name, rows_BK, kept_BK)
        for name, rows_BK in rows.items()
    }
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return StepLoss(total, terms, agreement_BK, kept_BK)


def _mean_of_kept(name: str, rows_BK: Tensor, kept_BK: Tensor) -> Tensor:
    if name not in OF_SOME_TEXTS:
        return (rows_BK * kept_BK).sum() / kept_BK.sum()
    has_BK = (rows_BK.detach() != 0).float()  # rows are their losses times B / N, where N of B have the term
    return ((rows_BK * has_BK.mean(0) * kept_BK).sum(0) / (has_BK * kept_BK).sum(0).clamp(min=1)).mean()


def loss_rows(
    cfg: AdaptConfig,
    weights: Mapping[str, float],
    features: Features,
    batch_texts: BatchTexts,
    scale: Tensor,
    bias: nn.Parameter | None = None,
    modules: LossModules | None = None,
    interaction: nn.Module | None = None,
    shared_rows: SharedRows = every_row,
    videos: Mapping[str, Sequence[Tensor]] | None = None,
    sound: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Every term of `weights`, by name, as the losses (B, K) of the clips and their K texts; (B, 1) where no text enters.

    `weights`: of the terms that count in this step (LossConfig.weights_at). `scale`: 1 / temperature. `bias` is added to the
    cosine logits alone: the scores of an interaction, which have another range, and the losses of captions keep the softmax.
    `videos`: the video vectors (B, E) once for each loss of these terms, K times for `plain`, where something is done to the
    gradients of each; None: those of `features`. `sound`: the places (M,) of the clips with sound, and their vectors (M, E).
    What is dear, the scores of an interaction and the frame-caption loss, is shared among processes by `shared_rows`.
    """
    objective = objective_of(cfg.objective)
    rows: dict[str, list[Tensor]] = {name: [] for name in weights}
    for turn, texts in enumerate(batch_texts.texts):
        text_BE = features.text_BKE[:, turn]
        twins_BB = owned_mask(texts, batch_texts.owners).to(text_BE.device)
        if "plain" in weights:
            logits_BB = cosine_logits(videos["plain"][turn] if videos else features.video_BE, text_BE, scale)
            if bias is not None:
                if bool(bias.isnan()):
                    bias.data.copy_(start_bias(logits_BB))
                logits_BB = logits_BB + bias
            rows["plain"].append(objective(logits_BB, twins_BB))
        if "direction" in weights:
            assert features.reversed_BE is not None
            rows["direction"].append(direction_contrast(features.video_BE, features.reversed_BE, text_BE, scale))
        if "interaction" in weights:
            assert interaction is not None
            scores_BB = _shared_scores(interaction, _text_units(features, turn), _clip_units(features), shared_rows)
            of_scores = info_nce if bias is not None else objective
            rows["interaction"].append(of_scores(scale * scores_BB.T, twins_BB))
        if "clauses" in weights:
            assert modules is not None and modules.order_heads is not None and batch_texts.order_KB3 is not None
            clauses_B2E = _of_turn(features.clause_BK2E, turn)
            order = (batch_texts.order_KB3[turn], scale)
            rows["clauses"].append(clause_rows(modules.order_heads, features.video_BE, text_BE, clauses_B2E, *order))
        if "event_order" in weights:
            assert batch_texts.order_KB3 is not None
            swapped = (features.swapped_BE, _of_turn(features.swapped_text_BKE, turn))
            order = (batch_texts.order_KB3[turn], scale)
            rows["event_order"].append(event_order_rows(features.video_BE, text_BE, *swapped, *order))
    if "frame_caption" in weights:
        assert features.caption_BTE is not None and batch_texts.caption_BT is not None
        assert features.vectors_BTE is not None
        captions = (features.caption_BTE, batch_texts.caption_BT)
        pairs = frame_caption_loss(features.vectors_BTE, *captions, scale, shared_rows)
        rows["frame_caption"].append(pairs)
    if "clip_caption" in weights:
        assert features.caption_BTE is not None and batch_texts.caption_BT is not None
        video_BE = videos["clip_caption"][0] if videos else features.video_BE
        rows["clip_caption"].append(clip_caption_loss(video_BE, features.caption_BTE, batch_texts.caption_BT, scale))
    if "clip_sound" in weights:
        assert sound is not None
        rows["clip_sound"].append(
            clip_sound_loss(videos["clip_sound"][0] if videos else features.video_BE, *sound, scale)
        )
    return {name: torch.stack(turns, 1) for name, turns in rows.items()}


def _shared_scores(interaction: nn.Module, texts: TextUnits, clips: ClipUnits, shared_rows: SharedRows) -> Tensor:
    """Scores (A, B) of all texts with all clips, the texts shared among processes."""
    return shared_rows(len(texts.pooled_AE), lambda rows: score_matrix(interaction, select(texts, rows), clips))


def _text_units(features: Features, turn: int) -> TextUnits:
    present = features.present()
    return TextUnits(**{unit: present[name][:, turn] for unit, name in TEXT_FEATURES.items() if name in present})


def _clip_units(features: Features) -> ClipUnits:
    assert features.vectors_BTE is not None
    return ClipUnits(
        pooled_BE=features.video_BE,
        frames_BTE=F.normalize(features.vectors_BTE, dim=-1),
        mask_BT=features.mask_BT,
        captions_BTE=features.caption_BTE if features.guide_BT is not None else None,
        captioned_BT=features.guide_BT,
        patches_BTPE=features.patches_BTPE,
    )


def _of_turn(tensor_BK: Tensor | None, turn: int) -> Tensor | None:
    return None if tensor_BK is None else tensor_BK[:, turn]
