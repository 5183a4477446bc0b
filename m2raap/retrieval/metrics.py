"""Ranks by counting, and the retrieval metrics over them. Numpy only.

The policy on ties is that of :mod:`m2raap.retrieval.rank_counts`.

Shape suffixes: T texts, V videos, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2raap.core.errors import M2raapError
from m2raap.retrieval.rank_counts import MEAN_RECALL, RECALL_AT, RECALLS, RSUM_AT, RankCounts

# For a video with several captions there are two rules of ranking from video to text; they agree at R@1 only.
V2T_RULES = {
    "a": "each video is scored by its best caption, rank among videos (CLIP4Clip)",
    "b": "rank of the best own caption among all captions",
}
BLOCK_ELEMENTS = 4_000_000
TILE_ELEMENTS = 250_000

# Rows of scores for text indices: (n,) -> (n, V).
ScoreRows = Callable[[NDArray[np.int64]], NDArray[Any]]


@dataclass(frozen=True)
class Ranks:
    t2v: RankCounts
    v2t: RankCounts  # rule a
    v2t_rule_b: RankCounts
    several_texts: bool  # some video has more than one text, so the two rules differ


def ranks(sim_TV: NDArray[Any], pairs: ArrayLike) -> Ranks:
    """Ranks in both directions of a score matrix (texts, videos), read in row blocks of bounded memory.

    `pairs` holds (text index, video index): a text has one video, a video may have several texts. Texts and videos
    without a pair are in the gallery but are no queries. Raises M2raapError for bad pairs, and for NaN or Inf, naming the
    row.
    """
    if sim_TV.ndim != 2 or 0 in sim_TV.shape:
        raise M2raapError(f"the scores have shape {sim_TV.shape}; expected a table of texts by videos")
    return ranks_of(lambda rows: np.asarray(sim_TV[rows]), sim_TV.shape[0], sim_TV.shape[1], pairs)


def ranks_of(
    score_rows: ScoreRows,
    num_texts: int,
    num_videos: int,
    pairs: ArrayLike,
    absent_video_T: NDArray[np.int64] | None = None,
) -> Ranks:
    """As :func:`ranks`, for scores computed on demand: `score_rows(text indices)` gives (n, num_videos) scores.

    `absent_video_T`: for texts without a pair the number (0 or more) of the video that they describe and that has no column;
    the texts of one such video are one item under rule a. Without it each of these texts is an item.
    """
    pairs = checked_pairs(pairs, num_texts, num_videos)
    video_of_T = np.full(num_texts, -1, np.int64)
    video_of_T[pairs[:, 0]] = pairs[:, 1]
    absent_video_T = np.arange(num_texts) if absent_video_T is None else absent_video_T
    group_T = np.where(video_of_T >= 0, video_of_T, num_videos + absent_video_T)
    order_T = np.lexsort((np.arange(num_texts), group_T))
    blocks = list(_whole_groups(group_T[order_T], max(1, BLOCK_ELEMENTS // num_videos)))

    greater_T, equal_T = np.zeros(num_texts, np.int64), np.zeros(num_texts, np.int64)
    target_score_T: NDArray[Any] = np.zeros(num_texts)
    for start, end in blocks:
        texts = order_T[start:end]
        scores = _finite(score_rows(texts), texts)
        target_scores = scores[np.arange(len(texts)), np.maximum(video_of_T[texts], 0)]
        target_score_T = target_score_T if target_score_T.dtype == scores.dtype else target_score_T.astype(scores.dtype)
        target_score_T[texts] = target_scores
        for rows in _tiles(len(texts), num_videos):
            greater_T[texts[rows]] = _per_row(scores[rows] > target_scores[rows, None])
            equal_T[texts[rows]] = _per_row(scores[rows] == target_scores[rows, None]) - 1

    # The target score of a video is that of its best text (of equal ones the first in `order_T`). No text of the video scores
    # more, and `num_best_V` of them score the same: all texts are counted, and these subtracted.
    target_score_V, num_best_V = np.zeros(num_videos, target_score_T.dtype), np.zeros(num_videos, np.int64)
    best_text_V = np.full(num_videos, -1, np.int64)
    paired_T = order_T[video_of_T[order_T] >= 0]
    for text in paired_T[np.lexsort((-np.arange(len(paired_T)), target_score_T[paired_T]))].tolist():
        best_text_V[video_of_T[text]] = text  # the last one to be written is the best
    has_text_V = best_text_V >= 0
    target_score_V[has_text_V] = target_score_T[best_text_V[has_text_V]]
    np.add.at(num_best_V, video_of_T[paired_T], target_score_T[paired_T] == target_score_V[video_of_T[paired_T]])

    num_groups = len(np.unique(group_T))
    several = num_groups < num_texts
    greater_a, equal_a = np.zeros(num_videos, np.int64), -has_text_V.astype(np.int64)
    greater_b, equal_b = np.zeros(num_videos, np.int64), -num_best_V
    for start, end in blocks:
        texts = order_T[start:end]
        scores = score_rows(texts)
        for rows in _tiles(len(texts), num_videos):
            greater_b += _per_column(scores[rows] > target_score_V)
            equal_b += _per_column(scores[rows] == target_score_V)
        if several:
            groups = group_T[texts]
            starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
            best_GV = np.maximum.reduceat(scores, starts, axis=0)
            for rows in _tiles(len(best_GV), num_videos):
                greater_a += _per_column(best_GV[rows] > target_score_V)
                equal_a += _per_column(best_GV[rows] == target_score_V)
    if not several:  # each video has one text, so the two rules agree
        greater_a, equal_a = greater_b, equal_b

    texts, videos = np.sort(pairs[:, 0]), np.unique(pairs[:, 1])
    num_texts_V = np.bincount(pairs[:, 1], minlength=num_videos)
    result = Ranks(
        t2v=_side(texts, video_of_T[texts], greater_T, equal_T, num_videos),
        v2t=_side(videos, best_text_V[videos], greater_a, equal_a, num_groups),
        v2t_rule_b=_side(videos, best_text_V[videos], greater_b, equal_b, num_texts, num_best_V - 1),
        several_texts=several,
    )
    assert len(result.t2v) == len(pairs)
    assert len(result.v2t) == len(result.v2t_rule_b) == int((num_texts_V > 0).sum())
    return result


def metrics(side: RankCounts) -> dict[str, float]:
    """Headline metrics, expected under a random tie-break: RECALLS in percent, MdR, MnR (1-based), MRR in 0..1.

    Raises M2raapError where there is no query.
    """
    if not len(side):
        raise M2raapError("there are no queries to score, because no text has a video")
    return {
        **{name: float(side.points(name).mean()) for name in RECALLS},
        "MdR": float(np.median(side.rank_expected)),
        "MnR": float(side.rank_expected.mean()),
        "MRR": float(side.reciprocal().mean()),
    }


def metrics_pessimistic(side: RankCounts) -> dict[str, float]:
    """The same recalls and ranks with every tie counted as lost. Equal to :func:`metrics` where nothing ties."""
    recalls = {f"R@{k}": 100 * float(side.hits_pessimistic(k).mean()) for k in RECALL_AT}
    return {
        **recalls,
        MEAN_RECALL: float(np.mean([recalls[f"R@{k}"] for k in RSUM_AT])),
        "MdR": float(np.median(side.rank_pessimistic)),
        "MnR": float(side.rank_pessimistic.mean()),
    }


def rsum(t2v: RankCounts, v2t: RankCounts) -> float:
    """The sum of the six recalls R@1, R@5, R@10 of both directions, in percent (at most 600)."""
    return sum(100 * float(side.hits(k).mean()) for side in (t2v, v2t) for k in RSUM_AT)


def ties(side: RankCounts) -> dict[str, int]:
    """How many queries tie with another item, and how many items the worst of them ties with."""
    return {"tied_queries": int((side.equal > 0).sum()), "most_ties": int(side.equal.max(initial=0))}


def checked_pairs(pairs: ArrayLike, num_texts: int, num_videos: int) -> NDArray[np.int64]:
    """`pairs` as a (P, 2) array. Raises M2raapError for an empty list, an index out of range, or a text named twice."""
    table = np.asarray(pairs)
    if table.size == 0 or table.ndim != 2 or table.shape[1] != 2 or table.dtype.kind not in "iu":
        raise M2raapError("pairs: expected a non-empty list of (text index, video index), whole numbers")
    table = table.astype(np.int64)
    for column, size, name in ((0, num_texts, "text"), (1, num_videos, "video")):
        bad = np.flatnonzero((table[:, column] < 0) | (table[:, column] >= size))
        if len(bad):
            raise M2raapError(
                f"pairs: entry {bad[0]} names {name} {table[bad[0], column]}, but the scores hold {name}s 0..{size - 1}"
            )
    texts, counts = np.unique(table[:, 0], return_counts=True)
    if counts.max() > 1:
        raise M2raapError(f"pairs: text {texts[counts.argmax()]} has two entries; a text belongs to one video")
    return table


def _side(
    query: NDArray[np.int64],
    target: NDArray[np.int64],
    greater: NDArray[Any],
    equal: NDArray[Any],
    gallery: int,
    siblings: NDArray[np.int64] | None = None,
) -> RankCounts:
    siblings = None if siblings is None else siblings[query]
    return RankCounts(query, target, greater[query], equal[query], np.zeros(len(query), bool), gallery, siblings)


def _whole_groups(groups: NDArray[np.int64], rows: int) -> Iterator[tuple[int, int]]:
    """Blocks (start, end) of about `rows` rows that never split a run of equal groups; a group larger than that is one block."""
    ends = np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, len(groups))
    start = 0
    while start < len(groups):
        fits = int(np.searchsorted(ends, start + rows, "right")) - 1
        first = int(np.searchsorted(ends, start, "right"))
        end = int(ends[max(fits, first)])
        yield start, end
        start = end


def _tiles(num_rows: int, width: int) -> Iterator[slice]:
    """Slices of rows whose masks fit into the processor's cache, at most 255 rows, which uint8 can count."""
    size = min(255, max(1, TILE_ELEMENTS // width))
    for start in range(0, num_rows, size):
        yield slice(start, min(num_rows, start + size))


def _per_row(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.fromiter(map(np.count_nonzero, mask), np.int64, len(mask))


def _per_column(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    assert len(mask) <= 255
    return np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint8)


def _finite(scores: NDArray[Any], texts: NDArray[np.int64]) -> NDArray[Any]:
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise M2raapError(
            f"the score of text {texts[row]} (row) and video {column} (column) is {scores[row, column]}: "
            "NaN and Inf cannot be ranked; compute these embeddings again"
        )
    return scores
