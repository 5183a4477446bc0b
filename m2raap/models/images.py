"""From encoded pictures to the tensor that a backbone takes: open_clip's inference transform, without torchvision.

In training a part of the picture, drawn at random, can take the place of the resize and the centre crop.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2raap.core.errors import M2raapError

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2raap.models.backbone import Preprocess

Crop = Callable[[int, int], tuple[int, int, int, int]]  # (width, height) -> left, top, right, bottom of the kept part
ELONGATED = 32  # ratio of the sides that no film exceeds


def images_from_jpegs(jpegs: Sequence[bytes], preprocess: Preprocess, crop: Crop | None = None) -> Tensor:
    """JPEG (or PNG) bytes -> (N, 3, S, S) float32. Raises M2raapError with the position of one that cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    pictures = []
    for place, data in enumerate(jpegs):
        try:
            pictures.append(Image.open(io.BytesIO(data), formats=("JPEG", "PNG")).convert("RGB"))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise M2raapError(f"picture {place} of {len(jpegs)} cannot be decoded as JPEG or PNG: {error}") from None
    return images_from_pictures(pictures, preprocess, crop)


def images_from_pictures(pictures: Sequence[Image], preprocess: Preprocess, crop: Crop | None = None) -> Tensor:
    """RGB Pillow pictures -> (N, 3, S, S) float32: resize the short side to S, centre crop, normalise.

    With `crop` the part of the picture that it names is resized to S x S instead.
    """
    import numpy as np
    from PIL import Image

    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    size = preprocess.image_size
    if preprocess.resize_mode not in ("shortest", "squash"):
        raise M2raapError(f"resize_mode '{preprocess.resize_mode}' of the backbone is unknown; known: shortest, squash")
    pixels = np.empty((len(pictures), size, size, 3), np.uint8)
    for place, picture in enumerate(pictures):
        width, height = picture.size
        if crop is not None:
            box = crop(width, height)
            pixels[place] = np.asarray(picture.resize((size, size), filters[preprocess.interpolation], box))
            continue
        if preprocess.resize_mode == "squash":
            target = (size, size)
        elif width <= height:
            target = (size, int(size * height / width))
        else:
            target = (int(size * width / height), size)
        # Rounds half to even, as torchvision's CenterCrop does.
        left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
        if max(target) > ELONGATED * size:
            # Only the part that is kept is scaled: the whole of 1 x 1,000,000 pixels would become gigabytes.
            x, y = width / target[0], height / target[1]
            box = (left * x, top * y, (left + size) * x, (top + size) * y)
            pixels[place] = np.asarray(picture.resize((size, size), filters[preprocess.interpolation], box))
            continue
        if target != picture.size:
            picture = picture.resize(target, filters[preprocess.interpolation])
        pixels[place] = np.asarray(picture.crop((left, top, left + size, top + size)))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    return images.sub_(mean[:, None, None]).div_(std[:, None, None])
