"""The loss of a step, a pure function of the features of the batch, however the batch was encoded.

B clips, T frames, K texts per clip (turns), L text tokens, E size of the common space. Every tensor has the clips first, so
that chunks and shares of a batch are joined along it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.adapt.config import AdaptConfig
from m2raap.models.acg import frame_caption_loss
from m2raap.models.losses import BIASED, cosine_logits, info_nce, objective_of, order_contrast, owned_mask, start_bias
from m2raap.models.mug import mug_scores


@dataclass(frozen=True)
class Features:
    """The features of B clips. A tensor that no term of the loss reads is None."""

    mask_BT: Tensor
    video_BE: Tensor
    text_BKE: Tensor
    vectors_BTE: Tensor | None = None
    reversed_BE: Tensor | None = None
    token_BKLE: Tensor | None = None
    token_mask_BKL: Tensor | None = None
    caption_BTE: Tensor | None = None
    captioned_BT: Tensor | None = None

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


@dataclass(frozen=True)
class BatchTexts:
    """The texts of the whole batch, by which clips that share a text are left out of each other's negatives.

    `texts`: K lists of B texts. `owners`: of every text the places in the batch of the clips that have it. `captions`: B
    lists of the captions of T frames.
    """

    texts: list[list[str]]
    owners: dict[str, list[int]]
    captions: list[list[str]] | None = None


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


def step_loss(
    cfg: AdaptConfig, features: Features, batch_texts: BatchTexts, scale: Tensor, bias: nn.Parameter | None = None
) -> Tensor:
    """Mean over the K texts of a clip of video-text, order and Mug losses; then the frame-caption loss.

    `scale` is the inverse temperature. `bias` is added to the cosine logits alone: Mug's scores, which have another range,
    and the frame-caption loss keep the softmax.
    """
    objective, losses = objective_of(cfg.objective), []
    of_scores = info_nce if bias is not None else objective
    for turn, texts in enumerate(batch_texts.texts):
        text_BE = features.text_BKE[:, turn]
        twins = owned_mask(texts, batch_texts.owners).to(text_BE.device)
        logits_BB = cosine_logits(features.video_BE, text_BE, scale)
        if bias is not None:
            if bool(bias.isnan()):
                bias.data.copy_(start_bias(logits_BB))
            logits_BB = logits_BB + bias
        losses.append(objective(logits_BB, twins))
        if features.reversed_BE is not None:
            order = order_contrast(features.video_BE, features.reversed_BE, text_BE, scale)
            losses[-1] = losses[-1] + cfg.reversal_weight * order
        if features.token_BKLE is not None and features.token_mask_BKL is not None and features.vectors_BTE is not None:
            unit_BTE = F.normalize(features.vectors_BTE, dim=-1)
            tokens = (features.token_BKLE[:, turn], features.token_mask_BKL[:, turn])
            scores_BB = mug_scores(*tokens, unit_BTE, features.mask_BT, cfg.mug_form)
            losses[-1] = losses[-1] + cfg.mug_weight * of_scores(scale * scores_BB.T, twins)
    loss = torch.stack(losses).mean()
    if features.caption_BTE is not None and features.captioned_BT is not None and features.vectors_BTE is not None:
        captions = (features.caption_BTE, features.captioned_BT)
        pairs = frame_caption_loss(features.vectors_BTE, captions, features.mask_BT, scale, batch_texts.captions)
        loss = loss + cfg.fcc_weight * pairs
    return loss
