"""Checks the image preprocessing that a model's files describe: with impossible values all vectors would be useless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Preprocess

# For pixels 0..1; beyond these limits, as with values for 0..255, pictures become equal.
LEAST_STD, LARGEST = 1e-3, 10.0
KNOWN = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "squash")}


def to_preprocess(where: str, settings: Mapping[str, Any]) -> Preprocess:
    """From the keys image_size (pixels), mean, std (three numbers each, of pixels 0..1), interpolation, resize_mode.

    Raises M2raapError naming `where`, the key and what it has to be.
    """
    size = settings.get("image_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise _refused(where, "the image size", size, "a whole number of pixels, 1 or more")
    for key, least in (("mean", -LARGEST), ("std", LEAST_STD)):
        if not _are_numbers(settings.get(key), least):
            raise _refused(where, key, settings.get(key), f"three numbers from {least:g} to {LARGEST:g}")
    for key, known in KNOWN.items():
        if settings.get(key) not in known:
            raise _refused(where, key, settings.get(key), f"one of {', '.join(known)}")
    return Preprocess(
        size, tuple(settings["mean"]), tuple(settings["std"]), settings["interpolation"], settings["resize_mode"]
    )


def _are_numbers(values: Any, least: float) -> bool:
    """Whether `values` is a list of three numbers from `least` to LARGEST. NaN is refused."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return False
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == 3 and all(least <= value <= LARGEST for value in numbers)


def _refused(where: str, key: str, value: Any, requirement: str) -> M2raapError:
    return M2raapError(
        f"{where}: {key} of the image preprocessing is {str(value)[:60]} and has to be {requirement}; correct it, or take "
        "another model"
    )
