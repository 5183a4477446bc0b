"""Rescoring: dual softmax, QB-Norm, and a second stage over candidates. The report labels the rows of each.

Each takes and gives functions that compute the scores of some text rows, so that memory is bounded. Normalisers are rounded
before they are used, so that equal scores stay equal whatever the block size.

Shape suffixes: T texts, V videos, B bank texts, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2raap.retrieval.metrics import BLOCK_ELEMENTS, ScoreRows

_DIGITS = 9
# Added to the scores of candidates, more where these are large: every candidate ranks above all other items, whose scores are
# near 1 at most.
_LIFT = 100.0


@dataclass(frozen=True)
class LanguageScores:
    """The first stage of one language. Ids are sorted; `rows(text rows)` gives (n, V) cosines."""

    lang: str
    text_ids: list[str]
    video_ids: list[str]
    several_texts: bool  # some video has more than one
    rows: ScoreRows


@dataclass(frozen=True)
class Rescored:
    """Scores for each direction; None for a direction that the method does not score."""

    t2v: ScoreRows | None
    v2t: ScoreRows | None


Rescore = Callable[[LanguageScores], Rescored]


def dual_softmax(rows: ScoreRows, num_texts: int, num_videos: int, inverse_temperature: float) -> Rescored:
    """Keys in the order of s(t, v) times its softmax p over all queries: the texts in t2v, the videos in v2t (CAMoE, Cheng et al.
    2021).

    Transductive: a query's score depends on all the other queries. CAMoE's product reverses the order where s is negative: the
    larger p, the lower s p, so that the best pair comes last. A negative score is therefore divided by p: it rises
    with s and with p, and stays below every score that is not negative. The rank of a query whose own score is not negative is
    exactly CAMoE's; only among negative scores is the order another.

    Only the order of the keys means something: the product itself falls below what float64 holds at large inverse temperatures,
    where different scores would tie at 0, so that it is computed as a logarithm (see :func:`_keys`).
    """
    norm_V = _log_sums(rows, num_texts, num_videos, inverse_temperature)

    def t2v(texts: NDArray[np.int64]) -> NDArray[Any]:
        scores = rows(texts)
        return _keys(scores, inverse_temperature * scores - norm_V)

    def v2t(texts: NDArray[np.int64]) -> NDArray[Any]:
        scores = rows(texts)
        norm = np.round(_log_sum(inverse_temperature * scores, axis=1), _DIGITS)
        return _keys(scores, inverse_temperature * scores - norm[:, None])

    return Rescored(t2v, v2t)


def _keys(scores: NDArray[Any], log_share: NDArray[Any]) -> NDArray[np.float64]:
    """Finite numbers in the order of s p, and of s / p where s is negative, for p = exp(log_share).

    With a = log s + log p, or log(-s) - log p where s is negative, the key is 1 / (1 - a), or 1 + a where a > 0, with the sign of
    s: it rises from 0 to infinity with a, without losing more than the last bits of a.
    """
    scores = np.asarray(scores, np.float64)
    sign = np.sign(scores)
    with np.errstate(divide="ignore"):
        log = np.where(sign == 0, 0.0, np.log(np.abs(scores)) + sign * log_share)
    return sign * np.where(log > 0, 1 + log, 1 / (1 + np.maximum(-log, 0)))


def qb_norm(
    rows: ScoreRows, bank_rows: ScoreRows, num_bank: int, num_videos: int, inverse_temperature: float
) -> Rescored:
    """Dynamic inverted softmax (QB-Norm, Bogolin et al., CVPR 2022), text to video only: the bank holds texts.

    A query whose best video is also the best one of some bank text is scored exp(b s) / sum over the bank of exp(b s), as a
    logarithm; every other query keeps its scores.
    """
    norm_V = _log_sums(bank_rows, num_bank, num_videos, inverse_temperature)
    active_V = np.zeros(num_videos, bool)
    for texts in _blocks(num_bank, num_videos):
        active_V[bank_rows(texts).argmax(axis=1)] = True

    def t2v(texts: NDArray[np.int64]) -> NDArray[Any]:
        scores = rows(texts)
        normed = active_V[scores.argmax(axis=1)]
        return np.where(normed[:, None], inverse_temperature * scores - norm_V, scores)

    return Rescored(t2v, None)


def lifted(
    rows: ScoreRows, text_P: NDArray[np.int64], video_P: NDArray[np.int64], score_P: NDArray[np.float64]
) -> ScoreRows:
    """Scores under which the given pairs rank before all others, in the order of `score_P`; the others keep their order."""
    assert len(text_P) == len(video_P) == len(score_P)
    lift = max(_LIFT, 4 * float(np.abs(score_P).max(initial=0)))
    order = np.argsort(text_P, kind="stable")
    text_P, video_P, score_P = text_P[order], video_P[order], score_P[order]

    def lifted_rows(texts: NDArray[np.int64]) -> NDArray[Any]:
        scores = np.array(rows(texts), np.float64)
        first, last = np.searchsorted(text_P, texts), np.searchsorted(text_P, texts, "right")
        sizes = last - first
        at = np.repeat(first - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        scores[np.repeat(np.arange(len(texts)), sizes), video_P[at]] = score_P[at] + lift
        return scores

    return lifted_rows


def _log_sums(rows: ScoreRows, num_rows: int, num_videos: int, factor: float) -> NDArray[Any]:
    """(V,) log of the sum over all rows of exp(factor * score)."""
    total_V = np.full(num_videos, -np.inf)
    for texts in _blocks(num_rows, num_videos):
        total_V = np.logaddexp(total_V, _log_sum(factor * rows(texts), axis=0))
    return np.round(total_V, _DIGITS)


def _log_sum(values: NDArray[Any], axis: int) -> NDArray[Any]:
    most = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - most).sum(axis=axis)) + most.squeeze(axis)


def _blocks(num_rows: int, num_columns: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, BLOCK_ELEMENTS // num_columns)
    for start in range(0, num_rows, size):
        yield np.arange(start, min(num_rows, start + size))
