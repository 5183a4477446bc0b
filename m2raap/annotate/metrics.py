"""How good tags are: GAP, mAP, Hit@1 and PERR, as the YouTube-8M challenge defines them, and the AP of each label.

N clips, L labels, T the best tags of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOP = 20  # tags of a clip that GAP counts


@dataclass(frozen=True)
class Judgement:
    """What the metrics need of some clips: the `TOP` best tags of each, with `p_NT` descending, whether they are true, and how
    many labels each clip has."""

    p_NT: np.ndarray
    true_NT: np.ndarray
    num_true_N: np.ndarray


def gap(judged: Judgement, weights_N: np.ndarray | None = None) -> float:
    """Global average precision: the AP of the best `TOP` tags of all clips in one list, over all true labels, at most TOP a clip
    (eval_util.calculate_gap and average_precision_calculator of google/youtube-8m). `weights_N`: how often each clip counts."""
    weights = np.ones(len(judged.p_NT)) if weights_N is None else weights_N
    order = np.argsort(-judged.p_NT.ravel(), kind="stable")
    weights_sorted = np.repeat(weights, judged.p_NT.shape[1])[order]
    num_true = (weights * np.minimum(judged.num_true_N, TOP)).sum()
    return average_precision(judged.true_NT.ravel()[order], weights_sorted, float(num_true))


def average_precision(true_sorted: np.ndarray, weights_sorted: np.ndarray, num_true: float) -> float:
    """The mean, over the `num_true` true ones, of the precision at the place of each; NaN where nothing is true."""
    if not num_true:
        return float("nan")
    hits = np.cumsum(weights_sorted * true_sorted)
    precision = hits / np.maximum(np.cumsum(weights_sorted), 1e-12)
    return float((precision * weights_sorted * true_sorted).sum() / num_true)


def hit_at_1(judged: Judgement) -> float:
    """Share of the clips with a label whose best tag is true."""
    with_label = judged.num_true_N > 0
    return float(judged.true_NT[with_label, 0].mean()) if with_label.any() else float("nan")


def perr(judged: Judgement) -> float:
    """Precision at equal recall: the mean, over clips with a label, of the precision of as many tags as the clip has labels, of
    which at most TOP are looked at."""
    values = [
        true_T[: min(count, len(true_T))].mean()
        for true_T, count in zip(judged.true_NT, judged.num_true_N.tolist(), strict=True)
        if count
    ]
    return float(np.mean(values)) if values else float("nan")


def label_ap(p_N: np.ndarray, true_N: np.ndarray, weights_DN: np.ndarray | None = None) -> tuple[float, float, float]:
    """The average precision of one label over clips, and the middle 95% of it where clips are drawn again (`weights_DN`)."""
    order = np.argsort(-p_N, kind="stable")
    true = true_N[order]

    def of(weights_N: np.ndarray) -> float:
        weights = weights_N[order]
        return average_precision(true, weights, float((weights * true).sum()))

    value = of(np.ones(len(p_N)))
    return value, *interval([of(row) for row in weights_DN] if weights_DN is not None else [value])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95% of bootstrapped values; NaN where there is none."""
    finite = [value for value in values if not math.isnan(value)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (math.nan, math.nan)
    return float(low), float(high)


def draws_of(num_clips: int, seed: int, draws: int) -> np.ndarray:
    """(draws, N) how often each clip is drawn where N clips are drawn with replacement."""
    generator = np.random.default_rng(seed)
    return np.stack(
        [np.bincount(generator.integers(0, num_clips, num_clips), minlength=num_clips) for _ in range(draws)]
    )


def joined(parts: Sequence[Judgement]) -> Judgement:
    """The judgements of some clips and of others as one."""
    most = max(part.p_NT.shape[1] for part in parts)
    wide = [part for part in parts if part.p_NT.shape[1] == most]  # an empty part may have fewer columns
    return Judgement(
        *(np.concatenate([getattr(part, name) for part in wide]) for name in ("p_NT", "true_NT", "num_true_N"))
    )
