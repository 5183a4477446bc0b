"""Shards: the frame vectors and labels of some thousand clips in one file each, which workers read in every pass.

They are written once, by workers, from the folders of stages: these hold a row of many columns for each clip, which takes
thirty times as long to read. N clips of a shard, F frames of all of them, E size of a vector, K most frames of a clip.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from m2raap.annotate.config import FitConfig
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.core.signed import NPY_ERRORS


@dataclass(frozen=True)
class Shard:
    """`frames_FE` float16, clip after clip; `starts_N1`: where the frames of each clip begin, and an end; `labels` and
    `label_starts_N1` alike; `fold_N`: the fold of each clip; `val_N`: whether rounds are chosen by it."""

    frames_FE: np.ndarray
    starts_N1: np.ndarray
    labels: np.ndarray
    label_starts_N1: np.ndarray
    fold_N: np.ndarray
    val_N: np.ndarray

    def __len__(self) -> int:
        return len(self.fold_N)

    def rows(self, member: int, folds: int, which: str) -> np.ndarray:
        """The clips on which a member is trained (`train`), its round is chosen (`val`), or which it has not seen (`unseen`; with
        one fold those of val)."""
        inside = self.fold_N != member if folds > 1 else np.ones(len(self), bool)
        if which == "unseen" and folds > 1:
            return np.flatnonzero(~inside)
        return np.flatnonzero(inside & (self.val_N == (which != "train")))

    def frames(self, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 (B, K, E), padded with zeros, and the mask (B, K) of what is no padding."""
        return padded([self.frames_FE[self.starts_N1[row] : self.starts_N1[row + 1]] for row in rows_B.tolist()])

    def truth(self, rows_B: np.ndarray, labels_L: np.ndarray) -> np.ndarray:
        """bool (B, L): which of these labels, ascending, the clips have."""
        truth = np.zeros((len(rows_B), len(labels_L)), bool)
        counts_B = self.num_labels_N[rows_B]
        starts_B = np.cumsum(counts_B) - counts_B
        of_rows = self.labels[np.arange(counts_B.sum()) + np.repeat(self.label_starts_N1[rows_B] - starts_B, counts_B)]
        at = np.minimum(np.searchsorted(labels_L, of_rows), len(labels_L) - 1)
        is_in = labels_L[at] == of_rows
        truth[np.repeat(np.arange(len(rows_B)), counts_B)[is_in], at[is_in]] = True
        return truth

    @cached_property
    def num_labels_N(self) -> np.ndarray:
        return np.diff(self.label_starts_N1)


def padded(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Clips of (K_i, E) vectors as float32 (B, K, E) and the mask (B, K)."""
    lengths = np.array([len(clip) for clip in clips])
    x_BKE = np.zeros((len(clips), lengths.max(), clips[0].shape[1]), np.float32)
    mask_BK = np.arange(lengths.max()) < lengths[:, None]
    x_BKE[mask_BK] = np.concatenate(clips)
    return x_BKE, mask_BK


def make_shard(
    frames: Sequence[np.ndarray], labels: Sequence[Sequence[int]], videos: Sequence[str], cfg: FitConfig
) -> Shard:
    """From (K, E) frame vectors, labels and videos of clips. Clips of one video are in one fold."""
    starts = np.cumsum([0, *(len(rows) for rows in frames)])
    label_starts = np.cumsum([0, *(len(row) for row in labels)])
    joined = np.concatenate(list(frames)).astype(np.float16) if frames else np.zeros((0, 0), np.float16)
    fold = np.array([fold_of(video, cfg.folds, cfg.seed) for video in videos], np.int8)
    val = np.array([_share(f"val:{cfg.seed}:{video}") < cfg.val_share for video in videos], bool)
    flat = np.array([label for row in labels for label in row], np.int32)
    return Shard(joined, starts, flat, label_starts, fold, val)


def fold_of(video: str, folds: int, seed: int) -> int:
    """The fold of a video's clips: the number of the tagger that is trained without them."""
    return int(_share(f"fold:{seed}:{video}") * folds)


def _share(name: str) -> float:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big") / 2**48


def write_shard(path: Path, shard: Shard) -> None:
    sink = io.BytesIO()
    np.savez(sink, **{name: getattr(shard, name) for name in Shard.__dataclass_fields__})
    write_atomic(path, sink.getvalue())


def read_shard(path: Path) -> Shard:
    """Raises M2raapError for a file that is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Shard(**{name: arrays[name] for name in Shard.__dataclass_fields__})
    except (*NPY_ERRORS, KeyError, zipfile.BadZipFile) as error:
        raise M2raapError(
            f"{path}: is damaged ({str(error)[:200]}); remove the folder of shards and run the command again"
        ) from None
