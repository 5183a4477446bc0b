"""From encoded pictures to the tensor that a backbone takes: open_clip's inference transform, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2raap.models.pictures import Crop, pixels_from_jpegs, pixels_from_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2raap.models.backbone import Preprocess


def images_from_jpegs(jpegs: Sequence[bytes], preprocess: Preprocess, crop: Crop | None = None) -> Tensor:
    """JPEG (or PNG) bytes -> (N, 3, S, S) float32. Raises M2raapError with the position of one that cannot be decoded."""
    return normalised(torch.from_numpy(pixels_from_jpegs(jpegs, preprocess.resize, crop)), preprocess)


def images_from_pictures(pictures: Sequence[Image], preprocess: Preprocess, crop: Crop | None = None) -> Tensor:
    """RGB Pillow pictures -> (N, 3, S, S) float32, as `pixels_from_pictures`."""
    return normalised(torch.from_numpy(pixels_from_pictures(pictures, preprocess.resize, crop)), preprocess)


def normalised(pixels_NHWC: Tensor, preprocess: Preprocess) -> Tensor:
    """Pixels (N, S, S, 3) in uint8 -> (N, 3, S, S) float32 on the same device: scaled to 0..1, less the mean, by the std."""
    images = pixels_NHWC.permute(0, 3, 1, 2).contiguous().float().div_(255)
    mean, std = (torch.tensor(values, device=images.device) for values in (preprocess.mean, preprocess.std))
    return images.sub_(mean[:, None, None]).div_(std[:, None, None])
