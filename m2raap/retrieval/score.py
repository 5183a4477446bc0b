"""Metrics of any similarity matrix: `m2raap.retrieval.evaluate(sim)` and `m2raap evaluate SIM.npy [--pairs pairs.csv]`."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2raap.core.errors import M2raapError
from m2raap.retrieval.compat import LABEL, clip4clip, clip4clip_several
from m2raap.retrieval.metrics import V2T_RULES, metrics, metrics_pessimistic, ranks, rsum, ties
from m2raap.retrieval.rank_counts import RECALLS, RankCounts
from m2raap.retrieval.significance import METHOD, intervals

TIE_POLICY = "expected under a random tie-break; the pessimistic numbers count every tie as lost"


def evaluate(sim_TV: NDArray[Any], video_of_text_T: ArrayLike | None = None, *, compat: bool = False) -> dict[str, Any]:
    """Retrieval metrics of a similarity matrix in both directions, with 95 % intervals.

    `sim_TV`: scores (texts, videos), the larger the more alike. `video_of_text_T`: for each text the column of the video that
    it describes, -1 for a text that describes none (it stays in the gallery); without it text i belongs to video i. A video
    may have several texts: video to text is then ranked by its best text (rule a, as CLIP4Clip does) and, under "v2t_rule_b",
    by the rank of that text among all texts.

    Gives {"t2v": {"R@1": ..., "R@5", "R@10", "R@50", "MeanR" (all in percent; MeanR is the mean of R@1, R@5 and R@10), "MdR",
    "MnR" (1 is best), "MRR", "intervals": {"R@1": [lo, hi], ...}, "pessimistic": {...}, "ties": {...}, "queries", "gallery"},
    "v2t": {...}, "rsum": ..., "notes": [sentences on what is easily overlooked]}. Ties: every metric is its expectation under a
    random tie-break; "pessimistic" counts each tie as lost. Intervals: cluster bootstrap over videos, the gallery held fixed,
    or Wilson's where every query hits or every one misses. With `compat` also what CLIP4Clip's metrics.py (ArrowLuo/CLIP4Clip)
    prints. Raises M2raapError for a matrix that is not two-dimensional or holds NaN or Inf, and for an index out of range.
    """
    sim_TV = np.asarray(sim_TV)
    if sim_TV.ndim != 2:
        raise M2raapError(f"the scores have shape {sim_TV.shape}; expected two dimensions, texts by videos")
    if video_of_text_T is None:
        if sim_TV.shape[0] != sim_TV.shape[1]:
            raise M2raapError(
                f"{sim_TV.shape[0]} texts by {sim_TV.shape[1]} videos is not square, so text i cannot belong to video i; "
                "give video_of_text_T"
            )
        return _evaluate_pairs(sim_TV, np.repeat(np.arange(len(sim_TV))[:, None], 2, axis=1), compat)
    owners_T = np.asarray(video_of_text_T)
    if owners_T.shape != sim_TV.shape[:1] or owners_T.dtype.kind not in "iu" or (owners_T < -1).any():
        raise M2raapError(
            f"video_of_text_T is {owners_T.dtype} of shape {owners_T.shape}; expected a column number or -1 for each of "
            f"{len(sim_TV)} texts"
        )
    texts = np.flatnonzero(owners_T >= 0)
    return _evaluate_pairs(sim_TV, np.stack([texts, owners_T[texts]], axis=1), compat)


def score_matrix(path_npy: Path, pairs_csv: Path | None = None, compat: bool = False) -> dict[str, Any]:
    """As :func:`evaluate`, of a .npy file and of a CSV with the columns text and video, each text once at most.

    Without `pairs_csv` text i belongs to video i. Raises M2raapError naming the file, and the row where there is one.
    """
    sim_TV = read_matrix(path_npy)
    if pairs_csv is not None:
        pairs = read_pairs(pairs_csv, *sim_TV.shape)
    elif sim_TV.shape[0] == sim_TV.shape[1]:
        pairs = np.repeat(np.arange(len(sim_TV))[:, None], 2, axis=1)
    else:
        raise M2raapError(
            f"{path_npy}: {sim_TV.shape[0]} texts by {sim_TV.shape[1]} videos is not square, so row i cannot belong to "
            "column i; give --pairs pairs.csv with the columns text,video"
        )
    try:
        return _evaluate_pairs(sim_TV, pairs, compat)
    except M2raapError as error:
        raise M2raapError(f"{path_npy}: {error}") from None


def _evaluate_pairs(sim_TV: NDArray[Any], pairs: NDArray[np.int64], compat: bool) -> dict[str, Any]:
    by_direction = ranks(sim_TV, pairs)
    result: dict[str, Any] = {
        "t2v": _direction(by_direction.t2v, by_direction.t2v.target),
        "v2t": _direction(by_direction.v2t, by_direction.v2t.query),
        "rsum": round(rsum(by_direction.t2v, by_direction.v2t), 6),
        "texts": sim_TV.shape[0],
        "videos": sim_TV.shape[1],
        "tie_policy": TIE_POLICY,
        "intervals": METHOD,
        "v2t_rule": V2T_RULES["a"],
        "notes": _notes(by_direction.t2v, sim_TV.shape, pairs),
    }
    if by_direction.several_texts:
        result["v2t_rule_b"] = _direction(by_direction.v2t_rule_b, by_direction.v2t_rule_b.query)
    if compat:
        t2v = by_direction.t2v
        if by_direction.several_texts:
            rows = lambda texts: np.asarray(sim_TV[texts])  # noqa: E731
            table = clip4clip_several(rows, t2v.query, t2v.target, sim_TV.shape[1])
        else:
            table = clip4clip(t2v)
        result["compat"] = {"label": LABEL, "t2v": table, "v2t": clip4clip(by_direction.v2t)}
    return result


def _notes(t2v: RankCounts, shape: tuple[int, ...], pairs: NDArray[np.int64]) -> list[str]:
    """What makes the figures other than the user may think: texts without a video, videos without a text, distances."""
    notes = []
    if without := shape[0] - len(np.unique(pairs[:, 0])):
        notes.append(
            f"{without:,} of {shape[0]:,} texts belong to no video; they stay as rivals of the others, video to text"
        )
    if without := shape[1] - len(np.unique(pairs[:, 1])):
        notes.append(
            f"{without:,} of {shape[1]:,} videos have no text; they stay as rivals of the others, text to video"
        )
    last = np.mean(t2v.rank_expected > 0.9 * shape[1]) if shape[1] >= 5 else 0.0
    if last > 0.5:
        notes.append(
            f"{100 * last:.0f} % of the texts rank their own video among the last tenth: if these are distances, negate them"
        )
    return notes


def read_matrix(path: Path) -> NDArray[Any]:
    """The memory-mapped matrix in a .npy file. Raises M2raapError naming the file and what is wrong with it."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise M2raapError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise M2raapError(
            f"{path}: not a .npy file of plain numbers ({error}); write it with np.save(path, array)"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise M2raapError(f"{path}: an .npz archive; save the one score matrix with np.save")
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise M2raapError(f"{path}: the numbers are of type {array.dtype}; expected floats or whole numbers")
    if array.ndim != 2 or 0 in array.shape:
        raise M2raapError(f"{path}: shape {array.shape}; expected two dimensions, texts by videos")
    return array


def read_pairs(path: Path, num_texts: int, num_videos: int) -> NDArray[np.int64]:
    """The (text, video) index pairs in a CSV file with that header, 0-based. Raises M2raapError naming the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except FileNotFoundError:
        raise M2raapError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise M2raapError(f"{path}: cannot be read as CSV: {error}") from None
    if not lines or [cell.strip() for cell in lines[0]] != ["text", "video"]:
        raise M2raapError(f"{path}: line 1 must be the header 'text,video'")
    pairs: list[tuple[int, int]] = []
    line_of_text: dict[int, int] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if not cells:
            continue
        if len(cells) != 2 or not all(re.fullmatch(r"\s*[0-9]{1,15}\s*", cell) for cell in cells):
            raise M2raapError(f"{path}: line {number} must hold two whole numbers, 'text,video', counted from 0")
        text, video = int(cells[0]), int(cells[1])
        for value, size, name in ((text, num_texts, "text"), (video, num_videos, "video")):
            if value >= size:
                raise M2raapError(f"{path}: line {number}: there is no {name} {value}, the matrix holds 0..{size - 1}")
        if text in line_of_text:
            raise M2raapError(
                f"{path}: line {number}: text {text} is already in line {line_of_text[text]}; "
                "a text belongs to one video"
            )
        line_of_text[text] = number
        pairs.append((text, video))
    if not pairs:
        raise M2raapError(f"{path}: no pairs below the header")
    return np.asarray(pairs, np.int64)


def _direction(side: RankCounts, videos: NDArray[np.int64]) -> dict[str, Any]:
    """`videos`: the one that each query is about; they are what is resampled."""
    points = np.stack([side.points(name) for name in RECALLS])
    bounds = zip(RECALLS, intervals(points, videos, seed=0, limits_M=[(0.0, 100.0)] * len(RECALLS)), strict=True)
    return {
        **{name: round(value, 6) for name, value in metrics(side).items()},
        "intervals": {name: [round(bound.lo, 6), round(bound.hi, 6)] for name, bound in bounds},
        "pessimistic": {name: round(value, 6) for name, value in metrics_pessimistic(side).items()},
        "ties": ties(side),
        "queries": len(side),
        "gallery": side.gallery,
    }
