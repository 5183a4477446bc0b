"""Models that m2raap did not make, as what `embed` embeds with: open_clip's, or anything with encode_video and encode_text.

B clips, T frames, N texts, E embedding.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.stages.embed import CaptionedFrames

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 16  # clips a forward pass
TEXTS = 256  # texts a forward pass

Frames = list[tuple[np.ndarray, np.ndarray]]


class ExternalModel:
    """An Embedder around any object with `encode_text` and `encode_image` or `encode_video`.

    With `preprocess` (a Pillow picture -> a tensor (3, H, W)) the model is given tensors: `encode_image` (N, 3, H, W),
    `encode_video` (B, T, 3, H, W), clips of one length together. Without it `encode_video` is given lists of Pillow
    pictures. With `tokenizer` `encode_text` is given what the tokenizer makes of a list of texts, else the list. Vectors
    may be of any length. `encode_video` is used where there is one; else frames are averaged: unit vectors, mean.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image], Any] | None = None,
        tokenizer: Callable[[list[str]], Any] | None = None,
        name: str | None = None,
    ) -> None:
        lacking = [what for what in ("encode_text",) if not hasattr(model, what)]
        if not hasattr(model, "encode_video"):
            lacking += [] if hasattr(model, "encode_image") else ["encode_video or encode_image"]
            if not lacking and preprocess is None:
                raise M2raapError("encode_image needs `preprocess`: what makes a tensor of a Pillow picture")
        if lacking:
            raise M2raapError(f"a {type(model).__name__} cannot be evaluated: it has no {' and no '.join(lacking)}")
        self.model, self._preprocess, self._tokenizer = model, preprocess, tokenizer
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        self.digest = _digest(name or kind, model)
        self.preprocess = " ".join(repr(preprocess).split())[:400] if preprocess else f"left to {name or kind}"

    def videos(self, clips: list[CaptionedFrames]) -> tuple[np.ndarray, Frames]:
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(clips):
            by_length[len(row)].append(place)
        vector_of: dict[int, np.ndarray] = {}
        with _evaluating(self.model):
            for places in by_length.values():
                for start in range(0, len(places), BATCH):
                    batch = places[start : start + BATCH]
                    vectors_BE = self._encode([pictures([jpeg for jpeg, _ in clips[place]]) for place in batch])
                    vector_of |= dict(zip(batch, vectors_BE, strict=True))
        return np.stack([vector_of[i] for i in range(len(clips))]) if clips else np.zeros((0, 0), np.float32), []

    def texts(self, texts: list[str]) -> np.ndarray:
        blocks = []
        with _evaluating(self.model):
            for start in range(0, len(texts), TEXTS):
                batch: Any = texts[start : start + TEXTS]
                inputs = self._moved(self._tokenizer(batch)) if self._tokenizer else batch
                blocks.append(as_rows(self.model.encode_text(inputs), len(batch), "encode_text"))
        return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)

    def _encode(self, clips: list[list[Image]]) -> np.ndarray:
        if self._preprocess is None:
            return as_rows(self.model.encode_video(clips), len(clips), "encode_video")
        import torch

        frames_BTCHW = self._moved(torch.stack([torch.stack([self._preprocess(p) for p in row]) for row in clips]))
        if hasattr(self.model, "encode_video"):
            return as_rows(self.model.encode_video(frames_BTCHW), len(clips), "encode_video")
        images_NCHW = frames_BTCHW.flatten(0, 1)
        vectors_NE = as_rows(self.model.encode_image(images_NCHW), len(images_NCHW), "encode_image")
        return mean_of_frames(vectors_NE, [len(row) for row in clips])

    def _moved(self, inputs: Any) -> Any:
        """To where the model's weights are."""
        weights = next(iter(self.model.parameters()), None) if hasattr(self.model, "parameters") else None
        return inputs.to(weights.device) if weights is not None and hasattr(inputs, "to") else inputs


def pictures(jpegs: Sequence[bytes]) -> list[Image]:
    """Stored frames as RGB pictures."""
    from PIL import Image

    return [Image.open(io.BytesIO(jpeg), formats=("JPEG", "PNG")).convert("RGB") for jpeg in jpegs]


def mean_of_frames(vectors_NE: np.ndarray, frames: Sequence[int]) -> np.ndarray:
    """(B, E) of the vectors of all clips' frames, one clip behind the other: unit frame vectors, mean."""
    unit_NE = vectors_NE / np.maximum(np.linalg.norm(vectors_NE, axis=1, keepdims=True), 1e-12)
    ends = np.cumsum(frames)
    return np.stack([unit_NE[end - num : end].mean(0) for end, num in zip(ends, frames, strict=True)])


def as_rows(vectors: Any, num: int, what: str) -> np.ndarray:
    """(num, E) float32 of an array or tensor on any device. Raises M2raapError for another shape."""
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().float().cpu().numpy()
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or len(rows) != num:
        raise M2raapError(f"{what} was given {num} and gave an array of shape {rows.shape}; wanted ({num}, E)")
    return rows


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """A module in eval mode; left in the mode in which it was found."""
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _digest(name: str, model: Any) -> str:
    """Of a module its name and weights, of anything else its name alone."""
    if not hasattr(model, "state_dict"):
        return name
    from m2raap.models.backbone import weights_digest

    tensors = [(key, value) for key, value in model.state_dict().items() if hasattr(value, "detach")]
    return weights_digest({"name": name}, tensors)
