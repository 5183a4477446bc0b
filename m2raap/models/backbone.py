"""Image-text backbones. The one file that imports open_clip, and the one in models/ that opens files.

Shapes: N images, B texts, L text tokens, C H W pixels, P patches, S = 1 + P tokens (CLS first), D vision width,
E size of the common space.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import socket
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig

CONFIG_NAME = "open_clip_config.json"
# The scale of trained CLIPs ends at 100; more makes the softmax a hard maximum and the training unstable.
MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Preprocess:
    """How pixels reach the model: resize to `image_size`, centre crop, scale to 0..1, subtract mean, divide by std."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str


class Backbone(nn.Module):
    """An open_clip model with a vision transformer, split so that its first layers can be run once and kept.

    `description` is the open_clip model configuration plus preprocessing: with the weights, all that rebuilds it.
    """

    def __init__(self, clip: nn.Module, tokenizer: Callable[..., Tensor], description: dict[str, Any]) -> None:
        super().__init__()
        self.clip: Any = clip
        self.tokenizer: Any = tokenizer
        self.description = description
        visual = self.clip.visual
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
        plain = blocks is not None and all(
            hasattr(b, "ln_1") and isinstance(b.attn, nn.MultiheadAttention) for b in blocks
        )
        if not plain or visual.pool_type != "tok" or visual.attn_pool is not None or not visual.transformer.batch_first:
            raise M2raapError(
                "this open_clip model has no plain vision transformer with a class token (timm, ResNet, CoCa or "
                "mean-pooled tower); take one of the ViT-B-32, ViT-B-16, ViT-L-14 families"
            )
        size = description["preprocess_cfg"]["size"]
        sides = [size, size] if isinstance(size, int) else list(size)
        if sides[0] != sides[1]:
            raise M2raapError(
                f"this open_clip model wants images of {sides[0]} x {sides[1]}; only square ones are supported"
            )
        preprocess = description["preprocess_cfg"]
        self.preprocess = Preprocess(
            sides[0],
            tuple(preprocess["mean"]),
            tuple(preprocess["std"]),
            preprocess["interpolation"],
            preprocess["resize_mode"],
        )

    @property
    def vision_blocks(self) -> nn.ModuleList:
        return self.clip.visual.transformer.resblocks

    @property
    def text_tower(self) -> Any:
        """The module that holds token_embedding, transformer, ln_final, text_projection."""
        return getattr(self.clip, "text", self.clip)

    @property
    def num_layers(self) -> int:
        return len(self.vision_blocks)

    @property
    def width(self) -> int:
        return self.clip.visual.positional_embedding.shape[1]

    @property
    def num_tokens(self) -> int:
        """S: patches and CLS."""
        return self.clip.visual.positional_embedding.shape[0]

    @property
    def embed_dim(self) -> int:
        return self.clip.visual.proj.shape[1]

    @property
    def context_length(self) -> int:
        return int(self.clip.context_length)

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the inverse temperature."""
        return self.clip.logit_scale

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    # -- images ---------------------------------------------------------------------------------------------------

    def prefix_tokens(self, images_NCHW: Tensor, depth: int) -> Tensor:
        """Tokens (N, S, D) that enter the last `depth` vision layers; depth = num_layers gives the embedded patches."""
        assert 0 <= depth <= self.num_layers, f"depth {depth} of {self.num_layers} layers"
        tokens = self.clip.visual._embeds(images_NCHW)
        return self.run_blocks(tokens, self.num_layers, depth)

    def run_block(self, index: int, tokens_NSD: Tensor) -> Tensor:
        """One vision layer, 0 the first."""
        return self.vision_blocks[index](tokens_NSD)

    def run_blocks(self, tokens_NSD: Tensor, depth: int, stop: int) -> Tensor:
        """From the tokens that enter the last `depth` layers to those that enter the last `stop`."""
        for index in range(self.num_layers - depth, self.num_layers - stop):
            tokens_NSD = self.run_block(index, tokens_NSD)
        return tokens_NSD

    def suffix_layers(self, tokens_NSD: Tensor, depth: int, last_layers: int) -> list[Tensor]:
        """Run the last `depth` layers on what `prefix_tokens` gave.

        Outputs of the last `last_layers` (<= depth) of them: a list of (N, S, D), CLS first, not normed;
        equal to open_clip's forward_intermediates.
        """
        assert 1 <= last_layers <= depth <= self.num_layers, f"{last_layers} outputs of {depth} layers"
        outputs = []
        for index in range(self.num_layers - depth, self.num_layers):
            tokens_NSD = self.run_block(index, tokens_NSD)
            outputs.append(tokens_NSD)
        return outputs[depth - last_layers :]

    def layer_tokens(self, images_NCHW: Tensor, last_layers: int) -> list[Tensor]:
        """Outputs of the last K vision layers, each (N, 1+P, D), CLS first, not normed."""
        return self.suffix_layers(self.prefix_tokens(images_NCHW, last_layers), last_layers, last_layers)

    def image_feature_from_cls(self, cls_ND: Tensor) -> Tensor:
        """The last norm and the projection: (..., D) -> (..., E), not a unit vector."""
        visual = self.clip.visual
        return visual.ln_post(cls_ND) @ visual.proj

    def encode_image(self, images_NCHW: Tensor) -> Tensor:
        """Unit image vectors (N, E)."""
        return F.normalize(self.image_feature_from_cls(self.layer_tokens(images_NCHW, 1)[-1][:, 0]), dim=-1)

    # -- texts ----------------------------------------------------------------------------------------------------

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, L), L = context_length. Too long texts are cut, the end token stays."""
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        return self.tokenizer(list(texts), context_length=self.context_length)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts do not fit into context_length."""
        if not texts:
            return 0
        pad = self._pad_id
        longer = self.tokenizer(list(texts), context_length=self.context_length + 1)
        return int(((longer != pad).sum(1) > (self.tokenize(texts) != pad).sum(1)).sum())

    @property
    def _pad_id(self) -> int:
        return int(getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", None) or 0)

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Unit text vectors (B, E). L may be less than context_length where `can_shorten` says so."""
        length = tokens_BL.shape[1]
        if length == self.context_length:
            return self.clip.encode_text(tokens_BL, normalize=True)
        assert self.can_shorten, f"{length} tokens given, this text tower wants {self.context_length}"
        tower = self.clip
        x = tower.token_embedding(tokens_BL) + tower.positional_embedding[:length]
        x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
        pooled_BD = x[torch.arange(len(x), device=x.device), tokens_BL.argmax(dim=-1)]
        return F.normalize(pooled_BD @ tower.text_projection, dim=-1)

    def encode_text_tokens(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit text vectors (B, E), unit vectors of all tokens (B, L, E) through the text projection, and which count (B, L).

        What counts ends with the end token: padding of CLIP's BPE has the id of '!', so ids alone do not tell.
        """
        tower, seen = self.text_tower, []
        last: Any = tower.ln_final if hasattr(tower, "ln_final") else tower.transformer
        handle = last.register_forward_hook(lambda _module, _given, out: seen.append(out))
        try:
            pooled_BE = self.encode_text(tokens_BL)
        finally:
            handle.remove()
        hidden_BLD = seen[0] if isinstance(seen[0], Tensor) else seen[0].last_hidden_state
        project = getattr(tower, "text_projection", None) if hasattr(tower, "ln_final") else tower.proj
        if isinstance(project, nn.Parameter):
            hidden_BLD = hidden_BLD @ project
        elif project is not None:
            hidden_BLD = project(hidden_BLD)
        pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
        if pool == "argmax":
            length_B = tokens_BL.argmax(-1) + 1
            mask_BL = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < length_B[:, None]
        else:
            mask_BL = tokens_BL != self._pad_id
        return pooled_BE, F.normalize(hidden_BLD, dim=-1), mask_BL

    @property
    def can_shorten(self) -> bool:
        """Whether padding behind the end token changes nothing: open_clip's causal CLIP text tower, pooled at the end token."""
        tower = self.clip
        return (
            type(tower).__name__ == "CLIP"
            and tower.attn_mask is not None
            and tower.text_pool_type == "argmax"
            and isinstance(tower.text_projection, nn.Parameter)
        )

    # -- identity -------------------------------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """32 hex digits of SHA-256 over configuration and weights as they were when first asked."""
        return weights_digest(self.description, self.clip.state_dict().items())

    def write_description(self, folder: Path) -> None:
        """Configuration and tokenizer, an open_clip local-dir without weights, for `backbone_from_description`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.description, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        if hasattr(self.tokenizer, "tokenizer"):  # a transformers tokenizer has files; open_clip's own BPE has none
            self.tokenizer.save_pretrained(str(folder))


def weights_digest(description: dict[str, Any], weights: Iterable[tuple[str, Tensor]]) -> str:
    """32 hex digits of SHA-256 over a description and named tensors, whatever their order."""
    state = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(weights):
        state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()[:32]


def load_backbone(cfg: BackboneConfig) -> Backbone:
    """The backbone in eval mode and fp32 on the CPU.

    Raises M2raapError with one sentence where the model is unknown or its weights cannot be had.
    """
    if cfg.family not in BACKBONES:
        raise M2raapError(f"unknown backbone family '{cfg.family}'; known: {', '.join(BACKBONES)}")
    return BACKBONES[cfg.family](cfg)


def backbone_from_description(folder: Path) -> Backbone:
    """An untrained backbone of the shape written by `write_description`; the caller fills in the weights."""
    return _make(f"local-dir:{folder}", None, load_weights=False, quick_gelu=False, asked=str(folder))


def load_open_clip(cfg: BackboneConfig) -> Backbone:
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
        return _make(name, cfg.pretrained, load_weights=True, quick_gelu=quick_gelu, asked=cfg.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.random_seed)
        return _make(name, None, load_weights=False, quick_gelu=False, asked=cfg.model)


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


def _make(name: str, pretrained: str | None, load_weights: bool, quick_gelu: bool, asked: str) -> Backbone:
    import open_clip
    from open_clip.transform import PreprocessCfg

    try:
        with warnings.catch_warnings(), _quiet_loggers("root", "huggingface_hub"), _no_waiting_for_a_hub(name):
            warnings.simplefilter("ignore")
            clip = open_clip.create_model(
                name,
                pretrained,
                load_weights=load_weights,
                require_pretrained=load_weights,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                weights_only=True,
            )
            model_cfg = open_clip.get_model_config(name)
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # the hub clients raise a dozen unrelated types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise M2raapError(
            f"backbone '{asked}'{f' ({pretrained})' if pretrained else ''} cannot be loaded ({reason}). "
            "If this machine reaches no model hub, copy the weights here and give a folder (model: local-dir:/folder) "
            "or a file (pretrained: /file.safetensors or .pt)."
        ) from error
    assert model_cfg is not None, name
    if quick_gelu:
        model_cfg["quick_gelu"] = True
    visual: Any = clip.visual
    shown: dict[str, Any] = {**asdict(PreprocessCfg()), **visual.preprocess_cfg}
    description = json.loads(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": shown}))
    return Backbone(clip.float().eval(), tokenizer, description)


@contextlib.contextmanager
def _quiet_loggers(*names: str) -> Iterator[None]:
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
def _no_waiting_for_a_hub(name: str) -> Iterator[None]:
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


BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {"open_clip": load_open_clip}
