"""A fitted tagger in its folder, and the tags that it gives.

tagger.json            settings, members, calibration, what its frame vectors were made with, SHA-256 of the other files
labels.json            the labels
labels.csv             for people: how many clips have each label, and its average precision
member-M/              shared.safetensors, and heads-G.safetensors for each group of labels

N clips, K frames, E size of a frame vector, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import TypedDict

from m2raap.annotate.config import FitConfig
from m2raap.annotate.experts import MoEHeads
from m2raap.annotate.job import LABELS, Job
from m2raap.annotate.label_set import LabelSet
from m2raap.annotate.shards import padded
from m2raap.annotate.shared_layers import SharedLayers
from m2raap.core.config import build, digest
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, inside
from m2raap.core.records import read_record

TAGGER = "tagger.json"
MOST_DIMS = 65_536
CLIPS_A_BLOCK = 32  # a clip of many frames pads so many others
_GROUPS_IN_MEMORY = 64  # heads that stay in memory between parts


class MemberJson(TypedDict):
    round: int
    shared: int
    val_gap: float
    calibration: list[float]


class TaggerJson(TypedDict):
    """tagger.json, as m2raap.annotate.fit writes it."""

    fit: dict[str, Any]
    dim: int
    vectors: str
    corpus: str
    members: list[MemberJson]
    metrics: dict[str, Any]
    files: dict[str, str]


@dataclass(frozen=True)
class Tags:
    """`labels_NT` and `p_NT`: the best tags of each clip, the most probable first. `p_named`: of each clip the probabilities of
    the labels that were asked for."""

    labels_NT: np.ndarray
    p_NT: np.ndarray
    p_named: list[np.ndarray]


class Tagger:
    """A tagger that was read from a folder. Probabilities are calibrated."""

    def __init__(self, folder: Path, tree: TaggerJson) -> None:
        self.folder, self.tree = folder, tree
        self.cfg = build(FitConfig, tree["fit"], f"{folder / TAGGER}: fit")
        self.labels = LabelSet.load(folder / LABELS)
        self.job = Job(self.cfg, folder, tree["dim"], 0)

    @property
    def digest(self) -> str:
        """Of everything that its tags depend on."""
        return digest([self.tree[name] for name in ("fit", "dim", "vectors", "corpus", "members", "files")])

    @classmethod
    def load(cls, folder: Path) -> Tagger:
        """Raises M2raapError for a folder that holds no tagger, or files that differ from what tagger.json says of them."""
        path = folder / TAGGER
        if not path.exists():
            raise M2raapError(f"{folder}: holds no tagger ({TAGGER}); make one with 'm2raap annotate fit'")
        tree = read_record(TaggerJson, path)
        for name, sha256 in tree["files"].items():
            path = inside(folder, name)
            if not path.is_file() or file_sha256(path) != sha256:
                raise M2raapError(f"{path}: differs from what {TAGGER} says of it; fit the tagger again")
        return cls(folder, tree)

    def refuse_unfit(self) -> None:
        """Raises M2raapError where tagger.json states what no fit writes."""
        members = self.tree["members"]
        expected = {LABELS, "labels.csv"}
        for member in range(len(members)):
            expected |= {f"member-{member}/heads-{group:05d}.safetensors" for group in range(len(self.job.groups))}
            expected.add(f"member-{member}/shared.safetensors")
        values = [value for member in members for value in member["calibration"]]
        is_fit = (
            1 <= self.tree["dim"] <= MOST_DIMS
            and len(members) == self.cfg.folds
            and all(len(member["calibration"]) == 2 for member in members)
            and all(math.isfinite(value) for value in values)
            and set(self.tree["files"]) == expected
        )
        if not is_fit:
            raise M2raapError(f"{self.folder / TAGGER}: is damaged, or no fit wrote it; fit the tagger again")

    def shared(self, member: int) -> SharedLayers:
        return self.job.load_shared(self.folder / f"member-{member}" / "shared.safetensors")

    def heads(self, member: int, group: int) -> MoEHeads:
        path = self.folder / f"member-{member}" / f"heads-{group:05d}.safetensors"
        return self.job.load_heads(path, self.job.groups[group])

    def tags(
        self,
        frames: Sequence[np.ndarray],
        folds: Sequence[int],
        named: Sequence[Sequence[int]],
        num_tags: int,
    ) -> Tags:
        """Tags of clips from their (K, E) frame vectors.

        `folds`: the fold of each clip's video, whose tags come from the member that has not seen it. `named`: labels of each clip
        that `p_named` is about.
        """
        num_clips = len(frames)
        members = len(self.tree["members"])
        weights_MN = np.array([[_weight(fold, member, members) for fold in folds] for member in range(members)])
        z_MNH = [
            _vectors(_open_shared(self.folder, self.digest, member, device()), frames) for member in range(members)
        ]
        best_p, best_labels = np.zeros((num_clips, 0), np.float32), np.zeros((num_clips, 0), np.int64)
        p_named = [np.zeros(len(labels), np.float32) for labels in named]
        for group, labels in enumerate(self.job.groups):
            p_NL = np.zeros((num_clips, len(labels)), np.float32)
            for member, (z_NH, weight_N) in enumerate(zip(z_MNH, weights_MN, strict=True)):
                heads = _open_heads(self.folder, self.digest, member, group, device())
                p_NL += weight_N[:, None].astype(np.float32) * self._calibrated(heads, z_NH, member)
            for row, of_clip in enumerate(named):
                for place, label in enumerate(of_clip):
                    if labels[0] <= label <= labels[-1]:
                        p_named[row][place] = p_NL[row, label - labels[0]]
            best_p = np.concatenate([best_p, p_NL], 1)
            best_labels = np.concatenate([best_labels, np.repeat(labels[None], num_clips, 0)], 1)
            order = np.argsort(-best_p, axis=1, kind="stable")[:, :num_tags]
            best_p, best_labels = np.take_along_axis(best_p, order, 1), np.take_along_axis(best_labels, order, 1)
        return Tags(best_labels, best_p, p_named)

    @torch.no_grad()
    def _calibrated(self, heads: MoEHeads, z_NH: torch.Tensor, member: int) -> np.ndarray:
        a, b = self.tree["members"][member]["calibration"]
        yes_LN, no_LN = heads.log_odds(z_NH)
        return torch.sigmoid(a * (yes_LN - no_LN) + b).T.cpu().numpy()


def _weight(fold: int, member: int, members: int) -> float:
    return 1.0 if members == 1 else float(fold == member)


@torch.no_grad()
def _vectors(shared: SharedLayers, frames: Sequence[np.ndarray]) -> torch.Tensor:
    blocks = []
    for start in range(0, len(frames), CLIPS_A_BLOCK):
        x_BKE, mask_BK = padded(frames[start : start + CLIPS_A_BLOCK])
        blocks.append(shared(torch.from_numpy(x_BKE).to(device()), torch.from_numpy(mask_BK).to(device())))
    return torch.cat(blocks)


@lru_cache(maxsize=1)
def open_tagger(folder: Path) -> Tagger:
    """The tagger in a folder, to give tags, checked once in a process. Raises M2raapError as `load` and `refuse_unfit` do."""
    tagger = Tagger.load(folder)
    tagger.refuse_unfit()
    return tagger


@lru_cache(maxsize=10)
def _open_shared(folder: Path, tagger_digest: str, member: int, on: str) -> SharedLayers:
    return open_tagger(folder).shared(member)


@lru_cache(maxsize=_GROUPS_IN_MEMORY)
def _open_heads(folder: Path, tagger_digest: str, member: int, group: int, on: str) -> MoEHeads:
    return open_tagger(folder).heads(member, group)
