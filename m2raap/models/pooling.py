"""From frame vectors to one video vector. B videos, T frames, E size of the common space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def masked_mean(values_BTX: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the frames where the mask is True: (B, T, ...) -> (B, ...). Every clip has at least one."""
    weight_BT = mask_BT.to(values_BTX.dtype)
    weight_BT = weight_BT / weight_BT.sum(1, keepdim=True)
    return (values_BTX * weight_BT.reshape(*weight_BT.shape, *[1] * (values_BTX.dim() - 2))).sum(1)


def pool_unit(features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
    """CLIP4Clip's meanP: unit frame vectors, masked mean, unit again. (B, E)"""
    return F.normalize(masked_mean(F.normalize(features_BTE, dim=-1), mask_BT), dim=-1)


def pool_raw(features_BTE: Tensor, mask_BT: Tensor) -> Tensor:
    """STAN's pooling: the mean of the vectors as they are, then unit. (B, E)"""
    return F.normalize(masked_mean(features_BTE, mask_BT), dim=-1)
