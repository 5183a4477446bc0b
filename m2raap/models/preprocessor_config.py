"""The image preprocessing that transformers' preprocessor_config.json describes, as the same numbers or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Preprocess
from m2raap.models.preprocess_values import to_preprocess

# Pillow's numbers. Those that are not supported have their name in the message.
_INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def read_preprocessor_config(subject: str, settings: Mapping[str, Any], vision_config: Any) -> Preprocess:
    """From the settings of an image processor, with its defaults filled in, and the configuration of the vision tower.

    SigLIP2 NaFlex gives the number of patches in place of a size. Values of pixels that are not scaled by 1/255, or not
    normalised, become the mean and std that give the same. `subject` begins the message of the M2raapError that is raised
    for steps that give other images than a resize, a centre crop and a normalisation, or another size than the tower's.
    """
    where = f"{subject}, preprocessor_config.json"
    for key, needed in (("do_resize", True), ("do_pad", False)):
        if settings.get(key) not in (needed, None):
            raise _refused(where, key, settings[key], str(needed).lower())
    side, mode = _side(where, settings, vision_config)
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or not 0 < factor < 1e3:
        raise _refused(where, "rescale_factor", factor, "a positive number")
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not settings.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    # (factor x - mean) / std = (x / 255 - mean / scale) / (std / scale) for x in 0..255.
    scale = 255 * factor
    if abs(scale - 1) > 1e-6:
        mean, std = _divided(mean, scale), _divided(std, scale)
    number = settings.get("resample")
    interpolation = _INTERPOLATION.get(number, str(number)) if isinstance(number, int) else str(number)
    values = {"image_size": side, "mean": mean, "std": std, "resize_mode": mode, "interpolation": interpolation}
    return to_preprocess(where, values)


def _divided(values: Any, scale: float) -> Any:
    """A list of numbers divided by `scale`; anything else as it is, for the check of values to refuse."""
    if isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values):
        return [value / scale for value in values]
    return values


def _side(where: str, settings: Mapping[str, Any], vision_config: Any) -> tuple[int, str]:
    """The side of the square images in pixels, and how they are resized."""
    if "max_num_patches" in settings:
        return round(vision_config.num_patches**0.5) * vision_config.patch_size, "squash"
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    crops = bool(settings.get("do_center_crop", False))
    crop_sides = (crop.get("height"), crop.get("width"))
    if "shortest_edge" in size:
        side, mode = size["shortest_edge"], "shortest"
        if not crops:
            raise _refused(
                where, "do_center_crop", False, "true where size is the shortest edge, or images are not square"
            )
        cropped = crop_sides != (side, side)
    else:
        side, mode = size.get("height"), "squash"
        if side is None or side != size.get("width"):
            raise _refused(where, "size", dict(size), "a shortest edge, or an equal height and width")
        # A larger crop is the default of transformers beside a small size: it would add a border, and crops nothing.
        cropped = crops and any(isinstance(value, int) and value < side for value in crop_sides)
    if cropped:
        raise _refused(where, "crop_size", dict(crop), f"that of size ({side} x {side})")
    needed = getattr(vision_config, "image_size", side)  # SigLIP2 NaFlex takes any
    if side != needed:
        raise _refused(where, "size", side, f"{needed}, the pixels of a side that the vision tower takes")
    return side, mode


def _refused(where: str, key: str, value: Any, requirement: str) -> M2raapError:
    return M2raapError(
        f"{where}: {key} is {str(value)[:60]} and has to be {requirement}, or images would be other than those that the model "
        "learnt from; correct it, or take another model"
    )
