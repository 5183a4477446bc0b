"""The families of image-text models that can be loaded; each has its own file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.core.extension import beside, create, is_extension, refuse_changed, source_digest
from m2raap.models.backbone import FAMILY_NAME, Backbone
from m2raap.models.config import BackboneConfig
from m2raap.models.weights_file import check_finite

LARGEST_LOGIT_SCALE = 10.0  # a factor of 22,026; published models have factors of about 100


def load_backbone(cfg: BackboneConfig) -> Backbone:
    """The backbone in eval mode and fp32 on the CPU.

    Raises M2raapError where the model is unknown or cannot be loaded, and where its weights are no weights.
    """
    if is_extension(cfg.family):
        backbone = _of_extension(create(cfg.family, "backbone.family", _BACKBONE, cfg), cfg.family)
    elif cfg.family not in BACKBONES:
        raise M2raapError(f"backbone.family '{cfg.family}' is unknown; known: {', '.join(BACKBONES)}")
    else:
        backbone = BACKBONES[cfg.family](cfg)
    subject = (
        f"backbone '{cfg.model}'{f' ({cfg.pretrained})' if cfg.pretrained else ''} of backbone.family {cfg.family}"
    )
    check_finite(subject, backbone.clip, "take the file of another step, or another model")
    if (scale := float(backbone.logit_scale.detach())) > LARGEST_LOGIT_SCALE:
        raise M2raapError(
            f"{subject}: its logit_scale is {scale:g}. It has to be the logarithm of the factor, which is 4.6 for a factor of "
            "100; if the file holds the factor itself, save its logarithm in its place"
        )
    return backbone


def backbone_from_description(folder: Path) -> Backbone:
    """An untrained backbone of the shape written by `write_description`; the caller fills in the weights.

    Raises M2raapError where the folder does not describe one.
    """
    if (folder / FAMILY_NAME).is_file():
        return _from_extension(folder)
    return _from_description(folder)


def _from_description(folder: Path) -> Backbone:
    from m2raap.models import open_clip_load, transformers_load

    if (folder / open_clip_load.CONFIG_NAME).is_file():
        return open_clip_load.from_description(folder)
    if not (folder / "config.json").is_file():  # without it transformers would look for a model of this name on the hub
        raise M2raapError(
            f"{folder}: holds no {open_clip_load.CONFIG_NAME} and no config.json: the model folder is incomplete; copy it "
            "again"
        )
    return transformers_load.from_description(folder)


_BACKBONE = ("clip", "vision", "text", "preprocess", "description", "write_description")


def _of_extension(backbone: Backbone, family: str) -> Backbone:
    backbone.code = {family: source_digest(family, "backbone.family")}
    return backbone.float().eval()


def _from_extension(folder: Path) -> Backbone:
    """As `backbone_from_description`, by the `from_description` of the family's module; without one the package reads it.

    Raises M2raapError where the code is another than the one that the model was made with.
    """
    path = folder / FAMILY_NAME
    try:
        ((family, digest),) = json.loads(path.read_text(encoding="utf-8")).items()
    except (ValueError, AttributeError, OSError):
        raise M2raapError(f"{path}: is not as m2raap writes it; copy the model again") from None
    if not is_extension(family):
        raise M2raapError(f"{path}: names no family of the form python:module:function; copy the model again")
    refuse_changed({family: digest}, f"{path}: backbone.family")
    read = beside(family, str(path), "from_description", _from_description)
    return _of_extension(read(folder), family)


def _open_clip(cfg: BackboneConfig) -> Backbone:
    from m2raap.models.open_clip_load import load

    return load(cfg)


def _transformers(cfg: BackboneConfig) -> Backbone:
    from m2raap.models.transformers_load import load

    return load(cfg)


# To add a family: a function from BackboneConfig to Backbone.
BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {"open_clip": _open_clip, "transformers": _transformers}
