"""Other orders of the frames of clips, for the losses that compare a clip with its reversal or with its halves exchanged.

B clips, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reverse_frames(inputs: Tensor, mask_BT: Tensor, time_dim: int) -> Tensor:
    """`inputs` (B, ..., T at `time_dim`, ...) with the frames of each clip in reversed order; padding stays behind them."""
    count_B1 = mask_BT.sum(1, keepdim=True)
    return _in_order(inputs, mask_BT, count_B1 - 1 - _places(mask_BT), time_dim)


def swap_halves(inputs: Tensor, mask_BT: Tensor, time_dim: int) -> Tensor:
    """`inputs` (B, ..., T at `time_dim`, ...) with the second half of each clip's frames before the first one.

    The middle one of an odd number of frames belongs to the second half; padding stays behind them.
    """
    count_B1 = mask_BT.sum(1, keepdim=True)
    return _in_order(inputs, mask_BT, (_places(mask_BT) + count_B1 // 2) % count_B1.clamp(min=1), time_dim)


def _places(mask_BT: Tensor) -> Tensor:
    return torch.arange(mask_BT.shape[1], device=mask_BT.device).expand_as(mask_BT)


def _in_order(inputs: Tensor, mask_BT: Tensor, source_BT: Tensor, time_dim: int) -> Tensor:
    """`inputs` with frame `source_BT` at each place that is no padding."""
    source_BT = torch.where(mask_BT, source_BT, _places(mask_BT))
    shape = [1] * inputs.dim()
    shape[0], shape[time_dim] = source_BT.shape
    return inputs.gather(time_dim, source_BT.reshape(shape).expand_as(inputs))
