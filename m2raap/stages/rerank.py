"""Reranking by late interaction: an interaction's scores for the best candidates by cosine, or for all pairs.

`embed` (torch) writes rerank.npz, and `evaluate` (numpy) reads it. With candidates it holds for every text its candidate videos
and their scores, for every video its candidate texts; without, the scores of all texts with all videos. rerank-VARIANT.npz
is the same for clips that were embedded in another way. T texts, V videos, C candidates.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.models.config import UntrainedInteractionConfig
from m2raap.retrieval.embeddings import Embeddings

if TYPE_CHECKING:
    from torch import Tensor

    from m2raap.models.interaction.units import ClipUnits, TextUnits
    from m2raap.models.video_clip import VideoCLIP

NAME = "rerank"
PAIRS_AT_ONCE, TEXTS_AT_ONCE = 512, 64
# The units of a clip (the fields of ClipUnits, without the first dimension), by name.
ClipParts = dict[str, np.ndarray]


class RerankConfig(Config):
    """How an interaction reranks the videos of a text, and the texts of a video."""

    candidates: int | None = Field(
        default=50,
        ge=1,
        description="Number of the first stage's candidates that are reranked for each query; null: all pairs are scored.",
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Weight of the interaction's score; the first stage's cosine has the rest. 0 leaves the first stage's order.",
    )
    interaction: UntrainedInteractionConfig = Field(
        default=None,
        description="An interaction without learnt weights, with start open; null: the one that the model was adapted with.",
    )

    @model_validator(mode="after")
    def _scores_without_training(self) -> RerankConfig:
        if getattr(self.interaction, "start", "open") == "gate":
            raise ValueError(
                "embed.rerank.interaction.start gate is the cosine of the first stage until its gate is learnt: set it to open, "
                "or leave out embed.rerank.interaction to use the interaction that the model was adapted with"
            )
        return self


def interaction_of(clip: VideoCLIP, cfg: RerankConfig) -> tuple[Any, str]:
    """The interaction that reranks, and its name. Raises M2raapError where the settings name none and the model has none."""
    from m2raap.models.interaction.registry import build_interaction

    if cfg.interaction is not None:
        interaction = build_interaction(cfg.interaction, clip.backbone.embed_dim, "embed.rerank.interaction")
        if "patches" in interaction.needs:  # type: ignore[operator]
            clip.keep_patches("embed.rerank.interaction")
        return interaction.to(clip.backbone.device).eval(), cfg.interaction.name
    if clip.interaction is None or clip.interaction_cfg is None:
        raise M2raapError(
            "embed.rerank: this model was adapted without an interaction; adapt with adapt.interaction, name one in "
            "embed.rerank.interaction, or set embed.rerank to null"
        )
    return clip.interaction, clip.interaction_cfg.name


def rerank(
    clip: VideoCLIP,
    cfg: RerankConfig,
    embeddings: Embeddings,
    parts: Sequence[ClipParts],
    file: Path,
    tokenize: Callable[[Sequence[str]], Tensor],
) -> None:
    """Writes `file`. `embeddings` and `parts` are those of one variant of the clips; vectors have unit length.

    In each language a video has its own candidate texts. `tokenize`: token ids (N, L) of texts.
    """
    interaction, name = interaction_of(clip, cfg)
    scorer = _Scorer(clip, interaction, _stacked(parts, clip.backbone.device), tokenize)
    langs_T = np.asarray(embeddings.text_langs)
    video_VE = embeddings.video_VE.astype(np.float64)
    tables: dict[str, np.ndarray] = {"name": np.asarray(name), "weight": np.asarray(cfg.weight)}
    for lang in sorted(set(embeddings.text_langs)):
        rows_L = np.flatnonzero(langs_T == lang)
        scorer.read([embeddings.texts[row] for row in rows_L.tolist()])
        cosine_LV = np.round(embeddings.text_TE[rows_L].astype(np.float64) @ video_VE.T, 7)

        def mixed(cosine: np.ndarray, scores: np.ndarray) -> np.ndarray:
            return np.round((1 - cfg.weight) * cosine + cfg.weight * scores.reshape(cosine.shape), 6)

        if cfg.candidates is None:
            tables[f"{lang}-scores"] = mixed(cosine_LV, scorer.matrix()).astype(np.float32)
            continue
        for direction, similar in (("t2v", cosine_LV), ("v2t", cosine_LV.T)):
            # Equal scores stay in the order of the rows, so that the candidates do not depend on the sort.
            best = np.argsort(-similar, axis=1, kind="stable")[:, : cfg.candidates]
            cosine = np.take_along_axis(similar, best, 1)
            query = np.repeat(np.arange(len(similar)), best.shape[1])
            text, video = (query, best.ravel()) if direction == "t2v" else (best.ravel(), query)
            ids = best if direction == "t2v" else rows_L[best]
            tables[f"{lang}-{direction}-ids"] = ids.astype(np.int32)
            tables[f"{lang}-{direction}-scores"] = mixed(cosine, scorer.pairs(text, video))
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **tables)
    write_atomic(file, sink.getvalue())


class _Scorer:
    """The interaction's scores of the texts that were read last with all clips."""

    def __init__(
        self, clip: VideoCLIP, interaction: Any, clips: ClipUnits, tokenize: Callable[[Sequence[str]], Tensor]
    ) -> None:
        self.clip, self.interaction, self.clips, self.tokenize = clip, interaction, clips, tokenize

    def read(self, texts: Sequence[str]) -> None:
        from m2raap.models.interaction.phrases import token_spans

        self.tokens_TL = self.tokenize(texts)
        self.spans_TX2 = token_spans(texts, self.tokenize) if "phrases" in self.interaction.needs else None

    def units(self, rows: np.ndarray) -> TextUnits:
        import torch

        chosen, device = torch.from_numpy(rows), self.clip.backbone.device
        spans = self.spans_TX2[chosen].to(device) if self.spans_TX2 is not None else None
        return self.clip.text_units(self.tokens_TL[chosen].to(device), self.interaction.needs, spans)

    def matrix(self) -> np.ndarray:
        """Scores (T, V) of all texts with all videos."""
        from m2raap.models.interaction.score import score_matrix

        rows = np.arange(len(self.tokens_TL))
        blocks = [rows[start : start + TEXTS_AT_ONCE] for start in range(0, len(rows), TEXTS_AT_ONCE)]
        return np.concatenate(
            [score_matrix(self.interaction, self.units(block), self.clips).cpu().numpy() for block in blocks]
        )

    def pairs(self, text: np.ndarray, video: np.ndarray) -> np.ndarray:
        """Scores of pairs of a text and a video (rows), in the order of texts, so that a text is computed once."""
        import torch

        from m2raap.models.interaction.score import score_pairs
        from m2raap.models.interaction.units import select

        scores = np.zeros(len(text))
        order = np.argsort(text, kind="stable")
        for start in range(0, len(order), PAIRS_AT_ONCE):
            pairs = order[start : start + PAIRS_AT_ONCE]
            used, place = np.unique(text[pairs], return_inverse=True)
            device = self.clip.backbone.device
            texts = select(self.units(used), torch.from_numpy(place).to(device))
            clips = select(self.clips, torch.from_numpy(video[pairs]).to(device))
            scores[pairs] = score_pairs(self.interaction, texts, clips).cpu().numpy()
        return scores


def parts_of(units: ClipUnits) -> list[ClipParts]:
    """The units of each clip of a batch, as arrays; patches in float16, because there are so many."""
    from m2raap.models.interaction.units import tensors_of

    arrays = {
        name: (value.half() if name == "patches_BTPE" else value.float() if value.is_floating_point() else value)
        .cpu()
        .numpy()
        for name, value in tensors_of(units).items()
    }
    return [{name: array[row] for name, array in arrays.items()} for row in range(len(units.mask_BT))]


def _stacked(parts: Sequence[ClipParts], device: Any) -> ClipUnits:
    """The units of all clips, filled up to the frames of the longest; a clip without captions gets empty ones."""
    import torch

    from m2raap.models.interaction.units import ClipUnits

    most = max(len(part["mask_BT"]) for part in parts)
    examples = {name: array for part in parts for name, array in part.items()}
    tensors = {}
    for name, example in examples.items():
        shape = example.shape if name == "pooled_BE" else (most, *example.shape[1:])
        stacked = np.zeros((len(parts), *shape), example.dtype)
        for row, part in enumerate(parts):
            if name in part:
                stacked[(row, ...) if name == "pooled_BE" else (row, slice(len(part[name])))] = part[name]
        tensors[name] = torch.from_numpy(stacked).to(device)
    return ClipUnits(**tensors)
