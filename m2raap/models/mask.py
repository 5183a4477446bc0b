"""Masks of frames whose content is known on the CPU, so that nobody has to wait for the device to ask what is in them.

B clips, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FULL = "m2raap_is_full"  # an attribute of a mask on a device


def on_device(mask_BT: Tensor, device: torch.device | str) -> Tensor:
    """The mask on a device, with a note whether it hides nothing."""
    moved = mask_BT.to(device, non_blocking=True)
    setattr(moved, _FULL, bool(mask_BT.all()))
    return moved


def is_full(mask_BT: Tensor) -> bool:
    """Whether no frame is padding. It waits for the device where the mask does not come from `on_device`."""
    known = getattr(mask_BT, _FULL, None)
    return bool(mask_BT.all()) if known is None else known


def has_frames(mask_BT: Tensor) -> bool:
    """Whether every clip has a frame; taken for granted where the mask is on another device than the CPU."""
    return mask_BT.device.type != "cpu" or bool(mask_BT.any(1).all())
