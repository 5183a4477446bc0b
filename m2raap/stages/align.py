"""align: everything that needs frames: video rules, near-duplicate clips, and whether image and text belong together.

`score` embeds frames and texts once. `reduce` finds copies and draws the texts that pairs are judged against. `apply`
judges: new thresholds never embed again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate.clean import clean
from m2raap.curate.duplicates import text_key
from m2raap.curate.similarity import MismatchConfig, TextNorm, contrastive_scores, mismatch, pair_scores, text_norm
from m2raap.curate.thumbnails import SIDE, DuplicateConfig, near_duplicates
from m2raap.curate.video_rules import VideoRulesConfig, video_refusals
from m2raap.models.config import BackboneConfig
from m2raap.stages.drops import drop_row
from m2raap.stages.encode import encoder, pack, unpack


class AlignConfig(Config):
    """Thresholds on what the frames show. A threshold of null switches its rule off."""

    video: VideoRulesConfig = Field(default_factory=VideoRulesConfig)
    duplicates: DuplicateConfig | None = Field(default_factory=DuplicateConfig)
    mismatch: MismatchConfig = Field(default_factory=MismatchConfig)

    def settings(self, backbone: BackboneConfig) -> Settings:
        return Settings(score={"backbone": backbone.model_dump(mode="json")}, apply=self.model_dump(mode="json"))


class AlignStage(DataStage):
    name = "align"
    reads = ("texts", "jpegs")
    reduces = True
    verdict_columns: ClassVar[dict[str, str]] = {"sim_percentile": "float", "sim_margin": "float", "copy_of": "str"}

    def signal_columns(self) -> dict[str, str]:
        sims = {"sim_max": "float", "sim_mean": "float", "sim_robust": "float"}
        return sims | {"features": "bytes", "thumbnails": "bytes", "dim": "int", "text_key": "int"}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        encode = encoder(BackboneConfig(**settings["backbone"]))
        rows: list[Row] = []
        for clip in part.clips:
            texts = part.texts_of[clip["clip_id"]]
            jpegs = part.frames[clip["clip_id"]]["jpegs"]
            frames_KE = encode.images(jpegs)
            dim = frames_KE.shape[1]
            pictures = {"features": pack(frames_KE), "thumbnails": thumbnails(jpegs), "dim": dim}
            rows.append({"clip_id": clip["clip_id"]} | pictures)
            # What a rewriter would take off (stock phrases, tags) says nothing about whether the rest is true.
            cleaned = [clean(t["text"], t["lang"])[0] or t["text"] for t in texts]
            for text, feature_E in zip(texts, encode.texts(cleaned), strict=True):
                ids = {"clip_id": clip["clip_id"], "text_id": text["text_id"], "dim": dim}
                sims = pair_scores(frames_KE @ feature_E)
                rows.append(
                    ids | sims | {"features": pack(feature_E), "text_key": text_key(text["text"], text["lang"])}
                )
        return {"signals": rows}

    def reduce(self, parts: Iterable[tuple[Part, Signals]], settings: dict[str, Any]) -> dict[str, Any]:
        cfg = AlignConfig(**settings)
        sample = _Sample(cfg.mismatch.num_others)
        ids: list[str] = []
        thumbs: list[np.ndarray] = []
        durations: list[float] = []
        sharpness: list[float] = []
        for part, own in parts:
            for clip in part.clips:
                signals, mine = part.signals[clip["clip_id"]], own[clip["clip_id"]]
                sample.add_clip(clip["clip_id"], mine)
                if not video_refusals(signals, cfg.video):  # a black clip may not be what a good one is a copy of
                    ids.append(clip["clip_id"])
                    thumbs.append(np.frombuffer(mine["thumbnails"], np.uint8).reshape(-1, SIDE, SIDE, 3))
                    durations.append(signals["duration_s"])
                    sharpness.append(signals["pick_sharpness"])
            for text in part.texts:
                sample.add_text(text, own[text["text_id"]])
        copies = near_duplicates(ids, thumbs, durations, cfg.duplicates, sharpness) if cfg.duplicates else {}
        return {"copies": copies, "sample": sample.as_json()}

    def apply(self, part: Part, own: Signals, decisions: dict[str, Any], settings: dict[str, Any]) -> Tables:
        cfg = AlignConfig(**settings)
        judge = _Judge(decisions["sample"], cfg.mismatch)
        drops: list[Row] = []
        verdicts: list[Row] = []
        for clip in part.clips:
            clip_id = clip["clip_id"]
            copy_of = decisions["copies"].get(clip_id)
            if found := video_refusals(part.signals[clip_id], cfg.video):
                drops.append(drop_row(clip_id, None, found))
            elif copy_of:
                drops.append({"clip_id": clip_id, "reason": "duplicate_clip", "detail": f"a copy of {copy_of}"})
            verdicts.append({"clip_id": clip_id, "copy_of": copy_of})
        for text in part.texts:
            signals = own[text["text_id"]]
            row = {"clip_id": text["clip_id"], "text_id": text["text_id"]}
            scores = judge.scores(text["lang"], signals, own[text["clip_id"]])
            verdicts.append(row | scores)
            every = scores | {name: signals[name] for name in ("sim_max", "sim_mean", "sim_robust")}
            if scores and (found := mismatch(every, cfg.mismatch, judge.threshold)):
                drops.append(drop_row(text["clip_id"], text["text_id"], found))
        return {"dropped": drops, "verdicts": verdicts}


def thumbnails(jpegs: list[bytes]) -> bytes:
    """(K, 8, 8, 3) bytes: what a clip looks like, for finding copies."""
    import cv2

    from m2raap.curate.thumbnails import thumbnail

    small = []
    for jpeg in jpegs:
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None, "keyframes stores JPEGs that can be read"
        small.append(thumbnail(picture).tobytes())
    return b"".join(small)


class _Smallest:
    """The `num` entries with the smallest hashes of their names: a fair sample that no order or cutting into parts changes."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._rows: dict[Any, tuple[str, Row]] = {}

    def add(self, key: Any, name: str, row: Row) -> None:
        rank = hashlib.blake2b(f"sample:{name}".encode(), digest_size=8).hexdigest()
        if key not in self._rows or rank < self._rows[key][0]:
            self._rows[key] = (rank, row)
        if len(self._rows) > 4 * self._num:
            self._rows = dict(self._first())

    def _first(self) -> list[tuple[Any, tuple[str, Row]]]:
        return sorted(self._rows.items(), key=lambda item: item[1][0])[: self._num]

    def items(self) -> list[tuple[Any, Row]]:
        return [(key, row) for key, (_, row) in self._first()]


class _Sample:
    """Texts of each language (no two alike) and clips that pairs are judged against."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._texts: dict[str, _Smallest] = {}
        self._clips = _Smallest(num)

    def add_clip(self, clip_id: str, signals: Row) -> None:
        self._clips.add(clip_id, clip_id, signals)

    def add_text(self, text: Row, signals: Row) -> None:
        self._texts.setdefault(text["lang"], _Smallest(self._num)).add(signals["text_key"], text["text_id"], signals)

    def as_json(self) -> dict[str, Any]:
        clips = [unpack(row["features"], row["dim"]) for _, row in self._clips.items()]
        most = max((len(frames) for frames in clips), default=0)
        filled = [frames[np.rint(np.linspace(0, len(frames) - 1, most)).astype(int)] for frames in clips]
        found: dict[str, Any] = {"frames": _base64(np.stack(filled)) if filled else "", "num_frames": most, "langs": {}}
        for lang, texts in sorted(self._texts.items()):
            rows = texts.items()
            features_ME = np.concatenate([unpack(row["features"], row["dim"]) for _, row in rows])
            keys = [str(key) for key, _ in rows]
            found["langs"][lang] = {"keys": keys, "features": _base64(features_ME), "dim": features_ME.shape[1]}
        return found


def _base64(features: np.ndarray) -> str:
    return base64.b64encode(pack(features)).decode()


class _Judge:
    """Scores of a pair against the sampled other texts of its language."""

    def __init__(self, sample: dict[str, Any], cfg: MismatchConfig) -> None:
        self.threshold = cfg.threshold([])
        self._langs: dict[str, tuple[np.ndarray, np.ndarray, TextNorm]] = {}
        for lang, texts in sample["langs"].items():
            features_ME = unpack(base64.b64decode(texts["features"]), texts["dim"])
            frames_NE = unpack(base64.b64decode(sample["frames"]), texts["dim"])
            self._frames_SKE = frames_NE.reshape(-1, sample["num_frames"], texts["dim"])
            keys = np.asarray([int(key) for key in texts["keys"]])
            self._langs[lang] = (keys, features_ME, text_norm(features_ME, self._frames_SKE))

    def scores(self, lang: str, text: Row, clip: Row) -> dict[str, float]:
        """sim_percentile and sim_margin; empty where the language has no other text to judge against."""
        keys, others_ME, norm = self._langs[lang]
        strangers = np.flatnonzero(keys != text["text_key"])
        if not len(strangers):
            return {}
        text_1E = unpack(text["features"], text["dim"])
        own = text_norm(text_1E, self._frames_SKE)
        both = TextNorm(np.append(norm.mean, own.mean), np.append(norm.std, own.std))
        texts_NE = np.concatenate([others_ME, text_1E])
        found = contrastive_scores(unpack(clip["features"], clip["dim"]), texts_NE, len(others_ME), strangers, both)
        return {name: round(value, 6) for name, value in found.items()}
