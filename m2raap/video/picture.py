"""One encoded picture of a stranger's to RGB pixels: the work of the decoder's process for a picture given as a query."""

from __future__ import annotations

import io
from dataclasses import dataclass

from m2raap.video.limits import Refused

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class DecodedPicture:
    width: int
    height: int
    pixels: bytes  # RGB, row by row


def decode_picture(data: bytes) -> DecodedPicture:
    """The picture as RGB, rotated by its EXIF orientation, on white where it is transparent.

    Raises Refused: `corrupt` for bytes that are no picture, `too_large` for over MAX_PIXELS, which the header states.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:  # before anything is decoded
                raise Refused("too_large", f"{opened.width} x {opened.height} pixels; give at most {MAX_PIXELS:,}")
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # grey of 16 bit, which Pillow would clip instead of scaling
                picture = picture.convert("I").point(lambda value: value / 256).convert("L")
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            picture = picture.convert("RGB")
            return DecodedPicture(picture.width, picture.height, picture.tobytes())
    except UnidentifiedImageError:  # the text of this error contains a memory address
        raise Refused("corrupt", f"cannot be read as {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused("corrupt", f"cannot be read as {', '.join(FORMATS)} ({error})") from None
