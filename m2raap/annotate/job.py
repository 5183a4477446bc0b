"""What a fit is: its settings, where its files lie in the scratch folder, and which worker trains which labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from m2raap.annotate.config import FitConfig
from m2raap.annotate.experts import MoEHeads, experts_per_label, num_weights
from m2raap.annotate.label_set import LabelSet
from m2raap.annotate.shared_layers import SharedLayers
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic

LABELS = "labels.json"
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Job:
    """A fit in `folder`, which holds labels.json and shards/. `dim`: size of a frame vector. A member is one of the taggers that
    are trained beside each other, each without one fold of the clips."""

    cfg: FitConfig
    folder: Path
    dim: int
    num_shards: int

    @property
    def labels(self) -> LabelSet:
        return _labels(self.folder / LABELS, stamp(self.folder / LABELS))

    @property
    def hidden(self) -> int:
        """Size of the vector that the heads read."""
        return self.dim if self.cfg.frame_layer == "none" else self.cfg.hidden

    @cached_property
    def experts_L(self) -> np.ndarray:
        clips_L = np.array(self.labels.clips_L)
        return experts_per_label(clips_L, self.cfg.max_experts, self.cfg.positives_per_expert)

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """The labels, ascending, that one worker trains at a time."""
        return label_groups(num_weights(self.hidden, self.experts_L), self.cfg.group_weights)

    def shard(self, index: int) -> Path:
        return self.folder / "shards" / f"{index:05d}.npz"

    def shared(self, member: int, number: int) -> Path:
        """The shared layers with which round `number` begins."""
        return self.folder / f"member-{member}" / f"shared-{number:03d}.safetensors"

    def round(self, member: int, number: int) -> Path:
        return self.folder / f"member-{member}" / f"round-{number:03d}"

    def heads(self, member: int, number: int, group: int) -> Path:
        return self.round(member, number) / f"heads-{group:05d}.safetensors"

    def vectors(self, member: int, number: int, shard: int) -> Path:
        """What the shared layers of a round make of a shard: (N, H) float32."""
        return self.round(member, number) / "vectors" / f"{shard:05d}.npy"

    def load_shared(self, path: Path) -> SharedLayers:
        _refuse_smaller(path, self.hidden * (0 if self.cfg.frame_layer == "none" else self.dim))
        return load_weights(SharedLayers(self.dim, self.cfg), path).to(device())

    def load_heads(self, path: Path, labels: np.ndarray) -> MoEHeads:
        _refuse_smaller(path, int(num_weights(self.hidden, self.experts_L[labels]).sum()))
        return load_weights(MoEHeads(self.hidden, self.experts_L[labels]), path).to(device())


def stamp(path: Path) -> tuple[int, ...]:
    """What tells a file from another one in its place, for caches of what it holds."""
    try:
        stat = path.stat()
    except OSError as error:
        raise M2raapError(f"{path}: cannot be read ({error.strerror})") from None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=2)
def _labels(path: Path, as_of: tuple[int, ...]) -> LabelSet:
    return LabelSet.load(path)


def label_groups(weights_L: np.ndarray, most: int) -> list[np.ndarray]:
    """Runs of labels with at most `most` weights together; a label with more is a run of its own."""
    groups: list[list[int]] = []
    size = 0
    for label, weights in enumerate(weights_L.tolist()):
        if not groups or size + weights > most:
            groups.append([])
            size = 0
        groups[-1].append(label)
        size += weights
    return [np.array(group) for group in groups]


def _refuse_smaller(path: Path, num: int) -> None:
    """Raises M2raapError for a file that is too small for so many float32: before memory is taken for what settings claim."""
    if not path.is_file() or path.stat().st_size < 4 * num:
        raise M2raapError(
            f"{path}: does not hold the {num:,} weights that its tagger states; remove it, or fit the tagger into another folder"
        )


def save_weights(path: Path, module: nn.Module) -> None:
    """Writes the weights as a whole or not at all; equal weights give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_atomic(path, save(tensors))


def load_weights(module: M, path: Path) -> M:
    """The module with the weights of a file. Raises M2raapError for a file that is damaged or of another tagger."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
        module.load_state_dict(tensors)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise M2raapError(
            f"{path}: holds no weights of this tagger ({str(error)[:200]}); remove it, or fit the tagger into another folder"
        ) from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise M2raapError(f"{path}: holds NaN or infinity; remove it, or fit the tagger into another folder")
    return module
