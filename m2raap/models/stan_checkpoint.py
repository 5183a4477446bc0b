"""Reads checkpoints of farewellthree/STAN (@ c9dc7b6; STAN and Mug-STAN, whose Mug has no weights) into a VideoCLIP.

That code splits transformers' CLIP (mmaction/models/backbones/clip_stan_hf.py): `backbone.` holds the vision tower and
the branch (STAN_S_layers, STAN_T_layers, STAN_time_embed), `text_backbone.` the text tower. Its branch has no gate and it
pools raw frame vectors, so the imported model is `stan` with start open and pool raw. Every tensor is used: a key that is
missing or unknown is an error that names it.
"""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2raap.core.errors import M2raapError, listed
from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig, StanConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.models.vision_open_clip import OpenClipVit

TAU = 0.01  # temperature, fixed in the configs of that code
# (vision width, patch size in pixels) -> open_clip's name of OpenAI's CLIP, from which all released checkpoints start.
SHAPES = {(768, 32): "ViT-B-32-quickgelu", (768, 16): "ViT-B-16-quickgelu", (1024, 14): "ViT-L-14-quickgelu"}
_NO_WEIGHTS = (re.compile(r"(^|\.)position_ids$"), re.compile(r"^data_preprocessor\."))

_TOWERS = {
    "backbone.class_embedding": "backbone.clip.visual.class_embedding",
    "backbone.patch_embedding.weight": "backbone.clip.visual.conv1.weight",
    "backbone.position_embedding.weight": "backbone.clip.visual.positional_embedding",
    "backbone.STAN_time_embed.weight": "temporal.time",
    "text_backbone.text_model.embeddings.token_embedding.weight": "backbone.clip.token_embedding.weight",
    "text_backbone.text_model.embeddings.position_embedding.weight": "backbone.clip.positional_embedding",
}
_TRANSPOSED = {
    "backbone.visual_projection.weight": "backbone.clip.visual.proj",
    "text_backbone.text_projection.weight": "backbone.clip.text_projection",
}
_NORMS = {
    "backbone.pre_layrnorm": "backbone.clip.visual.ln_pre",
    "backbone.post_layernorm": "backbone.clip.visual.ln_post",
    "text_backbone.text_model.final_layer_norm": "backbone.clip.ln_final",
}
_LAYERS = {
    r"backbone\.layers\.(\d+)": "backbone.clip.visual.transformer.resblocks.{}",
    r"backbone\.STAN_S_layers\.(\d+)": "temporal.spatial.{}.block",
    r"text_backbone\.text_model\.encoder\.layers\.(\d+)": "backbone.clip.transformer.resblocks.{}",
}
_OF_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_OF_TIME = {"layer_norm1": "norm", "temporal_fc": "out", "self_attn.out_proj": "attn.out_proj"}


def import_stan_checkpoint(path: Path, backbone: BackboneConfig | None = None) -> tuple[VideoCLIP, BackboneConfig]:
    """The model of a checkpoint, and the backbone that it started from.

    `backbone` gives the shape where it is none of OpenAI's B/32, B/16, L/14 (its weights are not read). Raises M2raapError
    naming missing and unknown keys, or another reason why the file is not such a checkpoint.
    """
    tensors = read_tensors(path)
    layers = 1 + max(
        (int(m[1]) for m in map(re.compile(r"backbone\.STAN_S_layers\.(\d+)\.").match, tensors) if m), default=-1
    )
    if not layers:
        raise M2raapError(
            f"{path}: is no checkpoint of STAN or Mug-STAN, because it has no backbone.STAN_S_layers (first key: "
            f"{min(tensors, default='none')})"
        )
    start = backbone or _started_from(path, tensors)
    shape = load_backbone(start.model_copy(update={"pretrained": None, "random_init": True}))
    if not isinstance(shape.vision, OpenClipVit):
        raise M2raapError(
            f"{path}: STAN's checkpoints have CLIP's own vision transformer, and '{start.model}' has another: give --backbone"
        )
    model = VideoCLIP(shape, _config(path, tensors, layers, shape))
    model_state = model.state_dict()
    renamed, unknown = translated(tensors)
    renamed["backbone.clip.logit_scale"] = torch.tensor(math.log(1 / TAU)).reshape(
        model_state["backbone.clip.logit_scale"].shape
    )
    for name, value in model_state.items():  # buffers that the library computes itself
        if name not in dict(model.named_parameters()):
            renamed.setdefault(name, value)
    missing, foreign = sorted(set(model_state) - set(renamed)), sorted(set(renamed) - set(model_state))
    if missing or unknown or foreign:
        raise M2raapError(
            f"{path}: its keys are not those of farewellthree/STAN with {layers} branch layers on {start.model}: "
            f"missing {_first_four(missing)}; unknown {_first_four(unknown + foreign)}"
        )
    for name, value in renamed.items():
        if value.shape != model_state[name].shape:
            raise M2raapError(
                f"{path}: {name} is {tuple(value.shape)}, {start.model} has {tuple(model_state[name].shape)}: give --backbone"
            )
        if not bool(value.isfinite().all()) and name in dict(model.named_parameters()):
            raise M2raapError(f"{path}: {name} holds NaN or infinity: the checkpoint is damaged")
    model.load_state_dict(renamed, strict=True)
    return model, start


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, in fp32, read without running code in it. Raises M2raapError."""
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle's versions
            tree: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise M2raapError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        foreign_class = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise M2raapError(
            f"{path}: holds Python objects{f' ({foreign_class[1]})' if foreign_class else ''} besides tensors, which m2raap does "
            "not unpickle, because that can run code; save its state_dict alone by torch.save({'state_dict': ...}), in an "
            "environment where its code may run"
        ) from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
    ) as error:
        raise M2raapError(f"{path}: cannot be read as a checkpoint ({' '.join(str(error).split())[:120]})") from None
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise M2raapError(f"{path}: holds no state_dict of tensors")
    return {str(name).removeprefix("module."): value.float() for name, value in state.items()}


def translated(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the names of a VideoCLIP, and the names that it does not know."""
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    qkv: dict[str, dict[str, Tensor]] = {}  # name in a VideoCLIP -> q, k, v
    for name, value in sorted(tensors.items()):
        if any(pattern.search(name) for pattern in _NO_WEIGHTS):
            continue
        stem, _, kind = name.rpartition(".")
        if name in _TOWERS:
            renamed[_TOWERS[name]] = value
        elif name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = value.T.contiguous()
        elif stem in _NORMS:
            renamed[f"{_NORMS[stem]}.{kind}"] = value
        elif layer_part := _in_layer(stem):
            where, what = layer_part
            if what in ("q_proj", "k_proj", "v_proj"):
                qkv.setdefault(f"{where}.attn.in_proj_{kind}", {})[what] = value
            else:
                renamed[f"{where}.{what}.{kind}"] = value
        else:
            unknown.append(name)
    for name, parts in qkv.items():
        if set(parts) == {"q_proj", "k_proj", "v_proj"} and len({value.shape for value in parts.values()}) == 1:
            renamed[name] = torch.cat([parts[part] for part in ("q_proj", "k_proj", "v_proj")])
    return renamed, unknown


def _in_layer(stem: str) -> tuple[str, str] | None:
    """'backbone.layers.3.mlp.fc1' -> the name of the layer in a VideoCLIP, and that of the part in it."""
    for pattern, where in _LAYERS.items():
        if match := re.fullmatch(pattern + r"\.(.+)", stem):
            return _part(where.format(match[1]), match[2], _OF_LAYER)
    if match := re.fullmatch(r"backbone\.STAN_T_layers\.(\d+)\.(.+)", stem):
        return _part(f"temporal.temporal.{match[1]}", match[2], _OF_TIME)
    return None


def _part(where: str, part: str, names: dict[str, str]) -> tuple[str, str] | None:
    if match := re.fullmatch(r"self_attn\.([qkv]_proj)", part):
        return where, match[1]
    return (where, names[part]) if part in names else None


def _started_from(path: Path, tensors: dict[str, Tensor]) -> BackboneConfig:
    patches = tensors.get("backbone.patch_embedding.weight")
    if patches is None or patches.ndim != 4:
        raise M2raapError(f"{path}: missing backbone.patch_embedding.weight: the checkpoint is incomplete")
    shape = (patches.shape[0], patches.shape[-1])
    if shape not in SHAPES:
        raise M2raapError(
            f"{path}: width {shape[0]} and patch size {shape[1]} fit none of {', '.join(SHAPES.values())}: give --backbone"
        )
    return BackboneConfig(model=SHAPES[shape], pretrained="openai")


def _config(path: Path, tensors: dict[str, Tensor], layers: int, backbone: Backbone) -> StanConfig:
    if layers > backbone.num_layers:
        raise M2raapError(
            f"{path}: has {layers} branch layers, and its backbone only {backbone.num_layers} layers: give --backbone"
        )
    time = tensors.get("backbone.STAN_time_embed.weight")
    if time is not None and (time.ndim != 2 or len(time) < 2):
        raise M2raapError(f"{path}: backbone.STAN_time_embed.weight is {tuple(time.shape)}, not (frames, width)")
    max_frames = 64 if time is None else len(time)
    return StanConfig(layers=layers, max_frames=max_frames, drop_path=0.1, pool="raw", start="open")


def _first_four(names: list[str]) -> str:
    return listed(names, 4) or "nothing"
