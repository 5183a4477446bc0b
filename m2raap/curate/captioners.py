"""Auxiliary captions of key-frames. The offline captioner looks them up; a generative one answers to the same protocol.

Shapes: K frames, C candidate captions, E dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Literal, Protocol

import numpy as np
import yaml
from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError
from m2raap.curate import language

EncodeText = Callable[[list[str]], np.ndarray]


class CaptionerConfig(Config):
    """Which captioner, and when it says nothing."""

    name: Literal["retrieval"] = "retrieval"
    min_score: float | None = Field(
        default=None, description="cosine under which a frame gets no caption; None: always one"
    )


class Captioner(Protocol):
    """K frames of one clip -> one row a frame and language."""

    producer: str

    def caption(self, frame_features_KE: np.ndarray, langs: Sequence[str]) -> list[dict[str, Any]]: ...


@lru_cache(maxsize=1)
def candidates() -> dict[str, tuple[str, ...]]:
    """lang -> candidate captions; the i-th of en and of zh mean the same."""
    raw = resources.files("m2raap").joinpath("assets/words/concepts.yaml").read_text(encoding="utf-8")
    tree = yaml.safe_load(raw)
    pairs = [tuple(pair) for group in tree["captions"].values() for pair in group]
    result = {}
    for column, lang in enumerate(language.LANGS):
        composed = [
            template.format(colour=colour[column], shape=shape[column])
            for template in tree["templates"][lang]
            for colour in tree["colours"]
            for shape in tree["shapes"]
        ]
        result[lang] = (*composed, *(pair[column] for pair in pairs))
        assert len(set(result[lang])) == len(result[lang]), f"concepts.yaml says a {lang} caption twice"
    return result


class RetrievalCaptioner:
    """The candidate caption nearest to the frame. Candidates are encoded once a language, at first use.

    `encode_text`: texts -> (N, E) features of the backbone that made the frame features; they are scaled to unit rows.
    """

    producer = "retrieval"

    def __init__(self, encode_text: EncodeText, cfg: CaptionerConfig | None = None) -> None:
        self.cfg = cfg or CaptionerConfig()
        self._encode_text = encode_text
        self._features_CE: dict[str, np.ndarray] = {}

    def caption(self, frame_features_KE: np.ndarray, langs: Sequence[str]) -> list[dict[str, Any]]:
        """Rows frame_index, lang, text, score (cosine), outcome 'ok' | 'skipped' (text None), by frame, then language.

        Raises M2raapError for features that are not finite or of another width than the text features.
        """
        return self.caption_many([frame_features_KE], langs)[0]

    def caption_many(self, clips: Sequence[np.ndarray], langs: Sequence[str]) -> list[list[dict[str, Any]]]:
        """`caption` of many clips with one matrix product a language. Clips may differ in K."""
        if not clips:
            return []
        frames_KE = np.concatenate([np.asarray(clip, np.float32) for clip in clips])
        if not np.isfinite(frames_KE).all():
            raise M2raapError("frame features hold NaN or infinity: check the backbone's precision and weights")
        best: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for lang in langs:
            texts_CE = self._text_features(lang)
            if frames_KE.shape[-1] != texts_CE.shape[-1]:
                raise M2raapError(
                    f"frame features have {frames_KE.shape[-1]} dimensions, text features {texts_CE.shape[-1]}: "
                    "both must come from one backbone"
                )
            sims_KC = frames_KE @ texts_CE.T
            best[lang] = sims_KC.argmax(axis=1), sims_KC.max(axis=1)
        result, at = [], 0
        for clip in clips:
            rows = []
            for frame_index in range(len(clip)):
                for lang in langs:
                    choice, score = int(best[lang][0][at + frame_index]), float(best[lang][1][at + frame_index])
                    good = self.cfg.min_score is None or score >= self.cfg.min_score
                    rows.append(
                        {
                            "frame_index": frame_index,
                            "lang": lang,
                            "text": candidates()[lang][choice] if good else None,
                            "score": score,
                            "outcome": "ok" if good else "skipped",
                        }
                    )
            result.append(rows)
            at += len(clip)
        return result

    def _text_features(self, lang: str) -> np.ndarray:
        language.check_lang(lang)
        if lang not in self._features_CE:
            features = np.asarray(self._encode_text(list(candidates()[lang])), np.float32)
            self._features_CE[lang] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return self._features_CE[lang]


CAPTIONERS: dict[str, Callable[[EncodeText, CaptionerConfig], Captioner]] = {"retrieval": RetrievalCaptioner}
