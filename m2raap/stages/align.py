"""align: everything that needs frames: video rules, near-duplicate clips, and whether image and text belong together.

`score` embeds frames and texts once. `reduce` finds copies and draws the texts that pairs are judged against. `apply`
judges: new thresholds never embed again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate.duplicates import DuplicateClipsConfig, near_duplicate_clips, text_key
from m2raap.curate.similarity import MismatchConfig, contrastive_scores, mismatch, pair_scores, text_bias
from m2raap.curate.video_rules import VideoRulesConfig, video_refusals
from m2raap.models.config import BackboneConfig
from m2raap.stages.drops import drop_row
from m2raap.stages.encode import encoder, pack, unpack


class AlignConfig(Config):
    """Thresholds on what the frames show. A threshold of null switches its rule off."""

    video: VideoRulesConfig = Field(default_factory=VideoRulesConfig)
    duplicates: DuplicateClipsConfig | None = Field(default_factory=DuplicateClipsConfig)
    mismatch: MismatchConfig = Field(default_factory=MismatchConfig)

    def settings(self, backbone: BackboneConfig) -> Settings:
        return Settings(score={"backbone": backbone.model_dump(mode="json")}, apply=self.model_dump(mode="json"))


class AlignStage(DataStage):
    name = "align"
    reads = ("texts", "jpegs")
    reduces = True
    verdict_columns = {"sim_percentile": "float", "sim_margin": "float", "copy_of": "str"}

    def signal_columns(self) -> dict[str, str]:
        sims = {"sim_max": "float", "sim_mean": "float", "sim_robust": "float"}
        return sims | {"features": "bytes", "dim": "int", "text_key": "int"}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        encode = encoder(BackboneConfig(**settings["backbone"]))
        rows: list[Row] = []
        for clip in part.clips:
            texts = part.texts_of[clip["clip_id"]]
            frames_KE = encode.images(part.frames[clip["clip_id"]]["jpegs"])
            dim = frames_KE.shape[1]
            rows.append({"clip_id": clip["clip_id"], "features": pack(frames_KE), "dim": dim})
            for text, feature_E in zip(texts, encode.texts([t["text"] for t in texts]), strict=True):
                ids = {"clip_id": clip["clip_id"], "text_id": text["text_id"], "dim": dim}
                sims = pair_scores(frames_KE @ feature_E)
                rows.append(ids | sims | {"features": pack(feature_E), "text_key": text_key(text["text"], text["lang"])})
        return {"signals": rows}

    def reduce(self, parts: Iterable[tuple[Part, Signals]], settings: dict[str, Any]) -> dict[str, Any]:
        cfg = AlignConfig(**settings)
        sample = _Sample(cfg.mismatch.num_others)
        ids: list[str] = []
        hashes: list[list[int]] = []
        durations: list[float] = []
        for part, own in parts:
            for clip in part.clips:
                signals = part.signals[clip["clip_id"]]
                sample.add_frames(own[clip["clip_id"]])
                if not video_refusals(signals, cfg.video):  # a black clip may not be what a good one is a copy of
                    ids.append(clip["clip_id"])
                    hashes.append(part.frames[clip["clip_id"]]["hashes"])
                    durations.append(signals["duration_s"])
            for text in part.texts:
                sample.add_text(text, own[text["text_id"]])
        copies = near_duplicate_clips(ids, hashes, durations, cfg.duplicates) if cfg.duplicates else {}
        return {"copies": copies, "others": sample.as_json()}

    def apply(self, part: Part, own: Signals, decisions: dict[str, Any], settings: dict[str, Any]) -> Tables:
        cfg = AlignConfig(**settings)
        judge = _Judge(decisions["others"], cfg.mismatch)
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


class _Sample:
    """The texts with the smallest id hashes, as many as asked for in each language, and the mean frame of the corpus."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._texts: dict[str, dict[int, tuple[str, Row]]] = {}
        self._frame_sum: np.ndarray | None = None
        self._frames = 0

    def add_frames(self, signals: Row) -> None:
        frames_KE = unpack(signals["features"], signals["dim"])
        total = frames_KE.astype(np.float64).sum(0)
        self._frame_sum = total if self._frame_sum is None else self._frame_sum + total
        self._frames += len(frames_KE)

    def add_text(self, text: Row, signals: Row) -> None:
        rank = hashlib.blake2b(f"other:{text['text_id']}".encode(), digest_size=8).hexdigest()
        known = self._texts.setdefault(text["lang"], {})
        key = signals["text_key"]
        if key not in known or rank < known[key][0]:
            known[key] = (rank, signals)
        if len(known) > 4 * self._num:
            self._texts[text["lang"]] = dict(self._smallest(known))

    def _smallest(self, known: dict[int, tuple[str, Row]]) -> list[tuple[int, tuple[str, Row]]]:
        return sorted(known.items(), key=lambda item: item[1][0])[: self._num]

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        mean_E = None if self._frame_sum is None else self._frame_sum / self._frames
        for lang, known in sorted(self._texts.items()):
            chosen = self._smallest(known)
            features = np.concatenate([unpack(row["features"], row["dim"]) for _, (_, row) in chosen])
            assert mean_E is not None, "texts come with clips, and clips with frames"
            found[lang] = {
                "keys": [str(key) for key, _ in chosen],
                "features": base64.b64encode(pack(features)).decode(),
                "dim": features.shape[1],
                "mean_frame": [float(value) for value in np.round(mean_E, 8)],
            }
        return found


class _Judge:
    """Scores of a pair against the sampled other texts of its language."""

    def __init__(self, others: dict[str, Any], cfg: MismatchConfig) -> None:
        self._cfg = cfg
        self.threshold = cfg.threshold([])
        self._others = {lang: self._open(sample) for lang, sample in others.items()}

    @staticmethod
    def _open(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        features_ME = unpack(base64.b64decode(sample["features"]), sample["dim"])
        mean_E = np.asarray(sample["mean_frame"], np.float32)
        return np.asarray([int(k) for k in sample["keys"]]), features_ME, text_bias(features_ME, mean_E), mean_E

    def scores(self, lang: str, text: Row, clip: Row) -> dict[str, float]:
        """Empty where the language has no other text to judge against."""
        keys, others_ME, bias_M, mean_E = self._others[lang]
        strangers = keys != text["text_key"]
        if not strangers.any():
            return {}
        text_E = unpack(text["features"], text["dim"])[0]
        frames_KE = unpack(clip["features"], clip["dim"])
        own_bias = float(text_bias(text_E[None], mean_E)[0])
        found = contrastive_scores(frames_KE, text_E, others_ME[strangers], bias_M[strangers], own_bias)
        return {name: round(value, 6) for name, value in found.items()}
