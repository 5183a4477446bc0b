"""Models of sentence-transformers under the metrics of m2raap: MLLM embedders such as Qwen3-VL-Embedding, and CLIP.

A clip reaches a model of videos as all of its stored frames, in their order and with their times: the processor samples
nothing. T frames, N inputs, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core.engine import device as default_device
from m2raap.core.errors import M2raapError
from m2raap.interop.external import as_rows, mean_of_frames, pictures
from m2raap.models.backbone import weights_digest
from m2raap.models.hub import loading
from m2raap.models.text import as_words, markup_of
from m2raap.stages.embedder import CaptionedFrames
from m2raap.stages.rerank import ClipParts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = 32  # texts per forward pass
MILLISECONDS = 1000  # a rate at which the time of every frame is the whole number that processors expect


class SentenceTransformerEmbedder:
    """A model of sentence-transformers as an Embedder, to be evaluated on benchmarks of m2raap.

    `model`: a name on the hub, a folder in sentence-transformers' form, or a loaded SentenceTransformer. Texts are embedded as
    queries and clips as documents, each with its instruction: None takes the model's own prompt ("query", "document"), ""
    none. Where the model reads messages the instruction is the system message, otherwise it comes before the text.
    `video`: settings of the model's video processor, such as {"size": ...}; frames are never sampled. `batch_size`: clips at
    a time. `device`, `dtype` (such as "bfloat16"): for a model that is loaded here; None: the device of this process, and the
    type of the stored weights.

    A model of images alone gives the mean of the unit vectors of a clip's frames. Code and pickles of a model are never run.
    Raises M2raapError for a model that cannot be loaded, reads neither videos nor images, or does not take every frame.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        *,
        name: str | None = None,
        video: Mapping[str, Any] | None = None,
        batch_size: int = 4,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            name = name or (Path(model).resolve().name if Path(model).is_dir() else str(model))
            model = _load(str(model), device or default_device(), dtype)
        self.model: Any = model
        self._name = name or type(model).__name__
        self._batch = batch_size
        self._query = _instruction(self.model, query_instruction, "query")
        self._document = _instruction(self.model, document_instruction, "document", "passage", "corpus")
        self._kind = next((kind for kind in ("video", "image") if kind in self.model.modalities), None)
        if self._kind is None or "text" not in self.model.modalities:
            raise M2raapError(
                f"sentence-transformers model '{self._name}' reads {_joined(self.model.modalities)}; text and video or image "
                "are needed"
            )
        self._video = dict(video or {}) | {"do_sample_frames": False}
        self._markup = markup_of(_special_tokens(self.model))
        self._lengths_checked: set[int] = set()
        self.preprocess = " ".join(
            f"left to sentence-transformers' {self._name}; instruction of texts {self._query!r}, of clips {self._document!r}; "
            f"video settings {dict(video or {})}".split()
        )[:600]
        tensors = [(key, value) for key, value in self.model.state_dict().items() if hasattr(value, "detach")]
        described = {
            "name": self._name,
            "query": self._query,
            "document": self._document,
            "video": self._video,
        }
        self.digest = weights_digest(described, tensors)

    def videos(self, clips: list[CaptionedFrames]) -> tuple[np.ndarray, list[ClipParts]]:
        """(N, E) float32 of N clips, as the model gives them, and nothing for reranking."""
        blocks = [self._block(clips[start : start + self._batch]) for start in range(0, len(clips), self._batch)]
        return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32), []

    def texts(self, texts: list[str]) -> np.ndarray:
        """(N, E) float32 of N texts, as the model gives them.

        A text is never an address or a path to a picture, which the library would open, and never a mark of the template.
        """
        if not texts:
            return np.zeros((0, 0), np.float32)
        inputs = [{"text": text} for text in as_words(texts, self._markup)]
        vectors = self.model.encode_query(inputs, prompt=self._query, batch_size=TEXTS, show_progress_bar=False)
        return as_rows(vectors, len(texts), f"encode_query of '{self._name}'")

    def _block(self, clips: Sequence[CaptionedFrames]) -> np.ndarray:
        decoded = [pictures([frame.jpeg for frame in clip]) for clip in clips]
        if self._kind == "image":
            images = [{"image": picture} for clip in decoded for picture in clip]
            return mean_of_frames(self._encode(images), [len(clip) for clip in clips])
        inputs = [
            {"video": _video(images, [frame.time_s for frame in clip])}
            for images, clip in zip(decoded, clips, strict=True)
        ]
        for item, clip in zip(inputs, clips, strict=True):
            if len(clip) not in self._lengths_checked:
                self._check_frames(item, len(clip))
                self._lengths_checked.add(len(clip))
        return self._encode(inputs, processing_kwargs={"video": self._video})

    def _encode(self, inputs: list[Any], **kwargs: Any) -> np.ndarray:
        vectors = self.model.encode_document(
            inputs, prompt=self._document, batch_size=self._batch, show_progress_bar=False, **kwargs
        )
        return as_rows(vectors, len(inputs), f"encode_document of '{self._name}'")

    def _check_frames(self, item: dict[str, Any], num_frames: int) -> None:
        """Raises M2raapError where the processor fails, or gives the vision tower another number of frames than the clip has.

        Models with 3D patches take `temporal_patch_size` frames at once and repeat the last one.
        """
        try:
            features = self.model.preprocess([item], processing_kwargs={"video": self._video})
        except Exception as error:  # processors raise many unrelated types
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise M2raapError(
                f"sentence-transformers model '{self._name}' cannot read a clip of {num_frames} frames ({reason}); give it "
                "other settings by `video`, or another number of frames by `num_frames`"
            ) from error
        grid_NC = features.get("video_grid_thw")
        if grid_NC is None:
            return
        together = int(getattr(getattr(self.model[0].processor, "video_processor", None), "temporal_patch_size", 1))
        steps = -(-max(num_frames, 2 if together > 1 else 1) // together)
        if int(grid_NC[0, 0]) != steps:
            raise M2raapError(
                f"sentence-transformers model '{self._name}' takes {int(grid_NC[0, 0]) * together} frames of a clip of "
                f"{num_frames}: its processor samples frames by itself and cannot be measured on stored frames"
            )


def is_sentence_transformer(model: Any) -> bool:
    """Whether a model is a SentenceTransformer, whose library is not imported to find out."""
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(model).__mro__}
    return "sentence_transformers.SentenceTransformer" in kinds


def _load(name: str, device: str | None, dtype: str | None) -> SentenceTransformer:
    """A model by its name on the hub or its folder. Raises M2raapError where it cannot be loaded."""
    try:
        import sentence_transformers
        import transformers
        from sentence_transformers.util import is_sentence_transformer_model
    except ImportError as error:
        raise M2raapError(f"sentence-transformers is not installed ({error}); pip install 'm2raap[mllm]'") from error

    subject, local = f"sentence-transformers model '{name}'", Path(name).is_dir()
    try:
        with loading(subject, f"local-dir:{name}" if local else name, "sentence_transformers"):
            transformers.logging.disable_progress_bar()
            if not is_sentence_transformer_model(name, local_files_only=local):
                raise M2raapError(
                    f"{subject} holds no modules.json, so that its pooling is not known; give a model in "
                    "sentence-transformers' form"
                )
            return sentence_transformers.SentenceTransformer(
                name,
                device=device,
                trust_remote_code=False,
                local_files_only=local,
                model_kwargs={"dtype": dtype} if dtype else None,
            )
    except M2raapError:
        raise
    except Exception as error:  # the hub clients and model classes raise a dozen unrelated types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise M2raapError(
            f"{subject} cannot be loaded ({reason}). If this machine cannot reach the model hub, copy the model's folder to it "
            "and give the folder"
        ) from error


def _video(images: list[Any], times_s: list[float | None]) -> dict[str, Any]:
    """Frames as the library takes a video that has been decoded: (T, 3, H, W) uint8, and the time of each frame.

    A single frame is repeated, since models with 3D patches take no fewer than two. Frames in another order than in time (the
    ablations) keep the times of their places. Raises M2raapError for frames of several sizes.
    """
    import torch

    if len({picture.size for picture in images}) > 1:
        raise M2raapError("the stored frames of a clip are of several sizes; make the key-frames again")
    pixels_THWC = np.stack([np.asarray(picture) for picture in images])
    known_s = sorted(time_s for time_s in times_s if time_s is not None)
    if len(images) == 1:
        pixels_THWC, known_s = np.repeat(pixels_THWC, 2, 0), known_s * 2
    metadata = None
    if len(known_s) == len(pixels_THWC):
        places = [round(time_s * MILLISECONDS) for time_s in known_s]
        # The frames' own rate: that of n frames from the first to one step after the last.
        length = max(places[-1] + 1, round((places[-1] - places[0]) * len(places) / max(1, len(places) - 1)))
        metadata = {
            "fps": MILLISECONDS,
            "frames_indices": places,
            "total_num_frames": length,
            "duration": length / MILLISECONDS,
            "height": pixels_THWC.shape[1],
            "width": pixels_THWC.shape[2],
        }
    return {"array": torch.from_numpy(pixels_THWC).permute(0, 3, 1, 2).contiguous(), "video_metadata": metadata}


def _special_tokens(model: Any) -> set[str]:
    """All marks of a model's tokenizer: those of texts, and those of its chat template (<|im_end|>, <|video_pad|>)."""
    tokenizer = getattr(model, "tokenizer", None)
    added = getattr(tokenizer, "get_added_vocab", dict)()
    return {*getattr(tokenizer, "all_special_tokens", ()), *added}


def _instruction(model: Any, instruction: str | None, *prompt_names: str) -> str:
    """The instruction, or where it is None the first of the model's own prompts of these names; "" is none."""
    if instruction is not None:
        return instruction
    prompts = (model.prompts.get(prompt_name) for prompt_name in prompt_names)
    return next((prompt for prompt in prompts if prompt is not None), "")


def _joined(modalities: Sequence[Any]) -> str:
    return ", ".join("+".join(kind) if isinstance(kind, tuple) else str(kind) for kind in modalities) or "nothing"
