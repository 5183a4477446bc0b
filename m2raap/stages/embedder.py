"""The models that embed a benchmark: a VideoCLIP, of a folder or a bare backbone, or a model of another library.

V clips, T frames, N texts, E size of the common space.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.core.records import ModelDigest, read_record
from m2raap.core.signed import read_manifest
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.stages.protocol import describe_preprocess
from m2raap.stages.rerank import ClipParts, parts_of

if TYPE_CHECKING:
    from m2raap.models.acg import Captions
    from m2raap.models.interaction.units import Need
    from m2raap.models.video_clip import VideoCLIP


BATCH = 16


class ClipFrame(NamedTuple):
    """A stored frame, as an embedder is given it."""

    jpeg: bytes
    caption: str | None = None  # where it has one, and ACG or the interaction is to read it
    time_s: float | None = None  # seconds since the start of the clip


CaptionedFrames = list[ClipFrame]


class Embedder(Protocol):
    """A model that embeds a benchmark: `VideoClipEmbedder`, or a model of another library (m2raap.interop)."""

    digest: str
    preprocess: str  # in words, for the protocol

    def videos(self, clips: list[CaptionedFrames]) -> tuple[np.ndarray, list[ClipParts]]:
        """Video vectors (V, E), and what an interaction reads of every clip, where the model has one."""
        ...

    def texts(self, texts: list[str]) -> np.ndarray:
        """Text vectors (N, E)."""
        ...


class VideoClipEmbedder:
    """A VideoCLIP as an Embedder. `text_length`: number of tokens to which texts are cut; None: the model's own.

    `needs`: what reranking reads of clips; None: no reranking.

    Raises M2raapError where the model takes fewer tokens.
    """

    def __init__(self, clip: VideoCLIP, text_length: int | None = None) -> None:
        clip.backbone.expect_text_length(text_length, "embed.text_length")
        self.clip = clip
        self.text_length = text_length
        self.needs: frozenset[Need] | None = None
        self.digest = clip.digest
        cut = "" if text_length is None else f", texts cut to {text_length} tokens"
        self.preprocess = describe_preprocess(clip.backbone.preprocess) + cut

    def videos(self, clips: list[CaptionedFrames]) -> tuple[np.ndarray, list[ClipParts]]:
        return _encode_videos(self.clip, clips, self.text_length, self.needs)

    def texts(self, texts: list[str]) -> np.ndarray:
        return encode_texts(self.clip, texts, self.text_length)


def embedder(model: Path | BackboneConfig | VideoCLIP | Embedder, text_length: int | None = None) -> Embedder:
    """The model that `load_model` returns, as an Embedder that cuts texts to `text_length` tokens (None: its own).

    An Embedder is returned unchanged. Raises M2raapError where it would have to cut texts to another length.
    """
    from m2raap.models.video_clip import VideoCLIP

    if isinstance(model, Path | BackboneConfig | VideoCLIP):
        return VideoClipEmbedder(load_model(model), text_length)
    if text_length is not None and getattr(model, "text_length", None) != text_length:
        raise M2raapError(
            "embed.text_length needs a model of m2raap, and another model cuts texts itself; set embed.text_length=null"
        )
    return model


def load_model(model: Path | BackboneConfig | VideoCLIP) -> VideoCLIP:
    """An adapted model's folder, or a bare backbone with mean pooling; a VideoCLIP is returned unchanged."""
    from m2raap.models.families import load_backbone
    from m2raap.models.video_clip import VideoCLIP

    if isinstance(model, VideoCLIP):
        return model
    return VideoCLIP.load(model) if isinstance(model, Path) else VideoCLIP(load_backbone(model), MeanConfig())


def _encode_videos(
    clip: VideoCLIP, clips: list[CaptionedFrames], text_length: int | None, needs: frozenset[Need] | None
) -> tuple[np.ndarray, list[ClipParts]]:
    """Unit video vectors (V, E), and of every clip what an interaction with these `needs` reads; None: nothing."""
    import torch

    from m2raap.models.images import images_from_jpegs

    blocks: list[np.ndarray] = []
    parts: list[ClipParts] = []
    for start in range(0, len(clips), BATCH):
        batch_clips = clips[start : start + BATCH]
        batch = [images_from_jpegs([frame.jpeg for frame in row], clip.backbone.preprocess) for row in batch_clips]
        most = max(len(images) for images in batch)
        mask_BT = torch.tensor([[t < len(images) for t in range(most)] for images in batch])
        filled = [torch.cat([images, images.new_zeros(most - len(images), *images.shape[1:])]) for images in batch]
        levels = clip.levels_of_images(torch.stack(filled), mask_BT)
        captions = _captions(clip, batch_clips, most, text_length)
        units = clip.clip_units(levels, mask_BT, captions, needs or ())
        blocks.append(units.pooled_BE.numpy())
        if needs is not None:
            parts += parts_of(units)
    return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32), parts


def _captions(
    clip: VideoCLIP, clips: list[CaptionedFrames], num_frames: int, text_length: int | None
) -> Captions | None:
    """Features of the frames' captions; None where no frame has one. Each distinct caption is encoded once."""
    import torch

    known = sorted({frame.caption for row in clips for frame in row if frame.caption is not None})
    if not known:
        return None
    number = {caption: i for i, caption in enumerate(known)}
    rows = [
        [number.get(frame.caption, -1) if frame.caption else -1 for frame in row] + [-1] * (num_frames - len(row))
        for row in clips
    ]
    rows_BT = torch.tensor(rows)
    return torch.from_numpy(encode_texts(clip, known, text_length))[rows_BT.clamp(min=0)], rows_BT >= 0


def encode_texts(clip: VideoCLIP, texts: list[str], text_length: int | None = None) -> np.ndarray:
    """(N, E) float32, unit rows. `text_length`: number of tokens to which texts are cut; None: the model's own."""
    tokens = clip.backbone.tokenize(texts, text_length)
    blocks = [clip.encode_text(tokens[at : at + 256]).float().numpy() for at in range(0, len(texts), 256)]
    return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)


def model_folder(path: Path) -> Path:
    """The `model/` folder of an adapt stage, or the folder itself where it holds none."""
    return path / "model" if (path / "model" / "model.json").is_file() else path


def model_input(model: Path | BackboneConfig | Embedder) -> dict[str, str]:
    """The entry of a model in the `inputs` of a manifest."""
    if isinstance(model, BackboneConfig):
        return {"model": model.model_dump_json()}
    if not isinstance(model, Path):
        return {"model": model.digest}
    if (model.parent / "manifest.json").exists():
        return {"model": read_manifest(model.parent)["digest"]}
    return {"model": read_record(ModelDigest, model / "model.json")["digest"]}
