"""The captions of clips as a modality: their vectors by the untrained text tower, as arrays on disk (m2raap.adapt.modalities)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from m2raap.adapt.modalities import NO_ROW
from m2raap.adapt.sources import TextColumns
from m2raap.core.errors import M2raapError
from m2raap.core.files import open_atomic
from m2raap.cotrain.config import text_name


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
