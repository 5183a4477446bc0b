import io

import numpy as np
import pytest
import torch
from PIL import Image

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Preprocess
from m2raap.models.images import images_from_jpegs, images_from_pictures

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.27, 0.28)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(96, 96), (455, 256), (256, 455), (100, 37), (65, 64), (40, 30)])
def test_equals_open_clips_transform(mode: str, interpolation: str, size: tuple[int, int]) -> None:
    from open_clip.transform import image_transform

    theirs = image_transform(64, False, MEAN, STD, resize_mode=mode, interpolation=interpolation)
    pixels = np.random.default_rng([*size]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    ours = images_from_pictures([picture, picture], Preprocess(64, MEAN, STD, interpolation, mode))
    assert ours.shape == (2, 3, 64, 64)
    torch.testing.assert_close(ours[1], theirs(picture), atol=1e-6, rtol=0)  # type: ignore[operator]


def test_a_broken_picture_is_named() -> None:
    good = io.BytesIO()
    Image.new("RGB", (40, 40)).save(good, "JPEG")
    preprocess = Preprocess(32, MEAN, STD, "bicubic", "shortest")
    with pytest.raises(M2raapError, match="picture 1 of 2"):
        images_from_jpegs([good.getvalue(), b"<html>"], preprocess)
    with pytest.raises(M2raapError, match="picture 0 of 1"):
        images_from_jpegs([good.getvalue()[:200]], preprocess)
