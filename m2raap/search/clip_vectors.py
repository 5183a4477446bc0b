"""Encodes clips, texts and single pictures as unit vectors with one model: the vectors of an index and of its queries.

Clips are encoded in blocks of one shape, so that a clip's vector does not depend on the other clips of its block. On a GPU the
blocks of an index are larger than those of its queries.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2raap.core.ahead import ahead
from m2raap.core.engine import decoder_threads, device, release_gpu_memory, torch_threads
from m2raap.models.config import BackboneConfig
from m2raap.stages.embedder import encode_texts, load_model
from m2raap.video.picture import DecodedPicture

if TYPE_CHECKING:
    from torch import Tensor

    from m2raap.models.batches import Batches

BLOCK = 8  # number of clips in a forward pass of a query, or on the CPU; the last block is filled up with copies


class ClipEncoder:
    """A model in eval mode. Vectors are float32, unit rows. Not for use from several threads at once.

    `fetch`: whether the model may be downloaded from a hub; False for a model that an index names and not the user.
    `for_queries`: whether single clips are encoded, so that large blocks would be mostly filling. Raises M2raapError where the
    model cannot be loaded.
    """

    def __init__(self, model: Path | BackboneConfig, fetch: bool = True, for_queries: bool = False) -> None:
        import torch

        from m2raap.models.hub import from_cache_alone

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(torch_threads())
        named_by = "An index names this model"
        named_by += f"; give --model {model.model} to download it." if isinstance(model, BackboneConfig) else "."
        with nullcontext() if fetch else from_cache_alone(named_by):
            self._model = load_model(model).to(device())
        self._large_blocks = device() != "cpu" and not for_queries
        self._batches: dict[int, Batches] = {}  # number of frames -> the batches of clips with so many

    @property
    def digest(self) -> str:
        return self._model.digest

    def texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors (N, E) of N texts."""
        import torch

        with torch.inference_mode():
            return encode_texts(self._model, texts)

    def clips(self, clips: list[list[bytes]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For every clip, given as its frames' JPEGs: its vector (E,) and its frames' vectors (K, E).

        Auxiliary captions are not used, since a query has none. Raises M2raapError naming a frame that is no picture.
        """
        from m2raap.models.images import images_from_jpegs

        def decoded(place: int) -> Tensor:
            return images_from_jpegs(clips[place], self._model.backbone.preprocess)

        vectors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, jpegs in enumerate(clips):
            by_length[len(jpegs)].append(place)
        for num_frames, places in by_length.items():
            batches = self._batches_of(num_frames)
            images = ahead(decoded, places, decoder_threads(), 2 * batches.size)
            left = iter(places)
            for vectors_BE, frames_BTE in batches(lambda block, to=batches: self._forward(block, to.size), images):
                vectors |= {next(left): pair for pair in zip(vectors_BE, frames_BTE, strict=True)}
        return [vectors[place] for place in range(len(clips))]

    def _batches_of(self, num_frames: int) -> Batches:
        from m2raap.models.batches import PICTURES_ON_GPU, Batches

        if num_frames not in self._batches:
            size = max(BLOCK, PICTURES_ON_GPU // num_frames) if self._large_blocks else BLOCK
            self._batches[num_frames] = Batches(size, "clips")
        return self._batches[num_frames]

    def picture(self, decoded: DecodedPicture) -> np.ndarray:
        """Unit vector (E,) of one picture, taken as a clip of one frame."""
        from PIL import Image

        from m2raap.models.images import images_from_pictures

        picture = Image.frombuffer("RGB", (decoded.width, decoded.height), decoded.pixels)
        return self._forward([images_from_pictures([picture], self._model.backbone.preprocess)], BLOCK)[0][0]

    def _forward(self, images: list[Tensor], size: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (B, E) and frame vectors (B, K, E) of B clips, in a block of `size`."""
        import torch

        filled = torch.stack(images + [images[-1]] * (size - len(images))).to(self._model.backbone.device)
        mask_BT = torch.ones(filled.shape[:2], dtype=torch.bool, device=filled.device)
        with torch.inference_mode():
            vectors_BTE = self._model.frame_vectors_of_images(filled, mask_BT)
            pooled_BE = self._model.pool(vectors_BTE, mask_BT).float()
            unit_BTE = torch.nn.functional.normalize(vectors_BTE, dim=-1).float()
        return pooled_BE[: len(images)].cpu().numpy(), unit_BTE[: len(images)].cpu().numpy()


def index_encoder(model: Path | BackboneConfig, fetch: bool = True, content: str = "") -> ClipEncoder:
    """The encoder of this process; loading takes seconds, so the last one is kept. `content`: what tells a model from another one
    at the same path."""
    return _index_encoder(model, fetch, content, device())  # pyright: ignore[reportArgumentType]  # frozen models hash


@lru_cache(maxsize=1)
def _index_encoder(model: Path | BackboneConfig, fetch: bool, content: str, on: str) -> ClipEncoder:
    return ClipEncoder(model, fetch)


def forget_encoder() -> None:
    """Releases the model that `index_encoder` keeps."""
    _index_encoder.cache_clear()
    release_gpu_memory()
