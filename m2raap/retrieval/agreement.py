"""English and Chinese on the same clips: the correlation of their ranks, their common hits, and their gap in R@k and MeanR.

A clip with several texts in a language counts once, with their mean. The gap is paired over the clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2raap.retrieval.rank_counts import MEAN_RECALL
from m2raap.retrieval.sides import side_of
from m2raap.retrieval.significance import paired_difference
from m2raap.retrieval.summary import DIGITS

LANGS = ("en", "zh")
METRICS = ("R@1", "R@5", "R@10", MEAN_RECALL)


def agreement(table: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """One row for each direction of a table of ranks; none where a language is absent or no clip has both languages.

    clips; spearman (of the clips' mean ranks; None where one does not vary); both, only_en, only_zh, neither (shares of
    clips with rank 1, under a random tie-break); gaps ({metric: en, zh, diff, lo, hi, p, smallest}, en minus zh in points).
    """
    if not set(LANGS) <= {row["lang"] for row in table}:
        return []
    rows = []
    for direction in ("t2v", "v2t"):
        if not any(row["direction"] == direction for row in table):
            continue
        by_lang = [_by_clip(table, lang, direction) for lang in LANGS]
        clips = sorted(set(by_lang[0]) & set(by_lang[1]))
        if not clips:
            continue
        en, zh = (np.asarray([values_of[clip] for clip in clips]) for values_of in by_lang)
        rows.append({"direction": direction, "clips": len(clips), **_agree(en, zh), "gaps": _gaps(en, zh, clips, seed)})
    return rows


def _by_clip(table: Sequence[Mapping[str, Any]], lang: str, direction: str) -> dict[str, NDArray[np.float64]]:
    """Clip -> its mean rank, and the mean of its points by each metric of METRICS."""
    side, _, clips = side_of(table, lang, direction, None)
    values = np.stack([side.rank_expected, *(side.points(metric) for metric in METRICS)], axis=1)
    names, index = np.unique(np.asarray(clips), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return dict(zip(names.tolist(), sums / np.bincount(index)[:, None], strict=True))


def _agree(en: NDArray[np.float64], zh: NDArray[np.float64]) -> dict[str, float | None]:
    a, b = en[:, 1] / 100, zh[:, 1] / 100  # shares of hits at rank 1
    shares = {"both": a * b, "only_en": a * (1 - b), "only_zh": (1 - a) * b, "neither": (1 - a) * (1 - b)}
    return {
        "spearman": spearman(en[:, 0], zh[:, 0]),
        **{name: round(float(values.mean()), DIGITS) for name, values in shares.items()},
    }


def _gaps(en: NDArray[np.float64], zh: NDArray[np.float64], clips: list[str], seed: int) -> dict[str, dict[str, float]]:
    gaps = {}
    for column, metric in enumerate(METRICS, start=1):
        a, b = en[:, column], zh[:, column]
        gap = paired_difference(a, b, clips, seed, unit=100)
        numbers = {"en": a.mean(), "zh": b.mean(), "diff": gap.diff, "lo": gap.lo, "hi": gap.hi, "p": gap.p}
        numbers["smallest"] = gap.smallest
        gaps[metric] = {name: round(float(value), DIGITS) for name, value in numbers.items()}
    return gaps


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where all values of a or of b are equal."""
    first, second = _mean_ranks(a), _mean_ranks(b)
    if 0 in (np.ptp(first), np.ptp(second)):
        return None
    return round(float(np.corrcoef(first, second)[0, 1]), DIGITS)


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]
