"""open_clip models: by name and tag, from a hub, from a folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from m2raap.core.config import canonical, suggestion
from m2raap.core.errors import M2raapError
from m2raap.core.talk import log
from m2raap.models.backbone import Backbone, Preprocess
from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig
from m2raap.models.hub import loading
from m2raap.models.open_clip_config import CONFIG_NAME, read_model_config
from m2raap.models.pooled_place import check_pooled_place
from m2raap.models.preprocess_values import to_preprocess
from m2raap.models.pretrained_file import ReadWeights, check_fitted, is_openai_dict, weights_as_read
from m2raap.models.text import OpenClipText
from m2raap.models.vision_open_clip import open_clip_tower

# Names that open_clip looks for before it takes the first file of weights in a folder (open_clip.factory).
PREFERRED = frozenset({
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
})  # fmt: skip


def load(cfg: BackboneConfig) -> Backbone:
    """An open_clip model in eval mode and fp32. Raises M2raapError where it is unknown or cannot be loaded."""
    import open_clip

    name = cfg.model
    if name.startswith("builtin:"):
        if name not in BUILTIN:
            raise M2raapError(f"backbone.model '{name}' is unknown; the package contains {', '.join(BUILTIN)}")
        name = f"local-dir:{BUILTIN[name]}"
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / CONFIG_NAME).is_file():
            raise M2raapError(f"backbone '{cfg.model}': {folder} holds no {CONFIG_NAME} (open_clip's local-dir form)")
    elif not name.startswith("hf-hub:"):
        check_name(cfg)
    quick_gelu = _has_quick_gelu(open_clip, name, cfg.pretrained) if cfg.pretrained else False
    if not cfg.random_init:
        return _make(name, cfg.pretrained, load_weights=True, quick_gelu=quick_gelu, display_name=cfg.model)
    with torch.random.fork_rng(devices=[]), _ZerosForEmpty():
        torch.manual_seed(cfg.random_seed)
        return _make(name, None, load_weights=False, quick_gelu=False, display_name=cfg.model)


class _ZerosForEmpty(TorchFunctionMode):
    """Within the block `torch.empty` gives zeros: open_clip leaves the decoder's projection of CoCa as the memory happens to be,
    which may hold NaN."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (torch.zeros if func is torch.empty else func)(*args, **(kwargs or {}))


def check_name(cfg: BackboneConfig) -> None:
    """Raises M2raapError for a model that open_clip does not know, or without weights that it knows or that are a file."""
    import open_clip

    names = open_clip.list_models()
    if cfg.model not in names:
        raise M2raapError(
            f"backbone.model '{cfg.model}' is no open_clip model: {suggestion(cfg.model, names)} "
            "A model outside of open_clip is given as hf-hub:org/name, local-dir:/folder or builtin:tiny"
        )
    if not cfg.pretrained and not cfg.random_init:
        raise M2raapError(
            f"backbone '{cfg.model}' needs weights: set backbone.pretrained to a tag, or to a .pt or .safetensors file, "
            "or set backbone.random_init to true for random weights"
        )
    tags = open_clip.list_pretrained_tags_by_model(cfg.model)
    if cfg.pretrained and cfg.pretrained not in tags and not Path(cfg.pretrained).is_file():
        raise M2raapError(
            f"backbone '{cfg.model}': backbone.pretrained '{cfg.pretrained}' is neither a file nor a tag; "
            f"tags: {', '.join(tags) or 'none'}"
        )


def _has_quick_gelu(open_clip: Any, name: str, pretrained: str) -> bool:
    """Whether the weights were trained with QuickGELU, whatever the name implies. A file rarely tells; then a notice does."""
    if not Path(pretrained).is_file():
        # open_clip only warns where a tag was trained with another GELU than the name implies; the tag is right.
        tag = open_clip.get_pretrained_cfg(name, pretrained) or {}
        return bool(tag.get("quick_gelu", False))
    if is_openai_dict(Path(pretrained)):
        return True
    if (sibling := f"{name}-quickgelu") in open_clip.list_models():
        log(
            f"note: {pretrained} is read as weights of {name}, whose activation is GELU. If they were trained with QuickGELU, as "
            f"all weights of OpenAI were, set backbone.model to {sibling}; otherwise the features are wrong without an error"
        )
    return False


def _make(name: str, pretrained: str | None, load_weights: bool, quick_gelu: bool, display_name: str) -> Backbone:
    import open_clip
    from open_clip.transform import PreprocessCfg

    try:
        with loading(f"backbone '{display_name}'", name, "root"), weights_as_read() as read:
            model_cfg = read_model_config(name)
            if load_weights and name.startswith("local-dir:"):
                _refuse_choice(Path(name.removeprefix("local-dir:")))
            clip = open_clip.create_model(
                name,
                pretrained,
                load_weights=load_weights,
                require_pretrained=load_weights,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                weights_only=True,
            )
            tokenizer = _tokenizer(name, model_cfg["text_cfg"])
        check_fitted(read, clip)
    except M2raapError:
        raise
    except Exception as error:  # the hub clients raise a dozen unrelated types
        reason = _reason(error, read)
        if pretrained and Path(pretrained).is_file():
            raise M2raapError(
                f"backbone.pretrained {pretrained} does not hold the weights of '{display_name}' ({reason}). Give a file of "
                "its state dict (.safetensors, or .pt as torch.save writes it) with the tensors' names and shapes of this "
                "model, or set backbone.model to the model that they belong to"
            ) from error
        raise M2raapError(
            f"backbone '{display_name}'{f' ({pretrained})' if pretrained else ''} cannot be loaded ({reason}). "
            "If this machine cannot reach the model hub, copy the weights to it and set backbone.model to local-dir:/folder, "
            "or backbone.pretrained to a .safetensors or .pt file."
        ) from error
    if quick_gelu:
        model_cfg["quick_gelu"] = True
    visual: Any = clip.visual
    preprocess_cfg: dict[str, Any] = {**asdict(PreprocessCfg()), **visual.preprocess_cfg}
    if pretrained and Path(pretrained).is_file():
        preprocess_cfg |= _preprocess_of_tags(name, pretrained)
    description = json.loads(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}))
    clip = clip.float().eval()
    text = OpenClipText(clip, tokenizer)
    check_pooled_place(f"backbone '{display_name}'", text)
    return Backbone(
        clip,
        open_clip_tower(clip, int(model_cfg["embed_dim"])),
        text,
        _preprocess(display_name, preprocess_cfg),
        description,
        lambda folder: _write(description, folder),
    )


def _reason(error: Exception, read: ReadWeights) -> str:
    """Why a model cannot be loaded, in a few words, without the advice of libraries to run what a file contains."""
    text = " ".join(str(error).split())
    if "Weights only load failed" in text:
        return "it is no file of tensors, or holds other Python objects, which m2raap never reads"
    if "logit_bias" in read.tensors and "ndim" in text:  # open_clip compares it with that of the model, which is None
        return "it holds logit_bias, as models of a sigmoid loss do, and this model has none"
    return text[:200] or type(error).__name__


def _refuse_choice(folder: Path) -> None:
    """Raises M2raapError where a folder holds several files of weights, none with a name that open_clip prefers."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pth"))
    if len(names) > 1 and not PREFERRED.intersection(names):
        raise M2raapError(
            f"{folder}: holds {len(names)} files of weights ({', '.join(names[:4])}), and open_clip would take the first; name "
            "the one that is meant open_clip_model.safetensors (or open_clip_pytorch_model.bin)"
        )


def _preprocess_of_tags(name: str, pretrained: str) -> dict[str, Any]:
    """Mean, std, interpolation and resize mode that all published weights of an open_clip name share, for weights in a file.

    A file does not say how its images were prepared, and open_clip then takes OpenAI's values, also for SigLIP. Where the
    published weights differ among each other, these stay, and a notice says so.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg

    default = asdict(PreprocessCfg())
    keys = ("mean", "std", "interpolation", "resize_mode")
    by_tag: dict[str, dict[str, Any]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        published = open_clip.get_pretrained_cfg(name, tag) or {}
        by_tag[tag] = {key: published.get(key) or default[key] for key in keys}
    kinds = {canonical(values) for values in by_tag.values()}
    if len(kinds) == 1:
        return next(iter(by_tag.values()))
    other = [
        tag for tag, values in by_tag.items() if canonical(values) != canonical({key: default[key] for key in keys})
    ]
    if other:
        log(
            f"note: {pretrained} does not say how images were prepared, and published weights of {name} differ in it: OpenAI's "
            f"mean and std are taken. If the file holds the weights of {' or '.join(other)}, set backbone.pretrained to that "
            "tag, or take a folder whose open_clip_config.json has their preprocess_cfg"
        )
    return {}


def _tokenizer(name: str, text_cfg: dict[str, Any]) -> Any:
    import open_clip

    if text_cfg.get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(name, trust_remote_code=False)
    if "siglip" in name.lower():
        return open_clip.get_tokenizer(name)
    length = text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    return _clip_tokenizer(length, canonical(text_cfg.get("tokenizer_kwargs", {})))


@lru_cache(maxsize=8)
def _clip_tokenizer(context_length: int, kwargs_json: str) -> Any:
    """CLIP's own tokenizer. Models share it, because reading its 48,894 merges takes 0.1 s."""
    import open_clip

    return open_clip.SimpleTokenizer(context_length=context_length, **json.loads(kwargs_json))


def _preprocess(display_name: str, preprocess_cfg: dict[str, Any]) -> Preprocess:
    size = preprocess_cfg["size"]
    sides = [size, size] if isinstance(size, int) else list(size)
    if preprocess_cfg["mode"] != "RGB":
        raise M2raapError(
            f"backbone '{display_name}', preprocess_cfg: mode is {str(preprocess_cfg['mode'])[:20]}, and only RGB is supported; "
            "take another model"
        )
    if sides[0] != sides[1]:
        raise M2raapError(
            f"backbone '{display_name}' takes images of {sides[0]} x {sides[1]} pixels, and only square ones are supported; "
            "take another model"
        )
    return to_preprocess(f"backbone '{display_name}', preprocess_cfg", preprocess_cfg | {"image_size": sides[0]})


def _write(description: dict[str, Any], folder: Path) -> None:
    text = json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def from_description(folder: Path) -> Backbone:
    """An untrained model of the shape that a Backbone wrote into the folder. Raises M2raapError where it cannot be read."""
    return _make(f"local-dir:{folder}", None, load_weights=False, quick_gelu=False, display_name=str(folder))
