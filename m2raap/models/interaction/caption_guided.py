"""Mug over frames that the text and the auxiliary captions of the frames enhance: ACG as M2-RAAP's Figure 1 draws it.

The figure shows that text, caption and video features enter ACG, that its output and the text enter Mug, and one loss
behind Mug. The formula of M2-RAAP (SIGIR 2024) is not published. THIS IS OUR READING, not the paper's formula. t: the text's
vector, v_i: frame i of N, c_i: the vector of its caption, all unit:

    inter_i = <t, v_i>     intra_i = <t, c_i>
    w       = softmax over i of (a inter_i + b intra_i) / tau_w
    v'_i    = v_i (1 + g (N w_i - 1)) [+ beta c_i]
    score   = Mug(tokens of t, v')

a, b and beta start at 0, so that the start is Mug; g starts at 1, because with g at 0, too, a product of two zeros would
have no gradient. A frame without a caption takes the mean of intra of the clip's other frames; a clip without captions has
inter alone. With weights `cross_attention` inter and intra are low-rank bilinear forms <Q t, K v_i> and <Q' t, K' c_i>, which
have no a and b: Q and Q' start at 0. Captions get no gradient: the text of a clip would be matched with its own captions, and
no frame be looked at.
L tokens, T frames; `...` is (A, B) for all texts with all clips and (N,) for given pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m2raap.models.acg import fill_missing
from m2raap.models.config import CaptionGuidedMugConfig
from m2raap.models.interaction.base import Interaction
from m2raap.models.interaction.mug import matching
from m2raap.models.interaction.pairs import Pairs
from m2raap.models.interaction.units import Need
from m2raap.models.zero import zero_linear


class CaptionGuidedMug(Interaction):
    """Mug over frames that are weighted, and may be added to, by the text and the captions of the frames."""

    def __init__(self, cfg: CaptionGuidedMugConfig, embed_dim: int, key: str) -> None:
        super().__init__(cfg.start)
        self.cfg = cfg
        needs: set[Need] = {"tokens", "captions"} if cfg.reads_captions else {"tokens"}
        self.needs = frozenset(needs)
        self.match = matching(cfg.form, cfg.inverse_temperature, f"{key}.form")
        if cfg.weights == "cross_attention":
            self.query = nn.ModuleDict({part: zero_linear(embed_dim, cfg.rank) for part in cfg.guide})
            self.key = nn.ModuleDict({part: nn.Linear(embed_dim, cfg.rank, bias=False) for part in cfg.guide})
        else:
            if "frames" in cfg.guide:
                self.inter_gate = nn.Parameter(torch.zeros(()))
            if "captions" in cfg.guide:
                self.intra_gate = nn.Parameter(torch.zeros(()))
        self.weight_gate = nn.Parameter(torch.ones(()))
        if cfg.add_captions:
            self.add_gate = nn.Parameter(torch.zeros(()))

    def inner(self, pairs: Pairs) -> Tensor:
        texts, clips = pairs.texts, pairs.clips
        assert texts.tokens_ALE is not None and texts.token_mask_AL is not None
        frame_mask_T = pairs.of_clips(clips.mask_BT)
        # <t_l, v'_i> is all that Mug reads of v'_i: the enhanced frames themselves are never needed.
        similar_LT = pairs.inner(texts.tokens_ALE, clips.frames_BTE)
        similar_LT = similar_LT * self.frame_scale(pairs)[..., None, :]
        if self.cfg.add_captions and clips.captions_BTE is not None and clips.captioned_BT is not None:
            caption_BTE = clips.captions_BTE.detach() * (clips.captioned_BT & clips.mask_BT)[..., None]
            similar_LT = similar_LT + self.add_gate * pairs.inner(texts.tokens_ALE, caption_BTE)
        return self.match(similar_LT, pairs.of_texts(texts.token_mask_AL), frame_mask_T)

    def frame_scale(self, pairs: Pairs) -> Tensor:
        """1 + g (N w_i - 1) of every frame (..., T); what it is of padding does not matter."""
        mask_BT = pairs.clips.mask_BT
        mask_T = pairs.of_clips(mask_BT)
        weight_T = (self.consistency(pairs) / self.cfg.tau_w).masked_fill(~mask_T, float("-inf")).softmax(-1)
        count = pairs.of_clips(mask_BT.sum(1, keepdim=True))
        return 1 + self.weight_gate * (count * weight_T - 1)

    def consistency(self, pairs: Pairs) -> Tensor:
        """a inter_i + b intra_i (..., T), or their bilinear forms."""
        clips = pairs.clips
        total_T = torch.zeros_like(clips.mask_BT, dtype=clips.frames_BTE.dtype).expand(*pairs.shape, -1)
        if "frames" in self.cfg.guide:
            total_T = total_T + self._inter_or_intra("frames", pairs, clips.frames_BTE)
        if "captions" in self.cfg.guide and clips.captions_BTE is not None and clips.captioned_BT is not None:
            intra_T = self._inter_or_intra("captions", pairs, clips.captions_BTE.detach())
            total_T = total_T + fill_missing(intra_T, pairs.of_clips(clips.captioned_BT & clips.mask_BT))
        return total_T

    def _inter_or_intra(self, part: str, pairs: Pairs, clip_BTE: Tensor) -> Tensor:
        """(..., T): the text with the frames, or with their captions."""
        if self.cfg.weights == "cross_attention":
            return pairs.inner(self.query[part](pairs.texts.pooled_AE)[:, None], self.key[part](clip_BTE))[..., 0, :]
        return (self.inter_gate if part == "frames" else self.intra_gate) * pairs.with_text(clip_BTE)
