"""From encoded pictures to the pixels that a backbone takes: resize and centre crop, without torch.

Exact: Pillow's arithmetic, which is that of open_clip's inference transform without torchvision. Fast: OpenCV decodes at the
smallest scale of the JPEG that suffices, cuts out what is kept, and resizes only that. In training a part of the picture,
drawn at random, can take the place of the resize and the centre crop. N pictures, S side of the result in pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from m2raap.core.errors import M2raapError

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Crop = Callable[[int, int], Box]  # (width, height) -> the kept part
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG: OpenCV opens many formats
_MOST_PIXELS = 178_956_970  # as many as Pillow decodes
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of more than 8 bits, which it would cut off
ELONGATED = 32  # ratio of the sides that no film exceeds


class Resize(NamedTuple):
    """To which pictures are brought: `size` pixels a side, by an `interpolation` (bicubic or bilinear) and a `mode`.

    Mode shortest: the short side becomes `size`, and the middle is kept; squash: both sides become `size`.
    """

    size: int
    interpolation: str
    mode: str


def pixels_from_jpegs(
    jpegs: Sequence[bytes],
    resize: Resize,
    crop: Crop | None = None,
    fast: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """JPEG (or PNG) bytes -> (N, S, S, 3) uint8, written into `out` where that is given.

    Raises M2raapError with the position of one that cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    _refuse_unknown(resize.mode)
    pixels = np.empty((len(jpegs), resize.size, resize.size, 3), np.uint8) if out is None else out
    pictures, size = [], (0, 0)
    for place, data in enumerate(jpegs):
        try:
            # The frames of a clip have one size: OpenCV is told that of the first, and says where another has a different one.
            if fast and place and _decode_fast(data, size, resize, crop, pixels[place]):
                continue
            picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))  # reads the header alone
            if picture.mode in _DEEP:
                raise OSError(f"it has {picture.mode} samples, and only 8 bits are read")
            if not fast:
                pictures.append(picture.convert("RGB"))
                continue
            size = picture.size
            _decode_fast(data, size, resize, crop, pixels[place])
        # SyntaxError and ValueError: what Pillow raises for a broken PNG.
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            why = "it is another kind of file" if isinstance(error, UnidentifiedImageError) else error
            raise M2raapError(f"picture {place} of {len(jpegs)} cannot be decoded as JPEG or PNG: {why}") from None
    return pixels if fast else pixels_from_pictures(pictures, resize, crop, pixels)


def pixels_from_pictures(
    pictures: Sequence[Image], resize: Resize, crop: Crop | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """RGB Pillow pictures -> (N, S, S, 3) uint8: resize the short side to S, centre crop.

    With `crop` the part of the picture that it names is resized to S x S instead. Written into `out` where that is given.
    """
    from PIL import Image

    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    size = resize.size
    _refuse_unknown(resize.mode)
    pixels = np.empty((len(pictures), size, size, 3), np.uint8) if out is None else out
    for place, picture in enumerate(pictures):
        width, height = picture.size
        if crop is not None:
            box = crop(width, height)
            pixels[place] = np.asarray(picture.resize((size, size), filters[resize.interpolation], box))
            continue
        if resize.mode == "squash":
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
            pixels[place] = np.asarray(picture.resize((size, size), filters[resize.interpolation], box))
            continue
        if target != picture.size:
            picture = picture.resize(target, filters[resize.interpolation])
        pixels[place] = np.asarray(picture.crop((left, top, left + size, top + size)))
    return pixels


def _refuse_unknown(mode: str) -> None:
    if mode not in ("shortest", "squash"):
        raise M2raapError(f"resize_mode '{mode}' of the backbone is unknown; known: shortest, squash")


def _decode_fast(
    data: bytes, full_size: tuple[int, int], resize: Resize, crop: Crop | None, out_HWC: np.ndarray
) -> bool:
    """Writes (S, S, 3) uint8 of one picture of `full_size` (width, height); False where it is of another size.

    Raises OSError where it cannot be decoded.
    """
    if not data.startswith(_SIGNATURES):
        return False
    cv2 = _opencv()
    left, top, right, bottom = _kept(*full_size, resize, crop)
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size for a fraction of the time.
    shrink = next((n for n in (8, 4, 2) if min(right - left, bottom - top) >= n * resize.size), 1)
    whole = cv2.IMREAD_COLOR_RGB if shrink == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{shrink}")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), whole | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise OSError(str(error)) from None
    if picture is None:
        raise OSError("OpenCV cannot decode it")
    if any(abs(side * shrink - full) >= shrink for side, full in zip(picture.shape[1::-1], full_size, strict=True)):
        return False
    x, y = picture.shape[1] / full_size[0], picture.shape[0] / full_size[1]
    part = picture[round(top * y) : round(bottom * y), round(left * x) : round(right * x)]
    scale = min(part.shape[:2]) / resize.size
    how = cv2.INTER_AREA if scale > 1.5 else cv2.INTER_CUBIC if resize.interpolation == "bicubic" else cv2.INTER_LINEAR
    cv2.resize(part, (resize.size, resize.size), dst=out_HWC, interpolation=how)
    if shrink > 1:  # for these flags OpenCV has no order of colours but its own
        cv2.cvtColor(out_HWC, cv2.COLOR_BGR2RGB, dst=out_HWC)
    return True


def _kept(width: int, height: int, resize: Resize, crop: Crop | None) -> Box:
    """The part of a picture that is resized: that of `crop`, all for mode squash, else the largest square in the middle."""
    if crop is not None:
        return crop(width, height)
    if resize.mode == "squash":
        return 0, 0, width, height
    side = min(width, height)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return left, top, left + side, top + side


@cache
def _opencv() -> Any:
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(_MOST_PIXELS))  # read when the library is loaded
    import cv2

    cv2.setNumThreads(1)  # the callers are many threads or processes
    return cv2
