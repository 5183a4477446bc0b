"""Encodes clips, texts and single pictures as unit vectors with one model: the vectors of an index and of its queries.

Clips are encoded in blocks of one shape, so that a clip's vector does not depend on the other clips of its block.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from m2raap.core.engine import torch_threads
from m2raap.models.config import BackboneConfig
from m2raap.stages.embedder import encode_texts, load_model
from m2raap.video.picture import DecodedPicture

BLOCK = 8  # number of clips in a forward pass; the last block is filled up with copies


class ClipEncoder:
    """A model in eval mode. Vectors are float32, unit rows. Not for use from several threads at once.

    `fetch`: whether the model may be downloaded from a hub; False for a model that an index names and not the user.
    Raises M2raapError where the model cannot be loaded.
    """

    def __init__(self, model: Path | BackboneConfig, fetch: bool = True) -> None:
        import torch

        from m2raap.models.hub import from_cache_alone

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(torch_threads())
        named_by = "An index names this model"
        named_by += f"; give --model {model.model} to download it." if isinstance(model, BackboneConfig) else "."
        with nullcontext() if fetch else from_cache_alone(named_by):
            self._model = load_model(model)

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

        vectors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, jpegs in enumerate(clips):
            by_length[len(jpegs)].append(place)
        for places in by_length.values():
            for start in range(0, len(places), BLOCK):
                block = places[start : start + BLOCK]
                images = [images_from_jpegs(clips[place], self._model.backbone.preprocess) for place in block]
                vectors_BE, frames_BTE = self._forward(images)
                vectors |= {place: (vectors_BE[i], frames_BTE[i]) for i, place in enumerate(block)}
        return [vectors[place] for place in range(len(clips))]

    def picture(self, decoded: DecodedPicture) -> np.ndarray:
        """Unit vector (E,) of one picture, taken as a clip of one frame."""
        from PIL import Image

        from m2raap.models.images import images_from_pictures

        picture = Image.frombuffer("RGB", (decoded.width, decoded.height), decoded.pixels)
        return self._forward([images_from_pictures([picture], self._model.backbone.preprocess)])[0][0]

    def _forward(self, images: list) -> tuple[np.ndarray, np.ndarray]:
        import torch

        filled = torch.stack(images + [images[-1]] * (BLOCK - len(images)))
        mask_BT = torch.ones(filled.shape[:2], dtype=torch.bool)
        with torch.inference_mode():
            vectors_BTE = self._model.frame_vectors_of_images(filled, mask_BT)
            pooled_BE = self._model.pool(vectors_BTE, mask_BT).float()
            unit_BTE = torch.nn.functional.normalize(vectors_BTE, dim=-1).float()
        return pooled_BE[: len(images)].numpy(), unit_BTE[: len(images)].numpy()
