"""open_clip models: by name and tag, from a hub, from a folder; what cannot be had is said in one sentence."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import urllib.parse
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone, Preprocess
from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig
from m2raap.models.foreign_code import no_foreign_code
from m2raap.models.open_clip_config import CONFIG_NAME, read_model_config
from m2raap.models.preprocess_values import to_preprocess
from m2raap.models.text import OpenClipText
from m2raap.models.vision_open_clip import open_clip_tower


def load(cfg: BackboneConfig) -> Backbone:
    """An open_clip model in eval mode and fp32. Raises M2raapError with one sentence."""
    import open_clip

    name = cfg.model
    if name.startswith("builtin:"):
        if name not in BUILTIN:
            raise M2raapError(f"unknown backbone '{name}'; in the package: {', '.join(BUILTIN)}")
        name = f"local-dir:{BUILTIN[name]}"
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / CONFIG_NAME).is_file():
            raise M2raapError(f"backbone '{cfg.model}': {folder} holds no {CONFIG_NAME} (open_clip's local-dir form)")
    elif not name.startswith("hf-hub:"):
        _check_name(open_clip, cfg)
    quick_gelu = False
    if cfg.pretrained and not Path(cfg.pretrained).is_file():
        # open_clip only warns when a tag was trained with another GELU than the name says; the tag is right.
        tag = open_clip.get_pretrained_cfg(name, cfg.pretrained) or {}
        quick_gelu = bool(tag.get("quick_gelu", False))
    if not cfg.random_init:
        return _make(name, cfg.pretrained, load_weights=True, quick_gelu=quick_gelu, display_name=cfg.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.random_seed)
        return _make(name, None, load_weights=False, quick_gelu=False, display_name=cfg.model)


def _check_name(open_clip: Any, cfg: BackboneConfig) -> None:
    import difflib

    names = open_clip.list_models()
    if cfg.model not in names:
        near = difflib.get_close_matches(cfg.model, names, n=3, cutoff=0.4)
        raise M2raapError(
            f"backbone '{cfg.model}' is no open_clip model; near: {', '.join(near) or 'none'}; "
            "or give hf-hub:org/name, local-dir:/folder, builtin:tiny"
        )
    if not cfg.pretrained and not cfg.random_init:
        raise M2raapError(
            f"backbone '{cfg.model}' needs weights: set pretrained to a tag or a .pt / .safetensors file, "
            "or random_init: true if you want none"
        )
    tags = open_clip.list_pretrained_tags_by_model(cfg.model)
    if cfg.pretrained and cfg.pretrained not in tags and not Path(cfg.pretrained).is_file():
        raise M2raapError(
            f"backbone '{cfg.model}': pretrained '{cfg.pretrained}' is neither a file nor a tag; "
            f"tags: {', '.join(tags) or 'none'}"
        )


def _make(name: str, pretrained: str | None, load_weights: bool, quick_gelu: bool, display_name: str) -> Backbone:
    import open_clip
    from open_clip.transform import PreprocessCfg

    quiet, code = quiet_loggers("root", "huggingface_hub"), no_foreign_code(f"backbone '{display_name}'")
    try:
        with warnings.catch_warnings(), quiet, no_waiting_for_a_hub(name), code:
            warnings.simplefilter("ignore")
            model_cfg = read_model_config(name)
            clip = open_clip.create_model(
                name,
                pretrained,
                load_weights=load_weights,
                require_pretrained=load_weights,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                weights_only=True,
            )
            # open_clip's own tokenizer knows no such argument
            trust: dict[str, Any] = (
                {"trust_remote_code": False} if model_cfg["text_cfg"].get("hf_tokenizer_name") else {}
            )
            tokenizer = open_clip.get_tokenizer(name, **trust)
    except M2raapError:
        raise
    except Exception as error:  # the hub clients raise a dozen unrelated types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise M2raapError(
            f"backbone '{display_name}'{f' ({pretrained})' if pretrained else ''} cannot be loaded ({reason}). "
            "If this machine reaches no model hub, copy the weights here and give a folder (model: local-dir:/folder) "
            "or a file (pretrained: /file.safetensors or .pt)."
        ) from error
    if quick_gelu:
        model_cfg["quick_gelu"] = True
    visual: Any = clip.visual
    preprocess_cfg: dict[str, Any] = {**asdict(PreprocessCfg()), **visual.preprocess_cfg}
    description = json.loads(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}))
    clip = clip.float().eval()
    return Backbone(
        clip,
        open_clip_tower(clip, int(model_cfg["embed_dim"])),
        OpenClipText(clip, tokenizer),
        _preprocess(display_name, preprocess_cfg),
        description,
        lambda folder: _write(description, folder),
    )


def _preprocess(display_name: str, preprocess_cfg: dict[str, Any]) -> Preprocess:
    size = preprocess_cfg["size"]
    sides = [size, size] if isinstance(size, int) else list(size)
    if sides[0] != sides[1]:
        raise M2raapError(
            f"this open_clip model wants images of {sides[0]} x {sides[1]}; only square ones are supported"
        )
    return to_preprocess(f"backbone '{display_name}', preprocess_cfg", preprocess_cfg | {"image_size": sides[0]})


def _write(description: dict[str, Any], folder: Path) -> None:
    text = json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def from_description(folder: Path) -> Backbone:
    """An untrained model of the shape of a folder that a Backbone has written."""
    return _make(f"local-dir:{folder}", None, load_weights=False, quick_gelu=False, display_name=str(folder))


@contextlib.contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """open_clip and the hub client log what we raise as errors, retries and all."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def from_cache_alone(named_by: str) -> Iterator[None]:
    """Inside, no hub is asked: what a folder names, and nobody asked for, is taken from this machine or not at all.

    `named_by`: the sentence about who names it, added to the M2raapError where it cannot be had.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    except M2raapError as error:
        raise M2raapError(f"{error} {named_by}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def no_waiting_for_a_hub(name: str) -> Iterator[None]:
    """Without a route to the hub its client retries for a minute a file: look once, then let it use only its cache.

    A local-dir is never looked up anywhere.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    if name.startswith("local-dir:"):
        constants.HF_HUB_OFFLINE = True
    elif not before and not proxied:
        url = urllib.parse.urlsplit(constants.ENDPOINT)
        try:
            socket.create_connection((url.hostname or "", url.port or 443), timeout=5).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
