"""Exports the vectors and labels of a view as YouTube-8M's TFRecords, or its tags as the csv that YouTube-8M's challenges take.

Vectors come from the signals `features` and `dim`, which `align` stores and `data import youtube8m` brings; labels from the
signal `labels`, tags from `tags` and `tags_p`, best first. Labels and tags become the numbers of vocabulary.csv, which is written
beside: that of the corpus's list, else in alphabetical order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from data_tools.tfrecord import Records, write_record
from data_tools.youtube8m_predictions import FILE as PREDICTIONS
from data_tools.youtube8m_predictions import read_ids, write_predictions
from data_tools.youtube8m_records import LOWEST, STEP, Video, read_video, write_video
from data_tools.youtube8m_vocabulary import FILE as VOCABULARY
from data_tools.youtube8m_vocabulary import vocabulary_of, write_vocabulary
from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.exports import Item, Media
from m2raap.core.view import View

RECORDS_A_FILE = 1000
_NAMES = {"train": "train", "val": "validate", "test": "test"}  # split -> how the names of its files begin


class _Numbers:
    """The numbers of the labels of a view."""

    def __init__(self, view: View | None) -> None:
        assert view is not None, "what is written are the labels of a view"
        self.names = vocabulary_of(view)
        self._number_of = {name: number for number, name in self.names.items()}

    def of(self, item: Item, labels: Sequence[str]) -> list[int]:
        """Raises M2raapError for a label that is not in the vocabulary."""
        if unknown := [name for name in labels if name not in self._number_of]:
            raise M2raapError(
                f"clip {item.clip['clip_id']!r}: the label {unknown[0][:80]!r} is not in the vocabulary of the corpus, which has "
                f"{len(self.names):,}; import the corpus again with the vocabulary that its labels come from"
            )
        return [self._number_of[name] for name in labels]


class YouTube8M:
    """TFRecords. `none`: video-level, the mean of a clip's vectors; `frames`: frame-level, one byte a value."""

    media: tuple[Media, ...] = ("none", "frames")
    signals: tuple[str, ...] = ("features", "dim")

    def __init__(self, view: View | None = None) -> None:
        self._view = view

    def write(self, items: Iterable[Item], out: Path, media: Media) -> None:
        """Raises M2raapError for vectors that do not fit their dim, and as _Numbers.of."""
        numbers = _Numbers(self._view)
        num_records, num_cut = Counter[str](), 0
        sinks: dict[str, IO[bytes]] = {}
        with ExitStack() as stack:
            for item in items:
                features = _features(item)
                labels = numbers.of(item, item.signals.get("labels") or [])
                level = "frame" if media == "frames" else "video"
                if level == "frame":
                    num_cut += int((np.abs(features.astype(np.float32) - (LOWEST + 127.5 * STEP)) > 128 * STEP).sum())
                record = write_video(Video(item.clip["clip_id"], tuple(labels), features, level))
                name = _NAMES[item.clip["split"]]
                if num_records[name] % RECORDS_A_FILE == 0:
                    if name in sinks:
                        sinks[name].close()
                    path = out / f"{name}{num_records[name] // RECORDS_A_FILE:04d}.tfrecord"
                    sinks[name] = stack.enter_context(open(path, "wb"))
                write_record(sinks[name], record)
                num_records[name] += 1
        if num_cut:
            talk.log(f"{num_cut:,} values were below -2 or above 2, which bytes cannot hold; they are the nearest byte")
        if numbers.names:
            write_vocabulary(out / VOCABULARY, numbers.names)

    def clip_ids(self, out: Path) -> set[str]:
        ids: set[str] = set()
        for path in sorted(out.glob("*.tfrecord")):
            with Records(path) as records:
                ids |= {read_video(record.data).video_id for record in records}
        return ids


def _features(item: Item) -> np.ndarray:
    """float16 (K, dim). Raises M2raapError where the two signals do not fit each other."""
    data, dim = item.signals["features"], item.signals["dim"]
    if not isinstance(data, bytes) or not isinstance(dim, int) or dim < 1 or not data or len(data) % (2 * dim):
        raise M2raapError(
            f"clip {item.clip['clip_id']!r}: its signals 'features' and 'dim' do not fit each other; make the stage again that "
            "wrote them"
        )
    return np.frombuffer(data, "<f2").reshape(-1, dim)


class Predictions:
    """predictions.csv, a line a clip."""

    media: tuple[Media, ...] = ("none",)
    signals: tuple[str, ...] = ("tags", "tags_p")

    def __init__(self, view: View | None = None) -> None:
        self._view = view

    def write(self, items: Iterable[Item], out: Path, media: Media) -> None:
        numbers = _Numbers(self._view)
        rows = ((item.clip["clip_id"], _pairs(item, numbers)) for item in items)
        write_predictions(rows, out / PREDICTIONS)
        write_vocabulary(out / VOCABULARY, numbers.names)

    def clip_ids(self, out: Path) -> set[str]:
        return read_ids(out / PREDICTIONS)


def _pairs(item: Item, numbers: _Numbers) -> list[tuple[int, float]]:
    tags, probabilities = item.signals["tags"], item.signals["tags_p"]
    if len(tags) != len(probabilities):
        raise M2raapError(
            f"clip {item.clip['clip_id']!r}: has {len(tags)} values of 'tags' and {len(probabilities)} of 'tags_p'; make the "
            "stage again that wrote them"
        )
    return list(zip(numbers.of(item, tags), probabilities, strict=True))
