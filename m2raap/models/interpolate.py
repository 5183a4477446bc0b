"""Weights between a backbone and the model adapted from it: WiSE-FT (Wortsman et al., CVPR 2022, arXiv 2109.01903), for clips.

    backbone weight   (1 - alpha) original + alpha adapted
    zero start        alpha adapted     (output matrices and gates of temporal module, ACG and interaction, which start at zero)

Other weights of the new modules stay as adapted: times zero they have no effect. So alpha 0 is the backbone's mean pooling,
bit for bit, and alpha 1 the adapted model.
"""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import StanConfig
from m2raap.models.video_clip import VideoCLIP

# Temporal module -> pattern of the parameters that start at zero and scale its output.
ZERO_STARTS = {
    "mean": r"(?!)",
    "seqtransf": r"out\.(weight|bias)",
    "stan": r"(gate|out\.(weight|bias))",
    "adapter": r"adapters\.\d+\.out\.(weight|bias)",
    "message": r"messages\.\d+\.gate",
}


def check_alpha(alpha: float) -> None:
    """Raises M2raapError where alpha is outside 0..1."""
    if not 0 <= alpha <= 1:
        raise M2raapError(f"alpha {alpha:g}: it runs from 0 (the backbone) to 1 (the adapted model)")


def interpolated(adapted: VideoCLIP, original: Backbone, alpha: float) -> VideoCLIP:
    """A new model with weights between those of `original` and `adapted`.

    Raises M2raapError where alpha is outside 0..1, the backbones differ in shape, or alpha 0 would not be mean pooling.
    """
    check_alpha(alpha)
    cfg = adapted.temporal_cfg
    if isinstance(cfg, StanConfig) and (cfg.start == "open" or cfg.pool == "raw"):
        raise M2raapError(
            f"the model was adapted with adapt.temporal.start {cfg.start} and adapt.temporal.pool {cfg.pool}, so that alpha 0 "
            "would not be the backbone's mean pooling; adapt it with start matrix or gate, and pool unit"
        )
    before, after = original.clip.state_dict(), adapted.backbone.clip.state_dict()
    differing = sorted(set(before) ^ set(after)) or [name for name in after if before[name].shape != after[name].shape]
    if differing:
        raise M2raapError(
            f"the model was not adapted from this backbone: they differ in {differing[0]}; give the backbone in its model.json"
        )
    tokenizer = getattr(adapted.backbone.text, "tokenizer", None)
    model = copy.deepcopy(adapted, {id(tokenizer): tokenizer})  # a tokenizer is large and never changes: both share it
    zero_starts = ZERO_STARTS.get(cfg.name) or getattr(adapted.temporal, "zero_starts", None)
    if zero_starts is None:
        raise M2raapError(
            f"{cfg.name} has no attribute zero_starts, a pattern of the names of its parameters that start at zero, so that it "
            "is not known which weights lead back to the backbone"
        )
    pattern = re.compile(zero_starts)
    with torch.no_grad():
        for name, value in model.backbone.clip.state_dict().items():
            if value.is_floating_point():
                value.copy_(_between(before[name].to(value), after[name], alpha))
        for name, p in model.temporal.named_parameters():
            if pattern.fullmatch(name):
                p.mul_(alpha)
        for p in model.acg.parameters() if model.acg else ():
            p.mul_(alpha)
        if (gate := getattr(model.interaction, "gate", None)) is not None:  # behind it the score is the cosine
            gate.mul_(alpha)
    return model


def _between(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """Linear interpolation, exact at both ends; the documentation of torch.lerp does not promise that."""
    return before if alpha == 0 else after if alpha == 1 else torch.lerp(before, after, alpha)
