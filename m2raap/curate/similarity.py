"""Do a clip's frames and a text belong together? Numbers only: the caller has embedded frames and texts.

Shapes: K frames a clip, N texts, M other texts, E dimensions. Features are unit rows.

Raw cosine is a poor judge: it differs by language, by length of text, and by how "typical" a text or clip is. So a
pair is judged against others: `sim_z` against shuffled pairs of its language, `sim_percentile` against other texts for
these very frames (1.0: no other text fits better; a random text has a mean of 0.5), `sim_margin` by how much. A
stranger therefore passes `sim_percentile >= 0.9` about one time in ten if nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError
from m2raap.curate.refusal import Refusal


class MismatchConfig(Config):
    """When image and text are strangers: `signal` under `value`, or in the lowest `quantile` if that is set."""

    signal: Literal["sim_percentile", "sim_margin", "sim_z", "sim_robust", "sim_max", "sim_mean"] = "sim_percentile"
    value: float | None = 0.9
    quantile: float | None = Field(default=None, ge=0, le=1)
    num_others: int = Field(default=256, ge=8, description="other texts that a pair is judged against")

    def threshold(self, scores: Sequence[float] | np.ndarray) -> float:
        """The threshold in the units of the signal; `scores` (all of the language) are only used for a quantile."""
        if self.quantile is not None:
            finite = np.asarray(scores, np.float64)
            return float(np.quantile(finite, self.quantile)) if len(finite) else -np.inf
        return -np.inf if self.value is None else self.value


class Calibration(NamedTuple):
    """Mean and spread of the similarity of shuffled pairs (one language)."""

    mean: float
    std: float

    def z(self, sim: float) -> float:
        return (sim - self.mean) / self.std


def robust(sims_K: np.ndarray) -> np.ndarray:
    """Mean of the better half over the last axis: no lucky frame carries it, no off-topic shot sinks it."""
    ordered = np.sort(sims_K, axis=-1)
    half = (ordered.shape[-1] + 1) // 2
    return ordered[..., -half:].mean(axis=-1)


def pair_scores(sims_K: np.ndarray) -> dict[str, float]:
    """sim_max, sim_mean, sim_robust of a text with its clip's K frames (cosines). Raises M2raapError if not finite."""
    sims_K = np.asarray(sims_K, np.float64)
    if sims_K.ndim != 1 or not len(sims_K) or not np.isfinite(sims_K).all():
        raise M2raapError("image-text similarities must be a row of finite numbers: check the backbone's features")
    return {"sim_max": float(sims_K.max()), "sim_mean": float(sims_K.mean()), "sim_robust": float(robust(sims_K))}


def calibrate(shuffled: Sequence[float] | np.ndarray) -> Calibration:
    """Calibration from similarities (of one signal, one language) of texts with *other* clips' frames."""
    values = np.asarray(shuffled, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        raise M2raapError("calibration needs at least two shuffled pairs in a language: use fewer parts")
    return Calibration(float(values.mean()), float(max(values.std(), 1e-6)))


def draw_others(keys: Sequence[int], own_key: int, num: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of at most `num` random texts whose key is not `own_key` (same key, same text: no stranger)."""
    pool = np.flatnonzero(np.asarray(keys) != own_key)
    return np.sort(rng.choice(pool, size=num, replace=False)) if len(pool) > num else pool


class TextNorm(NamedTuple):
    """Mean and spread of each text's similarity to random clips (N,): "hub" texts fit everything a little."""

    mean: np.ndarray
    std: np.ndarray


def text_norm(texts_NE: np.ndarray, sample_frames_SKE: np.ndarray) -> TextNorm:
    """TextNorm of N texts over S random clips of the corpus with K frames each."""
    sims_NS = np.stack([robust(texts_NE @ frames_KE.T) for frames_KE in sample_frames_SKE], axis=1)
    return TextNorm(sims_NS.mean(axis=1), np.maximum(sims_NS.std(axis=1), 1e-6))


def contrastive_scores(
    frames_KE: np.ndarray, texts_NE: np.ndarray, own: int, others: np.ndarray, norm: TextNorm | None = None
) -> dict[str, float]:
    """sim_percentile and sim_margin of text `own` (an index into texts_NE) for a clip's frames, against `others`.

    `others`: indices of texts of the same language (`draw_others`). sim_percentile: share of the others that fit worse
    (ties count half); sim_margin: own similarity less the mean of the others, in their standard deviations. With `norm`
    every similarity is first taken in units of its text's own spread. Raises M2raapError if there are no others.
    """
    if not len(others):
        raise M2raapError("a pair can only be judged against other texts, and there are none in this language")
    rows = np.append(others, own)
    sims = robust(texts_NE[rows] @ frames_KE.T)
    if norm is not None:
        sims = (sims - norm.mean[rows]) / norm.std[rows]
    mine, sims = float(sims[-1]), sims[:-1]
    worse = np.mean(sims < mine - 1e-6) + 0.5 * np.mean(np.abs(sims - mine) <= 1e-6)
    return {"sim_percentile": float(worse), "sim_margin": float((mine - sims.mean()) / max(sims.std(), 1e-6))}


def mismatch(scores: dict[str, float], cfg: MismatchConfig, threshold: float) -> list[Refusal]:
    """The refusal of a pair whose score is under the threshold (MismatchConfig.threshold), or an empty list."""
    score = scores[cfg.signal]
    return [Refusal("mismatch", cfg.signal, score, threshold)] if score < threshold else []
