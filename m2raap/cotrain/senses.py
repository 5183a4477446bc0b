"""The motion and sound of the clips of a split as arrays on disk, which all processes of a machine map.

C clips.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.core.signed import part_key, read_manifest
from m2raap.core.strings import Strings
from m2raap.core.tables import read_columns
from m2raap.core.view import View
from m2raap.cotrain.towers import SHAPES


@dataclass(frozen=True)
class Senses:
    """Of each sense the values of all clips in float16, 0 for a clip without it, and which clips have it."""

    values: dict[str, np.ndarray]
    present: dict[str, np.ndarray]

    def batch(self, sense: str, clips: np.ndarray) -> Tensor:
        """(B, ...) the values of these clips."""
        return torch.from_numpy(np.asarray(self.values[sense][clips]))


def write_senses(view: View, clip_ids: Strings, part_C: np.ndarray, senses: tuple[str, ...], folder: Path) -> None:
    """Writes the arrays into a folder, for `open_senses`. `part_C`: the part of each clip; clips are ordered by part.

    Raises M2raapError where no stage of the view has kept the senses, or no clip has one of them.
    """
    folders = [path for path in view.folders if part_key("senses", 0) in read_manifest(path)["files"]]
    if not folders and senses:
        raise M2raapError(
            f"{view.corpus_path}: its key-frames were stored without motion and sound; make them with keyframes.senses "
            f"[{', '.join(senses)}], or set cotrain.senses to []"
        )
    folder.mkdir(parents=True, exist_ok=True)
    count = len(clip_ids)
    for sense in senses:
        shape = (count, *SHAPES[sense])
        values = np.lib.format.open_memmap(folder / f"{sense}.part", "w+", np.float16, shape)
        present = np.zeros(count, bool)
        for part in np.unique(part_C).tolist():
            first, stop = np.searchsorted(part_C, [part, part + 1]).tolist()
            place = {clip_id: first + number for number, clip_id in enumerate(clip_ids.between(first, stop))}
            for path in folders:
                table = read_columns(path, "senses", part, ["clip_id", sense])
                for clip_id, data in zip(table["clip_id"].to_pylist(), table[sense], strict=True):
                    if clip_id in place and data.is_valid:
                        values[place[clip_id]] = np.frombuffer(data.as_buffer(), np.float16).reshape(SHAPES[sense])
                        present[place[clip_id]] = True
        if not present.any():
            raise M2raapError(f"{view.corpus_path}: no clip has {sense}; take it out of cotrain.senses")
        values.flush()
        np.save(folder / f"{sense}-present.npy", present)
        os.replace(folder / f"{sense}.part", folder / f"{sense}.npy")


def open_senses(folder: Path, senses: tuple[str, ...]) -> Senses:
    """The arrays that `write_senses` wrote, mapped into memory."""
    values = {sense: np.load(folder / f"{sense}.npy", mmap_mode="r", allow_pickle=False) for sense in senses}
    present = {sense: np.load(folder / f"{sense}-present.npy", allow_pickle=False) for sense in senses}
    return Senses(values, present)
