"""What the most-copied metric code prints: CLIP4Clip's arithmetic (ArrowLuo/CLIP4Clip, metrics.py), for comparison only.

One text a video (`compute_metrics`): every place where the sorted row equals the target's score is an entry of its own, so a
tie counts several times, and the means are over entries, not over queries. Several texts a video, text to video
(`tensor_text_to_video_metrics`): a tie is broken by the order of the columns (there by torch's argsort), and the
median is the lower of the two middle values. That code drops or ranks NaN; here NaN is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2raap.retrieval.metrics import BLOCK_ELEMENTS, ScoreRows
from m2raap.retrieval.rank_counts import RankCounts

LABEL = "CLIP4Clip's arithmetic, for comparison with tables made by it; not ours: ties are counted several times"
AT = (1, 5, 10)


def clip4clip(side: RankCounts) -> dict[str, float]:
    """`compute_metrics` of one direction. Queries whose video is missing are not in its matrix, so they are left out."""
    present = side.select(~side.missing)
    if not len(present):
        return {}
    greater, entries = present.greater, present.equal + 1
    total = int(entries.sum())
    recalls = {f"R@{k}": 100 * float(np.clip(k - greater, 0, entries).sum()) / total for k in AT}
    # Entry j of a query has place greater + j (from 0), j = 0..equal.
    num_places = int((greater + entries).max())
    starts = np.bincount(greater, minlength=num_places + 1) - np.bincount(greater + entries, minlength=num_places + 1)
    entries_up_to = np.cumsum(np.cumsum(starts)[:num_places])  # entries with place 0..i
    low, high = (int(np.searchsorted(entries_up_to, at, "right")) for at in ((total - 1) // 2, total // 2))
    mean = float((entries * greater + entries * (entries - 1) / 2).sum()) / total
    return _rounded(
        {**recalls, "MdR": (low + high) / 2 + 1, "MnR": mean + 1, "entries": total, "queries": len(present)}
    )


def clip4clip_several(
    rows: ScoreRows, text_P: NDArray[np.int64], video_P: NDArray[np.int64], num_videos: int
) -> dict[str, float]:
    """`tensor_text_to_video_metrics` of text-video pairs, ties in the order of the columns."""
    place = np.zeros(len(text_P), np.int64)
    size = max(1, BLOCK_ELEMENTS // num_videos)
    for start in range(0, len(text_P), size):
        videos = video_P[start : start + size, None]
        scores = rows(text_P[start : start + size])
        target = np.take_along_axis(scores, videos, 1)
        before = (scores > target) | ((scores == target) & (np.arange(num_videos) < videos))
        place[start : start + size] = before.sum(1)
    recalls: dict[str, float] = {f"R@{k}": 100 * float((place < k).mean()) for k in AT}
    middle = float(np.sort(place)[(len(place) - 1) // 2] + 1)
    return _rounded(
        {**recalls, "MdR": middle, "MnR": float(place.mean()) + 1, "entries": len(place), "queries": len(place)}
    )


def _rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}
