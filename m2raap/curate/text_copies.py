"""Counts the clips that have the same or almost the same text, in the corpus and in the source of the text.

Rows are collected part by part, and the whole corpus decides. A text that says more may be on more clips: counts are divided
by the number of content words, because 'a man is playing guitar' is true of many clips, and 'a funny moment' of all. The
limit avoids batches in which a text is true of clips that count as its negatives; that depends on the share of clips with
the text, so the limit grows with large corpora.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m2raap.curate import minhash
from m2raap.curate.columns import TextBatch

MIN_SOURCE_CLIPS = 500  # sources with fewer clips are not judged: a share of them is only a few clips


def text_keys(batch: TextBatch) -> np.ndarray:
    """(N,) int64 hashes of language and words: case, punctuation, width and the value of numbers do not count."""
    return batch.columns.key_N ^ np.int64(batch.lang == "zh")


def text_key(text: str, lang: str) -> int:
    """`text_keys` of one text."""
    return int(text_keys(TextBatch([text], lang))[0])


class TextTable:
    """The texts of all parts as columns: about 160 bytes a text besides its id."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._clips: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._rows: list[tuple[int, int, int, float]] = []
        self._sketches: list[bytes] = []
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, text_id: str, clip_id: str, source: str, signals: Mapping[str, Any]) -> None:
        """`signals`: text_key, content_words and sketch, as `filter` scores them."""
        self.ids.append(text_id)
        clip = self._clips.setdefault(clip_id, len(self._clips))
        code = self._sources.setdefault(source, len(self._sources))
        self._rows.append((signals["text_key"], clip, code, max(1.0, signals["content_words"])))
        self._sketches.append(signals["sketch"])
        if len(self._rows) == 1 << 16:
            self._flush()

    def _flush(self) -> None:
        kinds = [("key", np.int64), ("clip", np.int32), ("source", np.int32), ("words", np.float32)]
        sketches = np.frombuffer(b"".join(self._sketches), np.uint8).reshape(-1, minhash.SKETCH_BYTES)
        self._blocks.append((np.array(self._rows, kinds), sketches))
        self._rows, self._sketches = [], []

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows with key, clip, source and words; and their sketches."""
        self._flush()
        return np.concatenate([rows for rows, _ in self._blocks]), np.concatenate(
            [sketches for _, sketches in self._blocks]
        )

    @property
    def source_names(self) -> Sequence[str]:
        """Names of the sources; a row's code is the index."""
        return list(self._sources)

    @property
    def num_clips(self) -> int:
        """Number of clips with a text."""
        return len(self._clips)


def allowed_copies(limit: float, batch_share: float, num_clips: int) -> float:
    """Number of clips, for each content word of a text, that may have the text."""
    return max(limit, batch_share * num_clips)


def decide(table: TextTable, limits: Mapping[str, float | None], near_jaccard: float) -> dict[str, Any]:
    """The texts over a limit, with their scores. `limits`: of copies, source_share and near_copies (None: not counted).

    Copies are clips for each content word. Names and scores are two lists for each signal; `Copies` reads them.
    """
    rows, sketches = table.columns()
    over_limit: dict[str, dict[str, list[Any]]] = {name: {"names": [], "scores": []} for name in limits}

    def put(signal: str, name: Any, score: float) -> None:
        over_limit[signal]["names"].append(name)
        over_limit[signal]["scores"].append(round(score, 6))

    words_of = dict(zip(rows["key"].tolist(), rows["words"].tolist(), strict=True))
    if (most := limits["copies"]) is not None:
        keys, clips = _count(np.stack([rows["key"], rows["clip"]], axis=1))
        for key, n in zip(keys[:, 0].tolist(), clips.tolist(), strict=True):
            if n / words_of[key] > most:
                put("copies", key, n / words_of[key])
    if (most := limits["source_share"]) is not None:
        sources = rows["source"].astype(np.int64)
        in_source = dict(zip(*(values.tolist() for values in _num_clips(sources, rows["clip"])), strict=True))
        keys, clips = _count(np.stack([sources, rows["key"], rows["clip"]], axis=1))
        for (source, key), n in zip(keys.tolist(), clips.tolist(), strict=True):
            score = n / in_source[source] / words_of[key]
            if in_source[source] >= MIN_SOURCE_CLIPS and score > most:
                put("source_share", [table.source_names[source], key], score)
    if (most := limits["near_copies"]) is not None:
        leader = minhash.leaders(sketches, near_jaccard)
        heads = np.unique(leader)
        groups, clips = _num_clips(np.append(leader, heads), np.append(rows["clip"], rows["clip"][heads]))
        size = np.zeros(len(rows), np.int64)
        size[groups] = clips
        near = np.maximum(size[leader], size) / rows["words"]
        for at in np.flatnonzero(near > most).tolist():
            put("near_copies", table.ids[at], float(near[at]))
    return over_limit


class Copies:
    """What `decide` returned, by text."""

    def __init__(self, decided: Mapping[str, Any]) -> None:
        def pairs(signal: str) -> dict[Any, float]:
            names = (tuple(name) if isinstance(name, list) else name for name in decided[signal]["names"])
            return dict(zip(names, decided[signal]["scores"], strict=True))

        self._copies, self._in_source, self._near = map(pairs, ("copies", "source_share", "near_copies"))

    def of(self, text_id: str, source: str, key: int) -> dict[str, float]:
        """The signals of one text that are over a limit of some language."""
        scores = {
            "copies": self._copies.get(key),
            "source_share": self._in_source.get((source, key)),
            "near_copies": self._near.get(text_id),
        }
        return {name: score for name, score in scores.items() if score is not None}


def _num_clips(groups: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups and the number of distinct clips in each."""
    keys, counts = _count(np.stack([groups.astype(np.int64), clips.astype(np.int64)], axis=1))
    return keys[:, 0], counts


def _count(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows without their last column, and the number of distinct values of that column for each."""
    rows = np.unique(rows, axis=0)
    heads, counts = np.unique(rows[:, :-1], axis=0, return_counts=True)
    return heads, counts
