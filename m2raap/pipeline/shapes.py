"""Widths, layers and tokens of a backbone from its configuration, without loading a model or importing torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig

# timm's sizes: width and layers.
_TIMM = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24), "huge": (1280, 32),
         "so400m": (1152, 27), "giant": (1408, 40), "giantopt": (1536, 40), "gigantic": (1536, 50)}  # fmt: skip
# Width, layers, vocabulary and context of a text tower whose configuration only names another model: those of XLM-R base.
_TEXT = (768, 12, 250_002, 77)


@dataclass(frozen=True)
class Shape:
    """Sizes of a backbone. `vision_tokens` counts [CLS ; patches]; `from_config` is False where the sizes are guessed."""

    width: int
    layers: int
    heads: int
    vision_tokens: int
    patch_px: int
    embed: int
    text_width: int
    text_layers: int
    vocabulary: int
    context: int
    from_config: bool

    @property
    def vision_weights(self) -> int:
        """12 D^2 a layer, patches, positions, projection."""
        patches = 3 * self.patch_px**2 * self.width
        return 12 * self.width**2 * self.layers + patches + self.vision_tokens * self.width + self.width * self.embed

    @property
    def text_weights(self) -> int:
        """12 D^2 a layer, vocabulary, positions, projection."""
        words = (self.vocabulary + self.context) * self.text_width
        return 12 * self.text_width**2 * self.text_layers + words + self.text_width * self.embed


def shape_of(cfg: BackboneConfig) -> Shape:
    """The shape of a backbone, from the configuration of a builtin, an open_clip model or a local folder, or guessed from a
    hub name."""
    tree = _config(cfg)
    if tree is None:
        return _guessed(cfg.model)
    if "vision_config" in tree:
        return _transformers(tree)
    return _open_clip(tree)


def _config(cfg: BackboneConfig) -> dict[str, Any] | None:
    name = cfg.model
    folder = BUILTIN.get(name) or (Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None)
    if folder is not None:
        for file in ("open_clip_config.json", "config.json"):
            if (folder / file).is_file():
                tree = json.loads((folder / file).read_text(encoding="utf-8"))
                return tree.get("model_cfg", tree)
        return None
    spec = find_spec("open_clip")  # finds the package without importing it
    for home in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(home) / "model_configs" / f"{name}.json"
        if re.fullmatch(r"[A-Za-z0-9._-]+", name) and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return None


def _open_clip(tree: dict[str, Any]) -> Shape:
    vision, text = tree["vision_cfg"], tree["text_cfg"]
    image = vision.get("image_size", 224)
    image = image if isinstance(image, int) else image[0]
    if name := vision.get("timm_model_name"):
        size = next((part for part in name.split("_") if part in _TIMM), "base")
        width, layers = _TIMM[size]
        patch_match = re.search(r"patch(\d+)", name)
        patch = int(patch_match[1]) if patch_match else 16
        tokens = (image // patch) ** 2 + ("_pe_core_" in name and size != "gigantic")  # the others have no class token
    else:
        width, patch = vision.get("width", 768), vision.get("patch_size") or 16
        layers = vision.get("layers", 12) if isinstance(vision.get("layers", 12), int) else sum(vision["layers"])
        tokens = 1 + (image // patch) ** 2
    text_width, text_layers, words, context = (
        _TEXT if "hf_model_name" in text and "width" not in text
        else (text["width"], text["layers"], text.get("vocab_size", 49_408), text.get("context_length", 77))
    )  # fmt: skip
    heads = width // vision.get("head_width", 64)
    return Shape(width, layers, heads, tokens, patch, tree["embed_dim"], text_width, text_layers, words, context, True)


def _transformers(tree: dict[str, Any]) -> Shape:
    vision, text = tree["vision_config"], tree.get("text_config", {})
    patch = vision.get("patch_size", 16)
    tokens = vision.get("num_patches") or (vision.get("image_size", 224) // patch) ** 2
    width = vision.get("hidden_size", 768)
    layers, heads = vision.get("num_hidden_layers", 12), vision.get("num_attention_heads", 12)
    text_width, text_layers = text.get("hidden_size", 768), text.get("num_hidden_layers", 12)
    words, context = text.get("vocab_size", 32_000), min(77, text.get("max_position_embeddings", 77))
    embed = tree.get("projection_dim", width)
    return Shape(width, layers, heads, tokens + 1, patch, embed, text_width, text_layers, words, context, True)


def _guessed(name: str) -> Shape:
    """The shape that the name suggests; by default ViT-B/16 with a base-sized text tower."""
    low = name.lower()
    size = (
        "so400m"
        if "so400m" in low
        else "large"
        if re.search(r"(vit-l|large|-l14)", low)
        else "huge"
        if re.search(r"(vit-h|huge)", low)
        else "base"
    )
    patch_match = re.search(r"(?:patch|vit-\w+-|-[smbl]|/)(\d{2})\b", low)
    patch = int(patch_match[1]) if patch_match and int(patch_match[1]) in (14, 16, 32) else 14 if size == "huge" else 16
    width, layers = _TIMM[size]
    image = next((int(m) for m in re.findall(r"\d{3}", low) if int(m) in (224, 256, 336, 378, 384, 512)), 224)
    siglip2 = "siglip2" in low
    metaclip2 = "metaclip-2" in low
    words = 256_000 if siglip2 else 21_128 if "chinese" in low else 49_408
    if metaclip2:  # the words of mT5 or of XLM-V
        words = 250_100 if "mt5" in low else 901_629
    return Shape(
        width,
        layers,
        width // 64,
        1 + (image // patch) ** 2,
        patch,
        768 if siglip2 or (metaclip2 and size == "large") else 1024 if metaclip2 and size == "huge" else 512,
        1024 if metaclip2 and size == "huge" else 768,
        24 if metaclip2 and size == "huge" else 12,
        words,
        64 if siglip2 else 77 if metaclip2 else 52,
        False,
    )
