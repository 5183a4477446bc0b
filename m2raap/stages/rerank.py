"""Reranking by late interaction: Mug's scores for the best candidates by cosine, in both directions.

`embed` (torch) writes rerank.npz, and `evaluate` (numpy) reads it. It holds for every text its candidate videos and their
scores, for every video its candidate texts. T texts, V videos, C candidates, F frames.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.extension import OrExtension
from m2raap.core.files import write_atomic
from m2raap.retrieval.embeddings import Embeddings

if TYPE_CHECKING:
    from torch import Tensor

    from m2raap.models.video_clip import VideoCLIP

NAME = "rerank.npz"
PAIRS_AT_ONCE = 512


class MugRerankConfig(Config):
    """How Mug reranks the candidates."""

    candidates: int = Field(
        default=50, ge=1, description="Number of the first stage's candidates that are reranked for each query."
    )
    weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of Mug's score; the first stage's cosine has the rest. 0 leaves the first stage's order.",
    )
    form: Annotated[Literal["simple", "full"], OrExtension()] = Field(
        default="simple", description="Form of Mug's score, as adapt.mug_form has it."
    )


def rerank(
    clip: VideoCLIP,
    cfg: MugRerankConfig,
    embeddings: Embeddings,
    frames_VFE: np.ndarray,
    mask_VF: np.ndarray,
    folder: Path,
    text_length: int | None = None,
) -> None:
    """Writes rerank.npz. Vectors have unit length; in each language a video has its own candidate texts.

    `text_length`: number of tokens to which texts are cut; None: the model's own.
    """
    langs_T = np.asarray(embeddings.text_langs)
    video_VE = embeddings.video_VE.astype(np.float64)
    tables: dict[str, np.ndarray] = {}
    for lang in sorted(set(embeddings.text_langs)):
        rows_L = np.flatnonzero(langs_T == lang)
        tokens_TL = clip.backbone.tokenize([embeddings.texts[row] for row in rows_L.tolist()], text_length)
        cosine_LV = np.round(embeddings.text_TE[rows_L].astype(np.float64) @ video_VE.T, 7)
        for direction, similar in (("t2v", cosine_LV), ("v2t", cosine_LV.T)):
            # Equal scores stay in the order of the rows, so that the candidates do not depend on the sort.
            best = np.argsort(-similar, axis=1, kind="stable")[:, : cfg.candidates]
            cosine = np.take_along_axis(similar, best, 1)
            query = np.repeat(np.arange(len(similar)), best.shape[1])
            text, video = (query, best.ravel()) if direction == "t2v" else (best.ravel(), query)
            mug = _scores(clip, cfg, tokens_TL, text, video, frames_VFE, mask_VF)
            mixed = (1 - cfg.weight) * cosine + cfg.weight * mug.reshape(best.shape)
            tables[f"{lang}-{direction}-ids"] = (
                best.astype(np.int32) if direction == "t2v" else rows_L[best].astype(np.int32)
            )
            tables[f"{lang}-{direction}-scores"] = np.round(mixed, 6)
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **tables)
    write_atomic(folder / NAME, sink.getvalue())


def _scores(
    clip: VideoCLIP,
    cfg: MugRerankConfig,
    tokens_TL: Tensor,
    text: np.ndarray,
    video: np.ndarray,
    frames_VFE: np.ndarray,
    mask_VF: np.ndarray,
) -> np.ndarray:
    """Mug's score of every pair of `text` and `video` (rows), ordered by text, so that the tokens of a text are computed once."""
    import torch

    from m2raap.models.mug import mug_pairs

    scores = np.zeros(len(text))
    order = np.argsort(text, kind="stable")
    for start in range(0, len(order), PAIRS_AT_ONCE):
        pairs = order[start : start + PAIRS_AT_ONCE]
        used, place = np.unique(text[pairs], return_inverse=True)
        _, tokens_ULE, mask_UL = clip.encode_text_tokens(tokens_TL[torch.from_numpy(used)])
        places = torch.from_numpy(place)
        frames, mask = (torch.from_numpy(table[video[pairs]]) for table in (frames_VFE, mask_VF))
        scores[pairs] = mug_pairs(tokens_ULE[places], mask_UL[places], frames, mask, cfg.form).numpy()
    return scores
