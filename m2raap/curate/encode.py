"""Encodes frames and texts as unit vectors in the workers, always in blocks of one shape, so that a vector does not depend on
its neighbours or on the number of clips of a part."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from m2raap.core.engine import device

if TYPE_CHECKING:
    from m2raap.models.backbone import Backbone
    from m2raap.models.config import BackboneConfig

BLOCK = 8  # rows of a forward pass, as many as a clip has key-frames; the last block is filled up with zeros


class Encoder:
    """A frozen backbone. Features are float32, unit rows."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone.to(device())

    def images(self, jpegs: Sequence[bytes]) -> np.ndarray:
        """(K, E) unit vectors of encoded pictures."""
        from m2raap.models.images import images_from_jpegs

        return _in_blocks(self.backbone.encode_image, images_from_jpegs(jpegs, self.backbone.preprocess))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, E) unit vectors of texts."""
        return _in_blocks(self.backbone.encode_text, self.backbone.tokenize(list(texts)))

    def tokens_over(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text that do not fit into the text tower's context."""
        longest = self.backbone.context_length
        ids_BL = self.backbone.text.tokenize(list(texts), 4 * longest) if texts else []
        return [max(0, int((row != self.backbone.text.pad_id).sum()) - longest) for row in ids_BL]


def _in_blocks(encode: Any, rows: Any) -> np.ndarray:
    import torch

    features = []
    with torch.inference_mode():
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            filled = torch.cat([block, block.new_zeros(BLOCK - len(block), *block.shape[1:])])
            features.append(encode(filled.to(device()))[: len(block)].float().cpu().numpy())
    return np.concatenate(features) if features else np.zeros((0, 0), np.float32)


def encoder(cfg: BackboneConfig) -> Encoder:
    """The encoder of this worker process. Loading takes seconds, so the last one is kept."""
    return _encoder(cast(Hashable, cfg))  # frozen models hash by value, which the type checker does not see


@lru_cache(maxsize=1)
def _encoder(cfg: Any) -> Encoder:
    from m2raap.models.families import load_backbone

    return Encoder(load_backbone(cfg))


def pack(features: np.ndarray) -> bytes:
    """float16 bytes of a row or matrix of unit vectors, as `signals` hold them."""
    return features.astype("<f2").tobytes()


def unpack(data: bytes, dim: int) -> np.ndarray:
    """(K, dim) float32 features from the bytes that `pack` returns."""
    return np.frombuffer(data, "<f2").reshape(-1, dim).astype(np.float32)
