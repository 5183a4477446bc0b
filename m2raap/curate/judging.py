"""The texts and clips with which pairs are compared: align's `reduce` draws them, its decisions hold them, `apply` uses them."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np

from m2raap.core.stage import Signals
from m2raap.core.tables import Row, Text
from m2raap.core.view import Part
from m2raap.curate.encode import pack, unpack
from m2raap.curate.similarity import Reference


class HashSample:
    """The `num` entries with the smallest hashes of their names: a random sample that does not depend on order or parts."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._rows: dict[Any, tuple[str, Row]] = {}

    def add(self, key: Any, name: str, row: Row) -> None:
        """Adds `row` if it belongs to the sample; of several rows of one key, the one with the smallest hash counts."""
        rank = hashlib.blake2b(f"sample:{name}".encode(), digest_size=8).hexdigest()
        if key not in self._rows or rank < self._rows[key][0]:
            self._rows[key] = (rank, row)
        if len(self._rows) > 4 * self._num:
            self._rows = dict(self._first())

    def _first(self) -> list[tuple[Any, tuple[str, Row]]]:
        return sorted(self._rows.items(), key=lambda item: item[1][0])[: self._num]

    def items(self) -> list[tuple[Any, Row]]:
        """(key, row) of the sample, the smallest hash first."""
        return [(key, row) for key, (_, row) in self._first()]


class Sample:
    """Texts of each language (all different) and clips with which pairs are compared."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._texts: dict[str, HashSample] = {}
        self._clips = HashSample(num)

    def add_clip(self, clip_id: str, signals: Row) -> None:
        """`signals`: features and dim, as align scores them."""
        self._clips.add(clip_id, clip_id, {name: signals[name] for name in ("features", "dim")})

    def add_text(self, text: Text, signals: Row) -> None:
        """`signals`: features, dim and text_key, as align scores them."""
        self._texts.setdefault(text["lang"], HashSample(self._num)).add(signals["text_key"], text["text_id"], signals)

    def as_json(self) -> dict[str, Any]:
        """The sample as JSON for the decisions of a stage; `Judge` reads it."""
        clips = [unpack(row["features"], row["dim"]) for _, row in self._clips.items()]
        most = max((len(frames) for frames in clips), default=0)
        filled = [frames[np.rint(np.linspace(0, len(frames) - 1, most)).astype(int)] for frames in clips]
        sample: dict[str, Any] = {
            "frames": _base64(np.stack(filled)) if filled else "",
            "num_frames": most,
            "langs": {},
        }
        for lang, texts in sorted(self._texts.items()):
            rows = texts.items()
            features_ME = np.concatenate([unpack(row["features"], row["dim"]) for _, row in rows])
            keys = [str(key) for key, _ in rows]
            sample["langs"][lang] = {"keys": keys, "features": _base64(features_ME), "dim": features_ME.shape[1]}
        return sample


def _base64(features: np.ndarray) -> str:
    return base64.b64encode(pack(features)).decode()


class Judge:
    """Scores of pairs against the sampled texts and clips."""

    def __init__(self, sample: dict[str, Any]) -> None:
        self._langs: dict[str, Reference] = {}
        for lang, texts in sample["langs"].items():
            features_ME = unpack(base64.b64decode(texts["features"]), texts["dim"])
            frames_NE = unpack(base64.b64decode(sample["frames"]), texts["dim"])
            frames_SKE = frames_NE.reshape(-1, sample["num_frames"], texts["dim"])
            self._langs[lang] = Reference([int(key) for key in texts["keys"]], features_ME, frames_SKE)

    def scores(self, part: Part, signals: Signals) -> dict[str, dict[str, float]]:
        """text_id -> sim_percentile, sim_margin, sim_z; empty if the language has no other text to compare with."""
        scores: dict[str, dict[str, float]] = {}
        for lang, reference in self._langs.items():
            texts = [text for text in part.texts if text["lang"] == lang]
            if not texts:
                continue
            rows = [signals[text["text_id"]] for text in texts]
            clips = {clip_id: at for at, clip_id in enumerate(dict.fromkeys(text["clip_id"] for text in texts))}
            frames = [unpack(signals[clip_id]["features"], signals[clip_id]["dim"]) for clip_id in clips]
            texts_TE = np.concatenate([unpack(row["features"], row["dim"]) for row in rows])
            judged = reference.judge(
                texts_TE, [row["text_key"] for row in rows], [clips[t["clip_id"]] for t in texts], frames
            )
            scores |= {text["text_id"]: judgement for text, judgement in zip(texts, judged, strict=True)}
        return scores
