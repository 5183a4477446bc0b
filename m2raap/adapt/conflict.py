"""The conflict of every text with its clip's captions of frames, or sound, as the mean over a training's steps, and its file.

`conflict` is minus the agreement of their gradients at the video vector (m2raap.adapt.harmonize): above 0 they pull apart. The
file can be given to a next run as --scores, whose filter.scores then drops by it. N texts, B clips, K texts per clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.core.files import open_atomic
from m2raap.core.strings import Strings


class ConflictMeans:
    """The mean conflict of every text, and in how many draws it was measured."""

    def __init__(self, num_texts: int, device: torch.device) -> None:
        self.sum_N = torch.zeros(num_texts, dtype=torch.float64, device=device)
        self.count_N = torch.zeros(num_texts, dtype=torch.int64, device=device)

    def add(self, rows_KB: np.ndarray, agreement_BK: Tensor) -> None:
        """Adds the agreements of the texts of a step; NaN counts nothing. It does not wait for the device."""
        device = self.sum_N.device
        rows_M = torch.from_numpy(rows_KB.T.ravel().copy()).to(device, non_blocking=True)
        conflict_M = -agreement_BK.flatten().double()
        is_known_M = ~conflict_M.isnan()
        self.sum_N.index_add_(0, rows_M, conflict_M.nan_to_num(0.0))
        self.count_N.index_add_(0, rows_M, is_known_M.long())

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {"sum_N": self.sum_N.cpu(), "count_N": self.count_N.cpu()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.sum_N.copy_(state["sum_N"])
        self.count_N.copy_(state["count_N"])

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the mean conflict of every text, NaN where it was never measured, and (N,) the number of draws."""
        sums, counts = self.sum_N.cpu().numpy(), self.count_N.cpu().numpy()
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), counts


def write_conflict(path: Path, raw_ids: Strings, mean_N: np.ndarray, count_N: np.ndarray) -> None:
    """Writes text_id, conflict, conflict_draws, by id. `raw_ids`: of every text that of the raw text that it comes from.

    The versions of a raw text count together; a text that was never measured, or comes from no raw text, has no row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = np.flatnonzero(count_N > 0)
    ids_N = np.array(raw_ids.take(rows), object)
    rows, ids_N = rows[ids_N != ""], ids_N[ids_N != ""]
    ids, means, draws = means_by_id(ids_N, mean_N[rows], count_N[rows])
    columns = {
        "text_id": pa.array(ids, pa.string()),
        "conflict": pa.array(means),
        "conflict_draws": pa.array(draws.astype(np.int64)),
    }
    path.parent.mkdir(exist_ok=True)
    with open_atomic(path) as sink:
        pq.write_table(pa.table(columns), sink)


def means_by_id(
    ids_N: Sequence[str] | np.ndarray, value_N: np.ndarray, weight_N: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct ids in their order, and of each the weighted mean of its values, NaN without weight, and its weight.

    A value that is NaN must have weight 0.
    """
    ids, place_N = np.unique(ids_N, return_inverse=True)
    weights = np.bincount(place_N, weights=weight_N, minlength=len(ids))
    sums = np.bincount(place_N, weights=np.where(weight_N > 0, value_N * weight_N, 0.0), minlength=len(ids))
    return ids.tolist(), np.where(weights > 0, sums / np.maximum(weights, 1), np.nan), weights


class Truth:
    """Which texts are wrong, by a table of a made corpus, so that the log of a training says how well conflict finds them."""

    def __init__(self, path: Path, raw_ids: Strings, langs_N: Sequence[str]) -> None:
        """Raises M2raapError for a file that has no column `id`."""
        wrong = _ids(path)
        ids_N = list(raw_ids)
        self._is_wrong_N = np.array([text_id in wrong for text_id in ids_N], bool)
        self._is_raw_N = np.array([text_id != "" for text_id in ids_N], bool)
        self._langs_N = np.asarray(langs_N)

    def aucs(self, mean_N: np.ndarray) -> dict[str, float]:
        """lang -> the share of pairs of a wrong and a good text in which the wrong one has the higher conflict, ties half."""
        scores: dict[str, float] = {}
        for lang in sorted(set(self._langs_N.tolist())):
            of_lang = (self._langs_N == lang) & self._is_raw_N & ~np.isnan(mean_N)
            wrong, good = (mean_N[of_lang & which] for which in (self._is_wrong_N, ~self._is_wrong_N))
            if len(wrong) and len(good):
                scores[lang] = auc(wrong, good)
        return scores


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """The share of pairs (one of each) in which the first is the higher one, ties half: the area under the ROC curve."""
    ordered = np.sort(lower)
    below, not_above = np.searchsorted(ordered, higher, "left"), np.searchsorted(ordered, higher, "right")
    return float((below + not_above).mean() / 2 / len(lower))


def _ids(path: Path) -> set[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return set(pq.read_table(path, columns=["id"])["id"].to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise M2raapError(
            f"adapt.harmonize.truth: {path}: cannot be read as a parquet table with a column 'id' ({error}); give the "
            "truth.parquet of a synthetic world, or set the key to null"
        ) from None
