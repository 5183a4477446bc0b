"""The motion and sound of the clips of a split, out of the tables, as arrays on disk (m2raap.adapt.modalities).

C clips.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from m2raap.adapt.modalities import NO_ROW
from m2raap.adapt.sense_towers import SHAPES
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_regular, replaced_folder
from m2raap.core.signed import part_key, read_manifest
from m2raap.core.strings import Strings
from m2raap.core.tables import read_columns
from m2raap.core.view import View


def write_once(folder: Path, key: str, write: Callable[[Path], None]) -> None:
    """Writes a folder as a whole by `write`, which is given where to; nothing where it is there already with this key."""
    key_path = folder / "key"
    if key_path.is_file() and read_regular(key_path, len(key) + 1) == key.encode():
        return
    with replaced_folder(folder) as temp:
        write(temp)
        (temp / "key").write_text(key)


def write_senses(
    view: View, clip_ids: Strings, part_C: np.ndarray, senses: tuple[str, ...], folder: Path, advice: str
) -> None:
    """Writes motion and sound into a folder, for `open_modalities`. `part_C`: the part of each clip; clips are ordered by part.
    `advice`: how to do without, for messages.

    Raises M2raapError where no stage of the view has kept the senses, or no clip has one of them.
    """
    folders = [path for path in view.folders if part_key("senses", 0) in read_manifest(path)["files"]]
    if not folders and senses:
        raise M2raapError(
            f"{view.corpus_path}: its key-frames were stored without motion and sound; make them with keyframes.senses "
            f"[{', '.join(senses)}], or {advice}"
        )
    count = len(clip_ids)
    for sense in senses:
        shape = (count, *SHAPES[sense])
        values = np.lib.format.open_memmap(folder / f"{sense}.part", "w+", np.float16, shape)
        row_C = np.full(count, NO_ROW, np.int64)
        for part in np.unique(part_C).tolist():
            first, stop = np.searchsorted(part_C, [part, part + 1]).tolist()
            place = {clip_id: first + number for number, clip_id in enumerate(clip_ids.between(first, stop))}
            for path in folders:
                table = read_columns(path, "senses", part, ["clip_id", sense])
                for clip_id, data in zip(table["clip_id"].to_pylist(), table[sense], strict=True):
                    if clip_id in place and data.is_valid:
                        row = row_C[place[clip_id]] = place[clip_id]
                        values[row] = np.frombuffer(data.as_buffer(), np.float16).reshape(SHAPES[sense])
        if (row_C == NO_ROW).all():
            raise M2raapError(f"{view.corpus_path}: no clip has {sense}; {advice}")
        values.flush()
        np.save(folder / f"{sense}-rows.npy", row_C)
        os.replace(folder / f"{sense}.part", folder / f"{sense}.npy")
