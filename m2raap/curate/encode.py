"""Encodes frames and texts as unit vectors in the workers, always in blocks of one shape, so that a vector does not depend on
its neighbours or on the number of clips of a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core.ahead import ahead
from m2raap.core.engine import decoder_threads, device

if TYPE_CHECKING:
    from torch import Tensor

    from m2raap.models.backbone import Backbone
    from m2raap.models.batches import Batches
    from m2raap.models.config import BackboneConfig

BLOCK = 8  # rows of a forward pass on the CPU, as many as a clip has key-frames; the last block is filled up with zeros
CLIPS_AHEAD = 64  # number of clips that are decoded before a GPU needs them: two of its blocks


class Encoder:
    """A frozen backbone. Features are float32, unit rows.

    On the CPU every block holds rows of one clip; on a GPU a block is larger, and holds rows of several clips.
    """

    def __init__(self, backbone: Backbone) -> None:
        from m2raap.models.batches import PICTURES_ON_GPU, TEXTS_ON_GPU, Batches

        self._device = device()
        self._on_gpu = self._device != "cpu"
        self.backbone = backbone.to(self._device)
        self._pictures = Batches(PICTURES_ON_GPU if self._on_gpu else BLOCK, "pictures")
        self._texts = Batches(TEXTS_ON_GPU if self._on_gpu else BLOCK, "texts")

    def images(self, jpegs: Sequence[bytes]) -> np.ndarray:
        """(K, E) unit vectors of encoded pictures."""
        return self.images_of([jpegs])[0]

    def images_of(self, clips: Sequence[Sequence[bytes]]) -> list[np.ndarray]:
        """(K, E) unit vectors of the encoded pictures of each clip."""
        from m2raap.models.images import images_from_jpegs

        def decoded(jpegs: Sequence[bytes]) -> Tensor:
            return images_from_jpegs(jpegs, self.backbone.preprocess)

        images = ahead(decoded, clips, decoder_threads(), CLIPS_AHEAD)
        return self._of_groups(images, [len(jpegs) for jpegs in clips], self.backbone.encode_image, self._pictures)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, E) unit vectors of texts."""
        return self.texts_of([texts])[0]

    def texts_of(self, clips: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """(N, E) unit vectors of the texts of each clip."""
        tokens = (self.backbone.tokenize(list(texts)) for texts in clips)
        return self._of_groups(tokens, [len(texts) for texts in clips], self.backbone.encode_text, self._texts)

    def tokens_over(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text that do not fit into the text tower's context."""
        longest = self.backbone.context_length
        ids_BL = self.backbone.text.tokenize(list(texts), 4 * longest) if texts else []
        return [max(0, int((row != self.backbone.text.pad_id).sum()) - longest) for row in ids_BL]

    def _of_groups(
        self, groups: Iterable[Tensor], lengths: Sequence[int], encode: Callable[[Tensor], Tensor], batches: Batches
    ) -> list[np.ndarray]:
        """The features of each group of rows, whose numbers of rows are `lengths`."""
        import torch

        def block_features(rows: list[Tensor]) -> np.ndarray:
            block = torch.stack(rows)
            filled = torch.cat([block, block.new_zeros(batches.size - len(block), *block.shape[1:])])
            return encode(filled.to(self._device))[: len(block)].float().cpu().numpy()

        with torch.inference_mode():
            if self._on_gpu:
                features = list(batches(block_features, (row for rows in groups for row in rows)))
                return np.split(_joined(features), np.cumsum(lengths))[:-1]
            return [_joined(list(batches(block_features, rows))) for rows in groups]


def _joined(features: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(features) if features else np.zeros((0, 0), np.float32)


def encoder(cfg: BackboneConfig) -> Encoder:
    """The encoder of this worker process. Loading takes seconds, so the last one is kept."""
    return _encoder(cfg, device())  # pyright: ignore[reportArgumentType]  # frozen models hash by value


@lru_cache(maxsize=1)
def _encoder(cfg: Any, on: str) -> Encoder:
    from m2raap.models.families import load_backbone

    return Encoder(load_backbone(cfg))


def pack(features: np.ndarray) -> bytes:
    """float16 bytes of a row or matrix of unit vectors, as `signals` hold them."""
    return features.astype("<f2").tobytes()


def unpack(data: bytes, dim: int) -> np.ndarray:
    """(K, dim) float32 features from the bytes that `pack` returns."""
    return np.frombuffer(data, "<f2").reshape(-1, dim).astype(np.float32)
