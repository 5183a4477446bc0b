"""mteb (https://github.com/embeddings-benchmark/mteb): models of m2raap inside it, and its encoders under m2raap's metrics.

mteb gives videos as torchcodec's decoders, which need a system FFmpeg. `Encoder` reads the undecoded files instead, in the
sandboxed child process of the keyframes stage, so that a clip has the same key-frames in both programs.

B clips, T frames, N inputs, E embedding.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.spread import spread
from m2raap.interop.external import as_rows, mean_of_frames, pictures
from m2raap.models.config import BackboneConfig
from m2raap.stages.embedder import CaptionedFrames, ClipFrame, VideoClipEmbedder, load_model, model_folder
from m2raap.stages.rerank import ClipParts
from m2raap.video.clip import KeyframeConfig
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.worker import VideoWorker

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP

LANGUAGES = {"en": "eng-Latn", "zh": "zho-Hans"}
UNDECODED_SCORE = -2.0  # score of a video that could not be decoded: below every cosine


class Encoder:
    """A VideoCLIP as an mteb encoder (EncoderProtocol). An input is a text, an image or a video.

    A `video` may be an undecoded file (a `datasets.Video` column; decoding is switched off), a list of pictures, or
    anything with `get_frames_at` and `metadata.num_frames`, like torchcodec's decoder. `keyframes` chooses the frames of a
    file (default: as in every recipe), and the number of frames of the others. A video that cannot be decoded is logged,
    counted in `refused` by its reason, and ranked last as a document.
    """

    def __init__(
        self,
        model: str | Path | BackboneConfig | VideoCLIP,
        name: str = "m2raap/model",
        keyframes: KeyframeConfig | None = None,
        decode: VideoConfig | None = None,
    ) -> None:
        source = model_folder(Path(model)) if isinstance(model, str | Path) else model
        self._by = VideoClipEmbedder(load_model(source))
        self._name = name
        self._keyframes, self._decode = keyframes or KeyframeConfig(), decode
        if self._keyframes.detector == "transnetv2":
            raise M2raapError("keyframes.detector transnetv2 cannot run inside mteb; choose another, such as adaptive")
        self.refused: dict[str, int] = {}

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """(N, E) float32, unit rows; zeros for a video that cannot be decoded. `inputs` is the DataLoader of mteb."""
        import torch

        blocks = []
        with VideoWorker(self._decode) as worker, torch.inference_mode():
            for batch in _undecoded(inputs):
                kinds = [kind for kind in ("text", "image", "video") if kind in batch]
                if len(kinds) != 1:
                    raise M2raapError(
                        f"task '{task_metadata.name}' has {' + '.join(kinds) or ', '.join(batch)} in one input; "
                        "m2raap encodes a text, an image or a video, one per input"
                    )
                blocks.append(self._batch(kinds[0], batch[kinds[0]], worker))
        vectors_NE = np.concatenate(blocks)
        if not vectors_NE.any():
            raise M2raapError(
                f"task '{task_metadata.name}': none of {len(vectors_NE)} videos could be decoded: {self.refused}"
            )
        return vectors_NE

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(N, M) cosines, a tensor; UNDECODED_SCORE where the second is all zeros."""
        import torch

        first, second = (torch.atleast_2d(torch.as_tensor(vectors)).float() for vectors in (embeddings1, embeddings2))
        scores = torch.nn.functional.normalize(first, dim=-1) @ torch.nn.functional.normalize(second, dim=-1).T
        return scores.masked_fill((second == 0).all(1)[None, :], UNDECODED_SCORE)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(N,) cosines, a tensor; UNDECODED_SCORE where the second is all zeros."""
        import torch

        first, second = (torch.atleast_2d(torch.as_tensor(vectors)).float() for vectors in (embeddings1, embeddings2))
        scores = torch.nn.functional.cosine_similarity(first, second, dim=-1)
        return scores.masked_fill((second == 0).all(1), UNDECODED_SCORE)

    @cached_property
    def mteb_model_meta(self) -> Any:
        from mteb.models import ModelMeta

        clip, frames = self._by.clip, self._keyframes
        return ModelMeta.create_empty().model_copy(
            update={
                "name": self._name,
                "revision": self._by.digest,
                "languages": sorted(LANGUAGES.values()),
                "n_parameters": sum(p.numel() for p in clip.parameters()),
                "max_tokens": clip.backbone.context_length,
                "embed_dim": clip.backbone.embed_dim,
                "framework": ["PyTorch"],
                "similarity_fn_name": "cosine",
                "use_instructions": False,
                "modalities": ["text", "image", "video"],
                "experiment_kwargs": {"frames": f"{frames.strategy}-{frames.k}"},
            }
        )

    def _batch(self, kind: str, items: list[Any], worker: VideoWorker) -> np.ndarray:
        if kind == "text":
            return self._by.texts(list(items))
        clips: list[CaptionedFrames] = [
            [ClipFrame(jpeg) for jpeg in (self._jpegs(item, worker) if kind == "video" else [_png(item)])]
            for item in items
        ]
        vectors_BE = np.zeros((len(clips), self._by.clip.backbone.embed_dim), np.float32)
        decoded = [place for place, clip in enumerate(clips) if clip]
        if decoded:
            vectors_BE[decoded] = self._by.videos([clips[place] for place in decoded])[0]
        return vectors_BE

    def _jpegs(self, video: Any, worker: VideoWorker) -> list[bytes]:
        k = self._keyframes.k
        if hasattr(video, "get_frames_at"):
            from PIL import Image

            picked = video.get_frames_at(spread(video.metadata.num_frames, k)).data
            return [_png(Image.fromarray(np.asarray(frame).transpose(1, 2, 0))) for frame in picked]
        if isinstance(video, dict) and {"bytes", "path"} <= set(video):
            try:
                return self._of_file(video, worker)
            except Refused as refused:
                self.refused[refused.reason] = self.refused.get(refused.reason, 0) + 1
                talk.log(f"a video cannot be decoded and is ranked last ({refused})")
                return []
        if isinstance(video, list) and all(hasattr(picture, "convert") for picture in video):
            return [_png(video[place]) for place in spread(len(video), k)]
        raise M2raapError(
            f"a video is of type {type(video).__name__}; give an undecoded file (datasets.Video(decode=False)), a list of "
            "pictures, or an object with get_frames_at, like torchcodec's VideoDecoder"
        )

    def _of_file(self, video: dict[str, Any], worker: VideoWorker) -> list[bytes]:
        if video["bytes"] is None:
            if "://" in video["path"]:
                raise M2raapError(f"{video['path']}: is a URL; load the dataset with its files on this machine")
            path = Path(video["path"]).resolve()  # files in a hub's cache are symbolic links
            return worker.extract(resolve_video(path.parent, path.name), 0.0, None, self._keyframes).jpegs
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder).resolve() / "video"
            path.write_bytes(video["bytes"])
            return worker.extract(path, 0.0, None, self._keyframes).jpegs


class MtebEmbedder:
    """An mteb encoder as an Embedder, to be evaluated on benchmarks of m2raap.

    An encoder of videos gets the stored frames with the interface of torchcodec's decoder (which mteb's FramesCollator
    reads); of an encoder of images the vectors of the frames are averaged. Raises M2raapError for one of texts alone.
    """

    def __init__(self, model: Any) -> None:
        meta = model.mteb_model_meta
        self.model, self._name = model, meta.name or type(model).__name__
        self._kind = next((kind for kind in ("video", "image") if kind in meta.modalities), None)
        if self._kind is None or "text" not in meta.modalities:
            raise M2raapError(
                f"mteb model '{self._name}' encodes {', '.join(meta.modalities)}; text and video or image are needed"
            )
        self.digest = f"mteb {self._name} {meta.revision or 'without a revision'}"
        self.preprocess = f"left to mteb's {self._name}"

    def videos(self, clips: list[CaptionedFrames]) -> tuple[np.ndarray, list[ClipParts]]:
        """(N, E) float32 of N clips, as the encoder gives them, and nothing for reranking."""
        from datasets import Dataset, Features, Image

        if not clips:
            return np.zeros((0, 0), np.float32), []
        jpegs = [[frame.jpeg for frame in row] for row in clips]
        if self._kind == "video":
            rows = Dataset.from_dict({"video": list(range(len(jpegs)))})
            documents = rows.with_transform(lambda batch: {"video": [StoredFrames(jpegs[i]) for i in batch["video"]]})
            return self._encode(documents, "document"), []
        flat = [{"bytes": jpeg, "path": None} for row in jpegs for jpeg in row]
        rows = Dataset.from_dict({"image": flat}, features=Features({"image": Image()}))
        return mean_of_frames(self._encode(rows, "document"), [len(row) for row in jpegs]), []

    def texts(self, texts: list[str]) -> np.ndarray:
        """(N, E) float32 of N texts, as the encoder gives them."""
        from datasets import Dataset

        if not texts:
            return np.zeros((0, 0), np.float32)
        return self._encode(Dataset.from_dict({"text": texts, "query": texts}), "query")

    def _encode(self, rows: Any, side: str) -> np.ndarray:
        from mteb.types import PromptType
        from torch.utils.data import DataLoader

        loader = DataLoader(rows, batch_size=16, collate_fn=_by_column)
        vectors = self.model.encode(
            loader, task_metadata=_metadata(), hf_split="test", hf_subset="default", prompt_type=PromptType(side),
            batch_size=16, show_progress_bar=False,
        )  # fmt: skip
        return as_rows(vectors, len(rows), f"encode of mteb's {self._name}")


@dataclass(frozen=True)
class _Metadata:
    """A collator that samples by frames a second only ever leaves frames out: at this length it keeps all that are stored."""

    num_frames: int
    end_stream_seconds: float = 1e6


@dataclass(frozen=True)
class _Batch:
    data: Any  # (T, 3, H, W) uint8


class StoredFrames:
    """A clip's stored frames with the part of the interface of torchcodec's VideoDecoder that mteb's collators use."""

    def __init__(self, jpegs: list[bytes]) -> None:
        self._jpegs = jpegs
        self.metadata = _Metadata(len(jpegs))

    def __len__(self) -> int:
        return len(self._jpegs)

    def get_frames_at(self, indices: list[int]) -> _Batch:
        import torch

        pixels = [np.asarray(picture) for picture in pictures([self._jpegs[i] for i in indices])]
        return _Batch(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous())


def is_encoder(model: Any) -> bool:
    """Whether a model is an mteb encoder."""
    return hasattr(model, "mteb_model_meta") and hasattr(model, "encode")


def _undecoded(inputs: Any) -> Iterator[dict[str, Any]]:
    """The batches of mteb's loader. A column of files is read again without decoding."""
    features = getattr(inputs.dataset, "features", None) or {}
    if type(features.get("video")).__name__ == "Video":
        from datasets import Video
        from torch.utils.data import DataLoader

        rows = inputs.dataset.cast_column("video", Video(decode=False))
        inputs = DataLoader(rows, batch_size=inputs.batch_size, collate_fn=inputs.collate_fn)
    yield from inputs


def _by_column(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _png(picture: Any) -> bytes:
    """A picture as a PNG, without loss, since the embedder reads encoded pictures."""
    sink = io.BytesIO()
    picture.convert("RGB").save(sink, "PNG", compress_level=0)
    return sink.getvalue()


def _metadata() -> Any:
    """The description of a task, by which mteb's models choose their prompts."""
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name="M2raapTextToVideo",
        description="A video-text retrieval benchmark of m2raap.",
        dataset={"path": "m2raap", "revision": "none"},
        type="Any2AnyRetrieval",
        category="t2v",
        modalities=["text", "video"],
        eval_langs=sorted(LANGUAGES.values()),
        main_score="recall_at_1",
    )
