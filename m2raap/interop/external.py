"""Embedders around models of other projects: those of open_clip, or any object with encode_text and encode_video.

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
from m2raap.stages.embedder import CaptionedFrames
from m2raap.stages.rerank import ClipParts

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 16  # clips per forward pass
TEXTS = 256  # texts per forward pass


class ExternalModel:
    """An Embedder around any object with `encode_text` and `encode_image` or `encode_video`.

    With `preprocess` (a Pillow picture -> a tensor (3, H, W)) the model gets tensors: `encode_image` (N, 3, H, W),
    `encode_video` (B, T, 3, H, W), clips of one length together. Without it `encode_video` gets lists of Pillow pictures.
    `encode_text` gets a list of texts, or with `tokenizer` what it makes of that list. Vectors need not be normalised.
    Without `encode_video` a clip's vector is the mean of the unit vectors of its frames. Raises M2raapError for an object
    that lacks one of these methods.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image], Any] | None = None,
        tokenizer: Callable[[list[str]], Any] | None = None,
        name: str | None = None,
    ) -> None:
        lacking = [] if hasattr(model, "encode_text") else ["encode_text"]
        if not hasattr(model, "encode_video"):
            lacking += [] if hasattr(model, "encode_image") else ["encode_video or encode_image"]
            if not lacking and preprocess is None:
                raise M2raapError(
                    "encode_image needs `preprocess`: give a function from a picture to a tensor (3, H, W)"
                )
        if lacking:
            raise M2raapError(f"a {type(model).__name__} cannot be evaluated: it has no {' and no '.join(lacking)}")
        self.model, self._preprocess, self._tokenizer = model, preprocess, tokenizer
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        self.digest = _digest(name or kind, model)
        self.preprocess = " ".join(repr(preprocess).split())[:400] if preprocess else f"left to {name or kind}"

    def videos(self, clips: list[CaptionedFrames]) -> tuple[np.ndarray, list[ClipParts]]:
        """(N, E) float32 of N clips, not normalised, and nothing for reranking."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(clips):
            by_length[len(row)].append(place)
        vector_of: dict[int, np.ndarray] = {}
        with _evaluating(self.model):
            for places in by_length.values():
                for start in range(0, len(places), BATCH):
                    batch = places[start : start + BATCH]
                    vectors_BE = self._encode([pictures([frame.jpeg for frame in clips[place]]) for place in batch])
                    vector_of |= dict(zip(batch, vectors_BE, strict=True))
        return np.stack([vector_of[i] for i in range(len(clips))]) if clips else np.zeros((0, 0), np.float32), []

    def texts(self, texts: list[str]) -> np.ndarray:
        """(N, E) float32 of N texts, not normalised."""
        blocks = []
        with _evaluating(self.model):
            for start in range(0, len(texts), TEXTS):
                batch: Any = texts[start : start + TEXTS]
                inputs = self._on_device(self._tokenizer(batch)) if self._tokenizer else batch
                blocks.append(as_rows(self.model.encode_text(inputs), len(batch), "encode_text"))
        return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)

    def _encode(self, clips: list[list[Image]]) -> np.ndarray:
        if self._preprocess is None:
            return as_rows(self.model.encode_video(clips), len(clips), "encode_video")
        import torch

        frames_BTCHW = self._on_device(torch.stack([torch.stack([self._preprocess(p) for p in row]) for row in clips]))
        if hasattr(self.model, "encode_video"):
            return as_rows(self.model.encode_video(frames_BTCHW), len(clips), "encode_video")
        images_NCHW = frames_BTCHW.flatten(0, 1)
        vectors_NE = as_rows(self.model.encode_image(images_NCHW), len(images_NCHW), "encode_image")
        return mean_of_frames(vectors_NE, [len(row) for row in clips])

    def _on_device(self, inputs: Any) -> Any:
        """Inputs on the device of the model's weights; floats also in their type, which may be half precision."""
        weights = next(iter(self.model.parameters()), None) if hasattr(self.model, "parameters") else None
        if weights is None or not hasattr(inputs, "to"):
            return inputs
        floats = getattr(inputs, "dtype", None) is not None and inputs.is_floating_point()
        return inputs.to(weights.device, weights.dtype) if floats else inputs.to(weights.device)


def pictures(jpegs: Sequence[bytes]) -> list[Image]:
    """Stored frames as RGB pictures."""
    from PIL import Image

    return [Image.open(io.BytesIO(jpeg), formats=("JPEG", "PNG")).convert("RGB") for jpeg in jpegs]


def mean_of_frames(vectors_NE: np.ndarray, frames: Sequence[int]) -> np.ndarray:
    """(B, E): the mean of each clip's unit frame vectors. `vectors_NE`: the frames of all clips, clip after clip."""
    unit_NE = vectors_NE / np.maximum(np.linalg.norm(vectors_NE, axis=1, keepdims=True), 1e-12)
    ends = np.cumsum(frames)
    return np.stack([unit_NE[end - num : end].mean(0) for end, num in zip(ends, frames, strict=True)])


def as_rows(vectors: Any, num: int, what: str) -> np.ndarray:
    """(num, E) float32 of an array or tensor on any device. Raises M2raapError for another shape, and for no numbers.

    The features of transformers from version 5 on are an object that holds several tensors.
    """
    if hasattr(vectors, "detach") and not vectors.is_complex():
        vectors = vectors.detach().float().cpu().numpy()
    try:
        rows = np.asarray(vectors)
        if rows.dtype.kind not in "fiub":
            raise TypeError(f"the numbers are of type {rows.dtype}")
    except (TypeError, ValueError) as error:
        raise M2raapError(
            f"{what} gave a {type(vectors).__name__} ({' '.join(str(error).split())[:120]}); it must give one array or tensor "
            f"({num}, E): return the features alone, such as the pooler_output of what a model of transformers returns"
        ) from None
    rows = rows.astype(np.float32)
    if rows.ndim != 2 or len(rows) != num:
        raise M2raapError(f"{what} gave an array of shape {rows.shape} for {num} inputs; it must give ({num}, E)")
    return rows


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Puts a module into eval mode, and afterwards back into its mode before."""
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _digest(name: str, model: Any) -> str:
    """Digest of a module's name and weights; the name alone of an object without weights."""
    if not hasattr(model, "state_dict"):
        return name
    from m2raap.models.backbone import weights_digest

    tensors = [(key, value) for key, value in model.state_dict().items() if hasattr(value, "detach")]
    return weights_digest({"name": name}, tensors)
