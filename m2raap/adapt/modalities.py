"""What clips hold beside their frames as arrays on disk, which all processes of a machine map: motion, sound, and captions.

N rows of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NO_ROW = -1


@dataclass(frozen=True)
class Modalities:
    """Of each modality the values (N, ...) in float16, and of every clip the row of its values, NO_ROW for a clip without it."""

    values: dict[str, np.ndarray]
    row_C: dict[str, np.ndarray]

    def present(self, name: str, clips: np.ndarray) -> np.ndarray:
        """Which of these clips have the modality."""
        return self.row_C[name][clips] != NO_ROW

    def batch(self, name: str, clips: np.ndarray) -> Tensor:
        """(B, ...) the values of these clips; anything for a clip without the modality."""
        return torch.from_numpy(np.asarray(self.values[name][np.maximum(self.row_C[name][clips], 0)]))


def open_modalities(folder: Path, names: Sequence[str]) -> Modalities:
    """The arrays of these modalities that were written into a folder, mapped into memory."""
    values = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    row_C = {name: np.load(folder / f"{name}-rows.npy", allow_pickle=False) for name in names}
    return Modalities(values, row_C)
