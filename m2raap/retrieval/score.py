"""Scores a similarity matrix that somebody else computed: `m2raap evaluate SIM.npy [--pairs pairs.csv]`."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2raap.core.errors import M2raapError
from m2raap.retrieval.compat import LABEL, clip4clip, clip4clip_several
from m2raap.retrieval.metrics import RECALL_AT, V2T_RULES, Side, metrics, metrics_pessimistic, ranks, rsum, ties
from m2raap.retrieval.significance import intervals

INTERVALS = "95 % cluster bootstrap over videos, the gallery held fixed"
TIE_POLICY = "expected under a random tie-break; the pessimistic numbers count every tie as lost"


def score_matrix(path_npy: Path, pairs_csv: Path | None = None, compat: bool = False) -> dict[str, Any]:
    """Metrics of a .npy of scores, rows texts and columns videos.

    Without `pairs_csv` text i belongs to video i. Gives {"t2v": {"R@1": ..., "MdR": ..., "pessimistic": {...},
    "ties": {...}, "intervals": {"R@1": [lo, hi], ...}}, "v2t": {...}, "rsum": ...} and, where videos have several texts,
    "v2t_rule_b". With `compat` also what CLIP4Clip's arithmetic prints. Raises M2raapError naming the file, and the row where
    there is one.
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
        found = ranks(sim_TV, pairs)
    except M2raapError as error:
        raise M2raapError(f"{path_npy}: {error}") from None
    result: dict[str, Any] = {
        "t2v": _direction(found.t2v, found.t2v.target),
        "v2t": _direction(found.v2t, found.v2t.query),
        "rsum": round(rsum(found.t2v, found.v2t), 6),
        "texts": sim_TV.shape[0],
        "videos": sim_TV.shape[1],
        "tie_policy": TIE_POLICY,
        "intervals": INTERVALS,
        "v2t_rule": V2T_RULES["a"],
    }
    if found.several_texts:
        result["v2t_rule_b"] = _direction(found.v2t_rule_b, found.v2t_rule_b.query)
    if compat:
        t2v = found.t2v
        if found.several_texts:
            rows = lambda texts: np.asarray(sim_TV[texts])  # noqa: E731
            t2v = clip4clip_several(rows, found.t2v.query, found.t2v.target, sim_TV.shape[1])
        else:
            t2v = clip4clip(found.t2v)
        result["compat"] = {"label": LABEL, "t2v": t2v, "v2t": clip4clip(found.v2t)}
    return result


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
                f"{path}: line {number}: text {text} already stands in line {line_of_text[text]}; "
                "a text belongs to one video"
            )
        line_of_text[text] = number
        pairs.append((text, video))
    if not pairs:
        raise M2raapError(f"{path}: no pairs below the header")
    return np.asarray(pairs, np.int64)


def _direction(side: Side, videos: NDArray[np.int64]) -> dict[str, Any]:
    """`videos`: the one that each query is about; they are what is resampled."""
    hits = np.stack([100 * side.hits(k) for k in RECALL_AT])
    bounds = zip(RECALL_AT, intervals(hits, videos, seed=0), strict=True)
    return {
        **{name: round(value, 6) for name, value in metrics(side).items()},
        "intervals": {f"R@{k}": [round(found.lo, 6), round(found.hi, 6)] for k, found in bounds},
        "pessimistic": {name: round(value, 6) for name, value in metrics_pessimistic(side).items()},
        "ties": ties(side),
        "queries": len(side),
        "gallery": side.gallery,
    }
