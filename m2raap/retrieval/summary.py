"""One row of results: metrics and 95 % intervals of the same queries under one or several trained models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.retrieval.metrics import metrics, metrics_pessimistic, ties
from m2raap.retrieval.rank_counts import RECALLS, RankCounts
from m2raap.retrieval.significance import intervals, median_interval

DIGITS = 6


def summary_row(sides: Sequence[RankCounts], video_ids: Sequence[str], seed: int) -> dict[str, Any]:
    """Metrics of one direction, averaged over `sides` (training seeds; the same queries in the same order).

    `video_ids` names each query's video: the cluster that is resampled. Gives `queries`, `gallery`, `missing`, `seeds`,
    `seeds_r1`, `metrics`, `pessimistic`, `intervals` ({metric: [lo, hi]}) and `ties`; percent for RECALLS, floats to 6 digits.
    """
    for side in sides:
        assert len(side) == len(video_ids)
        if not np.array_equal(side.missing, sides[0].missing) or side.gallery != sides[0].gallery:
            raise M2raapError(
                "the runs to be averaged have different galleries or miss different videos; evaluate all on the same corpus"
            )
    values = {
        **{name: np.mean([side.points(name) for side in sides], axis=0) for name in RECALLS},
        "MnR": np.mean([side.rank_expected for side in sides], axis=0),
        "MRR": np.mean([side.reciprocal() for side in sides], axis=0),
    }
    limits = [*([(0.0, 100.0)] * len(RECALLS)), (1.0, float(max(sides[0].gallery, 2))), (0.0, 1.0)]
    bounds = dict(zip(values, intervals(np.stack(list(values.values())), video_ids, seed, limits), strict=True))
    bounds["MdR"] = median_interval(np.stack([side.rank_expected for side in sides]), video_ids, seed)
    return {
        "queries": len(video_ids),
        "gallery": sides[0].gallery,
        "missing": int(sides[0].missing.sum()),
        "seeds": len(sides),
        "seeds_r1": [round(100 * float(side.hits(1).mean()), DIGITS) for side in sides],
        "metrics": _mean_of([metrics(side) for side in sides]),
        "pessimistic": _mean_of([metrics_pessimistic(side) for side in sides]),
        "intervals": {
            name: [round(bounds[name].lo, DIGITS), round(bounds[name].hi, DIGITS)] for name in metrics(sides[0])
        },
        "tied_queries": max(ties(side)["tied_queries"] for side in sides),
    }


def _mean_of(tables: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([table[name] for table in tables])), DIGITS) for name in tables[0]}
