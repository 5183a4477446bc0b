"""OpenCV's pixels against Pillow's: the same part of the picture, nearly the same values."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from m2raap.core.errors import M2raapError
from m2raap.models.pictures import Resize, pixels_from_jpegs


def jpeg(width: int, height: int, form: str = "JPEG") -> bytes:
    """A smooth picture with an edge, as films have."""
    x, y = np.meshgrid(np.linspace(0, 4, width), np.linspace(0, 3, height))
    rgb = np.stack([np.sin(x + y), np.cos(2 * x), np.sin(3 * y)], -1) * 100 + 128
    rgb[height // 3 :, width // 2 :] *= 0.6
    out = io.BytesIO()
    Image.fromarray(rgb.astype(np.uint8)).save(out, form, quality=95)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(455, 256), (256, 455), (224, 224), (1920, 1080), (900, 500), (100, 150)])
def test_fast_pixels_are_near_the_exact_ones(size: tuple[int, int], mode: str) -> None:
    resize, data = Resize(224, "bicubic", mode), [jpeg(*size), jpeg(*size, "PNG")]
    exact, fast = (pixels_from_jpegs(data, resize, fast=fast).astype(int) for fast in (False, True))
    assert fast.shape == exact.shape == (2, 224, 224, 3)
    assert np.abs(fast - exact).mean() < 1.5 and np.quantile(np.abs(fast - exact), 0.99) <= 12
    swapped = np.abs(fast[..., ::-1] - exact).mean()
    assert swapped > 20, "colours are in the right order"


def test_a_drawn_part_is_the_same_one() -> None:
    resize, data = Resize(64, "bilinear", "shortest"), [jpeg(320, 240)]
    crop = lambda width, height: (40, 60, 140, 160)  # noqa: E731
    exact, fast = (pixels_from_jpegs(data, resize, crop, fast).astype(int) for fast in (False, True))
    assert np.abs(fast - exact).mean() < 1.5
    out = np.zeros((1, 64, 64, 3), np.uint8)
    assert pixels_from_jpegs(data, resize, crop, True, out) is out and np.array_equal(out, fast)


def test_pictures_of_different_sizes_are_each_scaled_by_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = Resize(64, "bicubic", "shortest")
    data = [jpeg(455, 256), jpeg(455, 256), jpeg(320, 240), jpeg(1001, 701), jpeg(1001, 701), jpeg(64, 64)]
    alone = np.concatenate([pixels_from_jpegs([one], resize, fast=True) for one in data])
    assert np.array_equal(pixels_from_jpegs(data, resize, fast=True), alone)


@pytest.mark.parametrize("fast", [False, True])
def test_what_is_no_picture_is_named(fast: bool) -> None:
    good, resize = jpeg(60, 40), Resize(32, "bicubic", "shortest")
    for bad in (b"<html>", b"", good[:30], b"II*\0" + good):
        with pytest.raises(M2raapError, match="picture 1 of 2 cannot be decoded"):
            pixels_from_jpegs([good, bad], resize, fast=fast)
    with pytest.raises(M2raapError, match="resize_mode 'longest'"):
        pixels_from_jpegs([good], Resize(32, "bicubic", "longest"), fast=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_a_broken_png_and_one_of_16_bits_are_refused(fast: bool) -> None:
    buffers = []
    for pixels in (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint16)):
        buffers.append(io.BytesIO())
        Image.fromarray(pixels).save(buffers[-1], "PNG")
    whole = buffers[0].getvalue()
    broken = [whole[:11] + b"\5" + whole[12:], whole.replace(b"IDAT", b"\0\0\0\0"), whole[:14]]
    for bad in (*broken, buffers[1].getvalue()):
        with pytest.raises(M2raapError, match="picture 0 of 1 cannot be decoded"):
            pixels_from_jpegs([bad], Resize(8, "bicubic", "shortest"), fast=fast)
