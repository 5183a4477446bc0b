"""Scores of how well a text matches a clip's frames, from their features.

Shapes: K frames a clip, S sampled clips, M sampled texts of a language, T texts to judge, E dimensions. Features are unit
rows.

A raw cosine is hard to judge: it depends on the language, on the length of the text, and on how "typical" text and clip are.
So a pair is compared with others: `sim_z` with shuffled pairs of its language, `sim_percentile` with other texts for the same
frames (1.0: no other text fits better; the mean of random texts is 0.5), and `sim_margin` says by how much. A random text
therefore passes `sim_percentile >= 0.93` about once in fourteen times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError
from m2raap.curate.limits import Limit
from m2raap.curate.rules import Rule

# With fewer other texts than this, one that fits by chance better than a clip's own would refuse that (1 - 1/15 = 0.93).
FEWEST_OTHERS = 15
MISMATCH = Rule("mismatch", 2, "sim_percentile", "below", Limit(min=0.93))


class MismatchConfig(Config):
    """When a text does not match the frames of its clip. `limit` null: nothing is refused."""

    signal: Literal["sim_percentile", "sim_margin", "sim_z", "sim_robust", "sim_max", "sim_mean"] = Field(
        default="sim_percentile",
        description="The score that is judged; percentile, margin and z compare a pair with other texts or pairs.",
    )
    limit: Limit | None = Field(
        default=MISMATCH.limit,
        description="Limit under which pairs are refused: a number, {min: number, lowest: share of the texts of a language}, "
        "or off. Percentile, margin and z refuse nothing in a language with 15 different texts or fewer.",
    )
    num_others: int = Field(default=256, ge=8, description="Number of other texts with which a pair is compared.")

    @field_validator("limit", mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        return MISMATCH.spelled_out(value)

    @field_validator("limit")
    @classmethod
    def _usable(cls, limit: Limit | None) -> Limit | None:
        MISMATCH.check(limit)
        return limit

    @property
    def compares(self) -> bool:
        """Whether the signal compares a pair with other texts or pairs."""
        return self.signal in ("sim_percentile", "sim_margin", "sim_z")

    def threshold(self, scores: Sequence[float] | np.ndarray) -> float | None:
        """The threshold in units of the signal; None: off. `scores`: of all texts of one language, for a limit by share."""
        return self.limit.threshold(MISMATCH.refuse, scores) if self.limit else None


def robust(sims_K: np.ndarray) -> np.ndarray:
    """Mean of the higher half over the last axis: neither one lucky frame nor one off-topic shot decides it."""
    ordered = np.sort(sims_K, axis=-1)
    half = (ordered.shape[-1] + 1) // 2
    return ordered[..., -half:].mean(axis=-1)


def pair_scores(sims_K: np.ndarray) -> dict[str, float]:
    """sim_max, sim_mean, sim_robust of a text with its clip's K frames (cosines). Raises M2raapError if not finite."""
    sims_K = np.asarray(sims_K, np.float64)
    if sims_K.ndim != 1 or not len(sims_K) or not np.isfinite(sims_K).all():
        raise M2raapError("image-text similarities must be a row of finite numbers: check the backbone's features")
    return {"sim_max": float(sims_K.max()), "sim_mean": float(sims_K.mean()), "sim_robust": float(robust(sims_K))}


class Reference:
    """The sampled texts (all different) and sampled clips with which pairs of one language are compared."""

    def __init__(self, keys: Sequence[int], texts_ME: np.ndarray, frames_SKE: np.ndarray) -> None:
        """`keys`: equal for equal texts; a text is never compared with itself."""
        self._keys = np.asarray(keys, np.int64)
        self._texts_ME = texts_ME
        self._frames_SKE = frames_SKE
        sims_MS = self._with_clips(texts_ME)
        # "Hub" texts fit every clip a little, so similarities are in units of each text's own spread over the clips.
        self._mean_M, self._std_M = _spread(sims_MS)
        # Mean and spread of all pairs are used for those of shuffled ones: only one of hundreds of texts is a clip's own.
        self._shuffled = float(sims_MS.mean()), float(max(sims_MS.std(), 1e-6))

    def _with_clips(self, texts_TE: np.ndarray) -> np.ndarray:
        """(T, S) robust similarity of texts to the sampled clips; rows do not depend on each other."""
        flat_EC = self._frames_SKE.reshape(-1, self._frames_SKE.shape[-1]).T
        blocks = []
        for start in range(0, len(texts_TE), _ROWS):
            block = texts_TE[start : start + _ROWS]
            filled = np.concatenate([block, np.zeros((_ROWS - len(block), block.shape[1]), block.dtype)])
            sims = (filled @ flat_EC)[: len(block)]
            blocks.append(robust(sims.reshape(len(block), *self._frames_SKE.shape[:2])))
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self._frames_SKE)))

    def judge(
        self, texts_TE: np.ndarray, keys_T: Sequence[int], clip_T: Sequence[int], clips_KE: Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        """sim_percentile, sim_margin, sim_z of T texts; `clip_T`: of each text, the index into `clips_KE` of its clip's frames.

        sim_percentile: share of the other texts that fit the frames worse (ties count half); sim_margin: own similarity
        less the mean of the others', in their standard deviations; sim_z: in those that shuffled pairs have. Empty where the
        language has no other text.
        """
        mean_T, std_T = _spread(self._with_clips(texts_TE))
        others_of = [(robust(self._texts_ME @ frames.T) - self._mean_M) / self._std_M for frames in clips_KE]
        judgements: list[dict[str, float]] = []
        for at, (text_E, key, clip) in enumerate(zip(texts_TE, keys_T, clip_T, strict=True)):
            others = others_of[clip][self._keys != key]
            if not len(others):
                judgements.append({})
                continue
            cosine = float(robust(clips_KE[clip] @ text_E))
            scaled = (cosine - mean_T[at]) / std_T[at]
            worse = np.mean(others < scaled - 1e-6) + 0.5 * np.mean(np.abs(others - scaled) <= 1e-6)
            margin = (scaled - others.mean()) / max(others.std(), 1e-6)
            z = (cosine - self._shuffled[0]) / self._shuffled[1]
            scores = {"sim_percentile": worse, "sim_margin": margin, "sim_z": z}
            judgements.append({name: round(float(score), 6) for name, score in scores.items()})
        return judgements


_ROWS = 64  # texts in a matrix product; the last one is filled up with zeros, so that no row depends on its neighbours


def _spread(sims_MS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return sims_MS.mean(axis=1), np.maximum(sims_MS.std(axis=1), 1e-6)
