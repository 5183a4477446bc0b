"""What clips hold beside their frames as arrays on disk, which all processes of a machine map: motion, sound, and captions.

C clips, N rows of values, E size of the common space.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.sources import TextColumns
from m2raap.core.errors import M2raapError
from m2raap.core.files import open_atomic
from m2raap.core.signed import part_key, read_manifest
from m2raap.core.strings import Strings
from m2raap.core.tables import read_columns
from m2raap.core.view import View
from m2raap.cotrain.config import text_name
from m2raap.cotrain.towers import SHAPES

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


def write_senses(view: View, clip_ids: Strings, part_C: np.ndarray, senses: tuple[str, ...], folder: Path) -> None:
    """Writes motion and sound into a folder, for `open_modalities`. `part_C`: the part of each clip; clips are ordered by part.

    Raises M2raapError where no stage of the view has kept the senses, or no clip has one of them.
    """
    folders = [path for path in view.folders if part_key("senses", 0) in read_manifest(path)["files"]]
    if not folders and senses:
        raise M2raapError(
            f"{view.corpus_path}: its key-frames were stored without motion and sound; make them with keyframes.senses "
            f"[{', '.join(senses)}], or set cotrain.senses to []"
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
            raise M2raapError(f"{view.corpus_path}: no clip has {sense}; take it out of cotrain.senses")
        values.flush()
        np.save(folder / f"{sense}-rows.npy", row_C)
        os.replace(folder / f"{sense}.part", folder / f"{sense}.npy")


def write_texts(
    texts: TextColumns,
    num_clips: int,
    langs: tuple[str, ...],
    encode: Callable[[list[str]], np.ndarray],
    folder: Path,
) -> None:
    """Writes the vectors of all captions of the languages into a folder; of a clip, training reads the first of each language.

    `encode`: from captions to their vectors by the untrained text tower. Captions of single frames, and texts that come from
    none of the corpus, are left out. Raises M2raapError where no clip has a caption of a language.
    """
    for lang in langs:
        places = captions_of(texts, lang)
        if not len(places):
            raise M2raapError(f"no clip has a caption in {lang}; take it out of cotrain.texts")
        row_C = np.full(num_clips, NO_ROW, np.int64)
        with_text, first = np.unique(texts.clip_N[places], return_index=True)
        row_C[with_text] = first
        vectors_NE = encode(texts.texts.take(places)).astype(np.float16)
        for file, array in ((text_name(lang), vectors_NE), (f"{text_name(lang)}-rows", row_C)):
            with open_atomic(folder / f"{file}.npy") as sink:
                np.save(sink, array)


def captions_of(texts: TextColumns, lang: str) -> np.ndarray:
    """(N,) places of the captions of clips in a language, in `texts`, which are the rows that `write_texts` writes."""
    if lang not in texts.langs:
        return np.zeros(0, np.int64)
    of_corpus = np.array([raw_id != "" for raw_id in texts.raw_ids], bool)
    return np.flatnonzero(of_corpus & (texts.lang_N == texts.langs.index(lang)))


def open_modalities(folder: Path, names: tuple[str, ...]) -> Modalities:
    """The arrays of these modalities that `write_senses` and `write_texts` wrote, mapped into memory."""
    values = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    row_C = {name: np.load(folder / f"{name}-rows.npy", allow_pickle=False) for name in names}
    return Modalities(values, row_C)
