"""Backbone: one interface to the image-text models of several libraries.

Its vision tower can be run in two parts, so that the output of frozen first layers is computed once and kept.

N images, S tokens as a tower runs them, P patches, D vision width, B texts, L text tokens, E size of the common space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from m2raap.core.errors import M2raapError
from m2raap.models.pictures import Resize
from m2raap.models.text import OpenClipText, TransformersText
from m2raap.models.tokenizer import Tokenizer
from m2raap.models.vision import VisionTower

# CLIP clips the scale of its logits at 100, because training was unstable beyond (Radford et al. 2021, section 2.5).
MAX_LOGIT_SCALE = 100.0
# In a folder with a description: the code of the backbone's family, where that is outside of the package.
FAMILY_NAME = "family.json"


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of images: resize to `image_size`, centre crop, scale to 0..1, subtract mean, divide by std."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str

    @property
    def resize(self) -> Resize:
        return Resize(self.image_size, self.interpolation, self.resize_mode)


class Backbone(nn.Module):
    """The library's model (`clip`, which holds all weights) and views of its two towers.

    `description` is JSON from which, with the weights, the model can be rebuilt. `write` writes the configuration into a
    folder.
    """

    def __init__(
        self,
        clip: nn.Module,
        vision: VisionTower,
        text: OpenClipText | TransformersText,
        preprocess: Preprocess,
        description: dict[str, Any],
        write: Callable[[Path], None],
    ) -> None:
        super().__init__()
        self.clip: Any = clip
        self.vision = vision
        self.text = text
        self.preprocess = preprocess
        self.description = description
        self._write = write
        self.recomputes = False  # whether a backward pass computes layers again (activation checkpointing)
        self.code: dict[str, str] = {}  # of a family outside of the package: its name and the digest of its file

    @property
    def num_layers(self) -> int:
        return self.vision.num_layers

    @property
    def width(self) -> int:
        return self.vision.width

    @property
    def embed_dim(self) -> int:
        return self.vision.embed_dim

    @property
    def context_length(self) -> int:
        return self.text.context_length

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the inverse temperature."""
        return self.clip.logit_scale

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    # -- images ---------------------------------------------------------------------------------------------------

    def prefix_tokens(self, images_NCHW: Tensor, depth: int) -> Tensor:
        """Tokens (N, S, D) that enter the last `depth` vision layers; with depth = num_layers the embedded patches."""
        assert 0 <= depth <= self.num_layers, f"depth {depth} of {self.num_layers} layers"
        return self.run_blocks(self.vision.embed(images_NCHW), self.num_layers, depth)

    def run_blocks(self, tokens_NSD: Tensor, depth: int, stop: int) -> Tensor:
        """From the tokens (N, S, D) that enter the last `depth` layers to those that enter the last `stop` layers."""
        for index in range(self.num_layers - depth, self.num_layers - stop):
            tokens_NSD = self._layer(index, tokens_NSD)
        return tokens_NSD

    def _layer(self, index: int, tokens_NSD: Tensor) -> Tensor:
        return self.run_layer(self.vision.run, index, tokens_NSD)

    def run_layer(self, layer: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """layer(*inputs). Where `recomputes` is set, the backward pass computes it again, so that it must not draw anything."""
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
        return layer(*inputs)

    def compile_layers(self, backend: str = "inductor") -> None:
        """From now on torch.compile runs the layers of the vision tower, by a `backend` of it; the weights keep their names."""
        for block in self.vision.blocks:
            block.compile(backend=backend)

    def suffix_layers(self, tokens_NSD: Tensor, depth: int, last_layers: int) -> list[Tensor]:
        """Runs the last `depth` layers on the tokens of `prefix_tokens`, and returns the outputs of the last `last_layers`.

        Each output is (N, 1 + P, D) before the last norm; the token that is projected comes first. Equal to open_clip's
        forward_intermediates.
        """
        assert 1 <= last_layers <= depth <= self.num_layers, f"{last_layers} outputs of {depth} layers"
        outputs = []
        for index in range(self.num_layers - depth, self.num_layers):
            tokens_NSD = self._layer(index, tokens_NSD)
            if index >= self.num_layers - last_layers:
                outputs.append(self.vision.layer_output(tokens_NSD, last=index == self.num_layers - 1))
        return outputs

    def layer_tokens(self, images_NCHW: Tensor, last_layers: int) -> list[Tensor]:
        """Outputs of the last `last_layers` vision layers, as `suffix_layers` gives them."""
        return self.suffix_layers(self.prefix_tokens(images_NCHW, last_layers), last_layers, last_layers)

    def image_feature_from_cls(self, cls_ND: Tensor) -> Tensor:
        """The last norm and the projection: (..., D) -> (..., E), not a unit vector."""
        return self.vision.project(cls_ND)

    def encode_image(self, images_NCHW: Tensor) -> Tensor:
        """Unit image vectors (N, E)."""
        return F.normalize(self.image_feature_from_cls(self.layer_tokens(images_NCHW, 1)[-1][:, 0]), dim=-1)

    # -- texts ----------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text tower. It can be sent to other processes where the library's own can."""
        text = self.text
        encode = getattr(text, "words", None) or text.tokenize
        return Tokenizer(encode, self.context_length, text.pad_id, text.num_ids, self.can_shorten)

    def tokenize(self, texts: Sequence[str], text_length: int | None = None) -> Tensor:
        """Token ids (B, L), as `Tokenizer.tokenize`."""
        return self.tokenizer.tokenize(texts, text_length)

    def expect_text_length(self, text_length: int | None, key: str) -> None:
        """Raises M2raapError naming the key where the text tower takes fewer tokens than `text_length`."""
        if text_length is not None and text_length > self.context_length:
            raise M2raapError(
                f"{key} is {text_length}, and the text tower of this model takes {self.context_length} tokens: lower it, or set "
                "it to null"
            )

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Unit text vectors (B, E). L may be less than context_length where `can_shorten` says so."""
        return F.normalize(self.text.encode(tokens_BL), dim=-1)

    def encode_text_tokens(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit text vectors (B, E), unit vectors of all tokens (B, L, E), and a mask (B, L), False for padding.

        Raises M2raapError where the text tower has no features of tokens.
        """
        pooled_BE, tokens_BLE, mask_BL = self.text.encode_tokens(tokens_BL)
        return F.normalize(pooled_BE, dim=-1), F.normalize(tokens_BLE, dim=-1), mask_BL

    @cached_property
    def english_only(self) -> bool:
        """Whether the tokenizer cannot read Chinese: unknown tokens, or over 1.5 tokens per character as in CLIP's own BPE."""
        probe = "一个人在公园里跑步"
        ids = self.text.tokenize([probe], 64)[0]
        num_tokens = int((ids != self.text.pad_id).sum()) - 2  # without the start and end token
        inner = getattr(self.text.tokenizer, "tokenizer", self.text.tokenizer)
        unknown = getattr(inner, "unk_token_id", None)
        return num_tokens > 1.5 * len(probe) or (
            unknown is not None and bool((ids[1 : num_tokens + 1] == unknown).any())
        )

    @property
    def can_shorten(self) -> bool:
        """Whether texts have the same vectors without the padding behind their end token."""
        return self.text.can_shorten

    # -- identity -------------------------------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """32 hex digits of SHA-256 over configuration and weights as they are at the first access; kept from then on."""
        return weights_digest(self.description | self.code, self.clip.state_dict().items())

    def write_description(self, folder: Path) -> None:
        """Configuration and tokenizer without weights, for `backbone_from_description`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder)
        self.text.save_tokenizer(folder)
        if self.code:
            (folder / FAMILY_NAME).write_text(json.dumps(self.code) + "\n", encoding="utf-8")


def weights_digest(description: dict[str, Any], weights: Iterable[tuple[str, Tensor]]) -> str:
    """32 hex digits of SHA-256 over a description and named tensors, independent of their order."""
    state = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(weights):
        state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()[:32]
