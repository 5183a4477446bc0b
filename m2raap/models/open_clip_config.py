"""Checks an open_clip configuration: keys that open_clip's classes take, values of their types, no path to other folders.

It comes from an untrusted folder or hub, and open_clip passes parts of it on, unchecked, to timm and transformers.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json

CONFIG_NAME = "open_clip_config.json"
NEEDED = ("embed_dim", "vision_cfg", "text_cfg")
# Arguments of open_clip's two tokenizers. HFTokenizer passes every other key on to transformers (trust_remote_code is
# one), and bpe_path opens any file. A reduction mask is for training: it draws words at random, so that a text would have
# another vector each time, and 'syntax' downloads data.
TOKENIZER_KINDS = {
    "clean": Literal["canonicalize", "lower", "whitespace"],
    "strip_sep_token": bool,
    "language": str,
    "reduction_mask": Literal[""],
    "additional_special_tokens": list[str],
}
# Smallest values with which a tower gives features; a text needs its start and end token and one word between them.
LEAST = {
    "embed_dim": 1, "layers": 1, "width": 1, "head_width": 1, "heads": 1, "image_size": 1, "patch_size": 1, "vocab_size": 1,
    "context_length": 3,
}  # fmt: skip
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_WORDS = {
    int: "a whole number from 0",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    dict: "an object",
}


def read_model_config(name: str) -> dict[str, Any]:
    """The checked `model_cfg` of 'local-dir:/folder', 'hf-hub:org/name' or one of open_clip's own names.

    Raises M2raapError naming file and key that cannot be used. The errors of the hub client pass.
    """
    from open_clip.factory import _get_hf_config, get_model_config

    if name.startswith("local-dir:"):
        path = Path(name.removeprefix("local-dir:")) / CONFIG_NAME
        return _model_config(str(path), read_json(path), path.parent)
    if name.startswith("hf-hub:"):
        where = f"{name}, {CONFIG_NAME}"
        return _model_config(where, _get_hf_config(name.removeprefix("hf-hub:")), None)
    return _model_config(name, {"model_cfg": get_model_config(name)}, None)


def _model_config(where: str, tree: Any, folder: Path | None) -> dict[str, Any]:
    """`tree["model_cfg"]`, checked. `folder`: the model's own folder, which holds the tokenizer."""
    model_cfg = tree.get("model_cfg") if isinstance(tree, dict) else None
    if not isinstance(model_cfg, dict) or not isinstance(tree.get("preprocess_cfg") or {}, dict):
        raise M2raapError(
            f"{where}: has to be a JSON object that contains the object model_cfg and, optionally, the object preprocess_cfg; "
            "give a model in open_clip's form"
        )
    lacking = [key for key in NEEDED if model_cfg.get(key) is None]
    if lacking:
        raise M2raapError(f"{where}: model_cfg lacks {', '.join(lacking)}; give a model in open_clip's form")
    _check_keys(where, "model_cfg", model_cfg, _model_kinds())
    text_cfg, vision_cfg = model_cfg["text_cfg"], model_cfg["vision_cfg"]
    if text_cfg.get("pool_type") == "none":
        raise M2raapError(
            f"{where}: with model_cfg.text_cfg.pool_type 'none' a text has no vector of its own; take another model"
        )
    patch, size = vision_cfg.get("patch_size") or 1, vision_cfg.get("image_size") or 224
    if not vision_cfg.get("timm_model_name") and patch > (min(size) if isinstance(size, list) else size):
        raise M2raapError(
            f"{where}: model_cfg.vision_cfg.patch_size {patch} is larger than image_size {size}; correct it, or take "
            "another model"
        )
    if folder and text_cfg.get("hf_tokenizer_name") == str(folder.resolve()):
        text_cfg["hf_tokenizer_name"] = "."  # the folder itself, wherever it is moved to
    _check_names(where, model_cfg, tokenizer_inside=folder is not None)
    return model_cfg


def _model_kinds() -> dict[str, Any]:
    """Key of a model_cfg -> type, as open_clip's three classes declare it; custom_text chooses one of them."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    kinds: dict[str, Any] = {"custom_text": bool}
    for owner in (CoCa, CustomTextCLIP, CLIP):
        kinds |= get_type_hints(owner.__init__)
    kinds.pop("cast_dtype")  # no JSON value: open_clip sets it
    kinds.pop("return", None)
    return kinds


def _check_keys(where: str, parent: str, settings: Any, kinds: Mapping[str, Any]) -> None:
    if not isinstance(settings, dict):
        raise M2raapError(f"{where}: {parent} has to be an object; correct it, or take another model")
    for name, value in settings.items():
        key = f"{parent}.{name}"
        if name not in kinds:
            raise M2raapError(
                f"{where}: {key} is no key that m2raap passes on to open_clip (known: {', '.join(kinds)}); remove it from the "
                "file, or take another model"
            )
        if is_dataclass(kinds[name]):
            _check_keys(where, key, value, get_type_hints(kinds[name]))
        elif name == "tokenizer_kwargs":
            _check_keys(where, key, value, TOKENIZER_KINDS)
        # null is allowed for every key: open_clip's own files have it where its annotations do not (patch_size, timm_proj)
        elif value is not None and not _fits(value, kinds[name]):
            raise M2raapError(
                f"{where}: {key} has to be {_in_words(kinds[name])}, not {str(value)[:60]}; correct it, or take another model"
            )
        for number in value if isinstance(value, list) else [value]:
            if name in LEAST and isinstance(number, int) and number < LEAST[name]:
                raise M2raapError(
                    f"{where}: {key} is {number} and has to be {LEAST[name]} or more; correct it, or take another model"
                )


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits, value, inner))
    if kind is dict:  # keyword arguments of a norm or an activation
        return isinstance(value, dict) and all(
            item is None or _fits(item, float | bool | str) for item in value.values()
        )
    if kind in (int, float):
        # A larger or negative number of layers, pixels or tokens describes no model.
        whole = isinstance(value, int) and not isinstance(value, bool) and (kind is float or 0 <= value < 1 << 31)
        return whole or (kind is float and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """The type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(option) for option in inner if option is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is tuple:
        return f"a list of {len(inner)}"
    return "a list of strings" if origin is list else _WORDS.get(kind, str(kind))


def _check_names(where: str, model_cfg: dict[str, Any], tokenizer_inside: bool) -> None:
    """A name that timm or transformers looks up has to be one that they know or one on the hub, no folder or address."""
    import timm

    trunk = model_cfg["vision_cfg"].get("timm_model_name")
    if trunk and not timm.is_model(trunk):  # 'local-dir:', 'hf-hub:' and paths are none
        raise M2raapError(
            f"{where}: model_cfg.vision_cfg.timm_model_name '{trunk[:60]}' is no model of the installed timm, and m2raap "
            "reads no other from a configuration; take another model"
        )
    for part in ("text_cfg", "multimodal_cfg"):
        for key in ("hf_model_name", "hf_tokenizer_name"):
            name = model_cfg.get(part, {}).get(key)
            ignored = key == "hf_tokenizer_name" and tokenizer_inside
            if not name or (ignored and name == "."):
                continue
            if not HUB_NAME.fullmatch(name) or ".." in name or (Path(name).exists() and not ignored):
                raise M2raapError(
                    f"{where}: model_cfg.{part}.{key} '{name[:60]}' has to be a name on the hub, and neither a folder "
                    "nor an address; take another model"
                )
