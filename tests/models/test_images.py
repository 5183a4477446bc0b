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


@pytest.mark.parametrize("size", [(30, 40 * 30), (40 * 30, 30), (100, 3300)])
def test_an_elongated_picture_is_scaled_where_it_is_kept(size: tuple[int, int], monkeypatch) -> None:
    y, x = np.mgrid[: size[1], : size[0]]
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], axis=-1)
    picture = Image.fromarray((127 + 120 * waves).astype(np.uint8))
    preprocess = Preprocess(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic", "shortest")
    actual = images_from_pictures([picture], preprocess)
    monkeypatch.setattr("m2raap.models.pictures.ELONGATED", 1000)
    torch.testing.assert_close(actual, images_from_pictures([picture], preprocess), atol=2.01 / 255, rtol=0)


def test_a_strip_takes_no_memory(monkeypatch) -> None:
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *more: sizes.append(size) or resize(self, size, *more)
    )
    preprocess = Preprocess(32, MEAN, STD, "bicubic", "shortest")
    assert images_from_pictures([Image.new("RGB", (1, 1_000_000))], preprocess).shape == (1, 3, 32, 32)
    assert sizes == [(32, 32)]
