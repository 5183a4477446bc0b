"""The models that embed a benchmark: a VideoCLIP, of a folder or a bare backbone, or a model of another library.

V clips, T frames, N texts, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from m2raap.core.ahead import ahead
from m2raap.core.engine import decoder_threads, device
from m2raap.core.errors import M2raapError
from m2raap.core.records import ModelDigest, read_record
from m2raap.core.signed import read_manifest
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.stages.protocol import describe_preprocess
from m2raap.stages.rerank import ClipParts, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from m2raap.models.acg import Captions
    from m2raap.models.batches import Batches
    from m2raap.models.interaction.units import ClipUnits, Need
    from m2raap.models.video_clip import VideoCLIP


Precision = Literal["fp32", "bf16"]
CLIPS_ON_CPU, TEXTS_ON_CPU = 16, 256  # of a forward pass


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
    """A VideoCLIP as an Embedder, which moves it to the device of this process.

    `text_length`: number of tokens to which texts are cut; None: the model's own. `precision`: number type of the towers; the
    vectors are float32, unit rows, on the CPU. `needs`: what reranking reads of clips; None: no reranking.

    Raises M2raapError where the model takes fewer tokens.
    """

    def __init__(self, clip: VideoCLIP, text_length: int | None = None, precision: Precision = "fp32") -> None:
        clip.backbone.expect_text_length(text_length, "embed.text_length")
        self.clip = clip.to(device())
        self.text_length, self.precision = text_length, precision
        self.needs: frozenset[Need] | None = None
        self._batches: dict[int, Batches] = {}  # by the largest number of frames of a clip
        self.digest = clip.digest
        cut = "" if text_length is None else f", texts cut to {text_length} tokens"
        computed = "" if precision == "fp32" else f", computed in {precision}"
        self.preprocess = describe_preprocess(clip.backbone.preprocess) + cut + computed

    def videos(self, clips: list[CaptionedFrames]) -> tuple[np.ndarray, list[ClipParts]]:
        import torch

        from m2raap.models.images import images_from_jpegs

        def decoded(frames: CaptionedFrames) -> tuple[CaptionedFrames, Tensor]:
            return frames, images_from_jpegs([frame.jpeg for frame in frames], self.clip.backbone.preprocess)

        def encoded(batch: list[tuple[CaptionedFrames, Tensor]]) -> ClipUnits:
            with self.computing():
                return self._units([frames for frames, _ in batch], [images for _, images in batch])

        most = max(map(len, clips), default=1)
        batches = self._batches[most] = self._batches.get(most) or clip_batches(self.clip, most)
        vectors: list[np.ndarray] = []
        parts: list[ClipParts] = []
        for units in batches(encoded, ahead(decoded, clips, decoder_threads(), 2 * batches.size)):
            pooled_BE = units.pooled_BE
            if self.precision != "fp32":
                pooled_BE = torch.nn.functional.normalize(pooled_BE, dim=-1)
            vectors.append(pooled_BE.cpu().numpy())
            if self.needs is not None:
                parts += parts_of(units)
        return np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32), parts

    def texts(self, texts: list[str]) -> np.ndarray:
        with self.computing():
            return encode_texts(self.clip, texts, self.text_length)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A block that computes without gradients, and in `precision`."""
        import torch

        bf16 = torch.autocast(self.clip.backbone.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), bf16:
            yield

    def _units(self, clips: Sequence[CaptionedFrames], images: Sequence[Tensor]) -> ClipUnits:
        """The units of a batch of clips, filled up to the frames of the longest."""
        import torch

        on = self.clip.backbone.device
        most = max(map(len, images))
        mask_BT = torch.tensor([[t < len(rows) for t in range(most)] for rows in images], device=on)
        filled = [torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])]) for rows in images]
        levels = self.clip.levels_of_images(torch.stack(filled).to(on), mask_BT)
        captions = self._captions(clips, most)
        return self.clip.clip_units(levels, mask_BT, captions, self.needs or ())

    def _captions(self, clips: Sequence[CaptionedFrames], num_frames: int) -> Captions | None:
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
        on = self.clip.backbone.device
        rows_BT = torch.tensor(rows, device=on)
        vectors_NE = torch.from_numpy(encode_texts(self.clip, known, self.text_length)).to(on)
        return vectors_NE[rows_BT.clamp(min=0)], rows_BT >= 0


def clip_batches(clip: VideoCLIP, num_frames: int) -> Batches:
    """Batches of clips of at most `num_frames` frames for the device of the model."""
    from m2raap.models.batches import PICTURES_ON_GPU, Batches

    on_cpu = clip.backbone.device.type == "cpu"
    return Batches(CLIPS_ON_CPU if on_cpu else max(1, PICTURES_ON_GPU // num_frames), "clips")


def embedder(
    model: Path | BackboneConfig | VideoCLIP | Embedder,
    text_length: int | None = None,
    precision: Precision = "fp32",
) -> Embedder:
    """The model that `load_model` returns, as an Embedder that cuts texts to `text_length` tokens (None: its own).

    An Embedder is returned unchanged. Raises M2raapError where it would have to cut texts to another length, or to compute in
    another precision.
    """
    from m2raap.models.video_clip import VideoCLIP

    if isinstance(model, Path | BackboneConfig | VideoCLIP):
        return VideoClipEmbedder(load_model(model), text_length, precision)
    if text_length is not None and getattr(model, "text_length", None) != text_length:
        raise M2raapError(
            "embed.text_length needs a model of m2raap, and another model cuts texts itself; set embed.text_length=null"
        )
    if precision != getattr(model, "precision", "fp32"):
        raise M2raapError(
            f"embed.precision {precision} needs a model of m2raap, and another model has its own; set embed.precision=fp32"
        )
    return model


def load_model(model: Path | BackboneConfig | VideoCLIP) -> VideoCLIP:
    """An adapted model's folder, or a bare backbone with mean pooling; a VideoCLIP is returned unchanged."""
    from m2raap.models.families import load_backbone
    from m2raap.models.video_clip import VideoCLIP

    if isinstance(model, VideoCLIP):
        return model
    return VideoCLIP.load(model) if isinstance(model, Path) else VideoCLIP(load_backbone(model), MeanConfig())


def encode_texts(clip: VideoCLIP, texts: list[str], text_length: int | None = None) -> np.ndarray:
    """(N, E) float32, unit rows. `text_length`: number of tokens to which texts are cut; None: the model's own."""
    import torch

    from m2raap.models.batches import TEXTS_ON_GPU, Batches

    on = clip.backbone.device
    tokens_NL = clip.backbone.tokenize(texts, text_length)

    def encoded(rows: list[Tensor]) -> np.ndarray:
        vectors_BE = clip.encode_text(torch.stack(rows).to(on))
        if vectors_BE.dtype != torch.float32:  # of a forward pass in bf16
            vectors_BE = torch.nn.functional.normalize(vectors_BE.float(), dim=-1)
        return vectors_BE.cpu().numpy()

    blocks = list(Batches(TEXTS_ON_CPU if on.type == "cpu" else TEXTS_ON_GPU, "texts")(encoded, tokens_NL))
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
