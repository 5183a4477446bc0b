"""align: everything that needs frames: video rules, near-duplicate clips, whether image and text belong together, and the
balance of what is left.

`score` embeds frames and texts once. `reduce` finds copies, draws the texts that pairs are judged against and, for quantiles
and the balance, goes through the parts once or twice more. `apply` judges: new thresholds never embed again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from m2raap.core import talk
from m2raap.core.config import Config
from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Clip, Row, row_key
from m2raap.core.view import LANGS, Part, View
from m2raap.curate import balance, duplicates, thumbnails
from m2raap.curate.balance import BalanceConfig
from m2raap.curate.clean import clean
from m2raap.curate.duplicates import DuplicateConfig
from m2raap.curate.limits import at_quantile
from m2raap.curate.refusal import Refusal
from m2raap.curate.similarity import MismatchConfig, pair_scores
from m2raap.curate.text_copies import text_key
from m2raap.curate.video_rules import VIDEO_RULES, VideoRulesConfig, signal_value, video_refusals
from m2raap.models.config import BackboneConfig
from m2raap.stages.drops import drop_row
from m2raap.stages.encode import encoder, pack, unpack
from m2raap.stages.judging import Judge, Sample, Smallest
from m2raap.video import quality

_BLUR_SIDE_PX = 128  # sharpness means something at one size only
# Variance of the Laplacian at that size, as a share of the luma's own variance. Real key-frames: 0.01 at the 1st centile, 0.37
# in the middle; the same blurred with sigma 3: 0.002. A picture of low contrast is not blurred.
_BLURRED = 0.006


class AlignConfig(Config):
    """Thresholds on what the frames show. `duplicates`, `mismatch` values and `balance` of null switch their rules off."""

    video: VideoRulesConfig = Field(default_factory=VideoRulesConfig)
    duplicates: DuplicateConfig | None = Field(default_factory=DuplicateConfig)
    mismatch: MismatchConfig = Field(default_factory=MismatchConfig)
    balance: BalanceConfig | None = None

    def settings(self, backbone: BackboneConfig) -> Settings:
        return Settings(score={"backbone": backbone.model_dump(mode="json")}, apply=self.model_dump(mode="json"))


class AlignStage(DataStage):
    name = "align"
    version = 3
    reads = ("texts", "jpegs")
    reduces = True
    verdict_columns: ClassVar[dict[str, str]] = {
        "sim_percentile": "float", "sim_margin": "float", "sim_z": "float", "copy_of": "str", "cluster": "int",
    }  # fmt: skip

    def signal_columns(self) -> dict[str, str]:
        sims = {"sim_max": "float", "sim_mean": "float", "sim_robust": "float"}
        pictures = {"thumbnails": "bytes", "thumbnail_hashes": "bytes", "blurred_share": "float"}
        return sims | pictures | {"features": "bytes", "dim": "int", "text_key": "int"}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        encode = encoder(BackboneConfig(**settings["backbone"]))
        rows: list[Row] = []
        for clip in part.clips:
            texts = part.texts_of[clip["clip_id"]]
            jpegs = part.frames[clip["clip_id"]]["jpegs"]
            frames_KE = encode.images(jpegs)
            dim = frames_KE.shape[1]
            rows.append({"clip_id": clip["clip_id"], "features": pack(frames_KE), "dim": dim} | looks(jpegs))
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
        """`parts` is gone through once, again for the thumbnails of candidate copies, and again for quantiles and balance."""
        cfg = AlignConfig(**settings)
        limits = _video_thresholds(parts, cfg.video)
        sample = Sample(cfg.mismatch.num_others)
        table = _ClipTable()
        for part, own in parts:
            for clip in part.clips:
                signals = part.signals[clip["clip_id"]] | own[clip["clip_id"]]
                sample.add_clip(clip["clip_id"], signals)
                if not video_refusals(signals, limits):  # a black clip may not be what a good one is a copy of
                    table.add(clip["clip_id"], signals)
            for text in part.texts:
                sample.add_text(text, own[text["text_id"]])
        decisions: dict[str, Any] = {"thresholds": {"video": limits, "mismatch": {}}, "balance": None}
        decisions["copies"] = table.copies(parts, cfg.duplicates) if cfg.duplicates else {}
        decisions["sample"] = sample.as_json()
        decisions["thresholds"]["mismatch"] = _mismatch_thresholds(parts, decisions, cfg)
        if cfg.balance:
            decisions["balance"] = _balance(parts, decisions, cfg, cfg.balance)
        return decisions

    def apply(self, part: Part, own: Signals, decisions: dict[str, Any], settings: dict[str, Any]) -> Tables:
        cfg = AlignConfig(**settings)
        scores = Judge(decisions["sample"]).scores(part, own)
        drops = _verdicts(part, own, scores, decisions, cfg)
        gone = {row_key(row) for row in drops}
        verdicts: list[Row] = []
        chosen = _Chosen(decisions["balance"], cfg.balance) if decisions["balance"] and cfg.balance else None
        for clip in part.clips:
            clip_id = clip["clip_id"]
            verdict = {"clip_id": clip_id, "copy_of": decisions["copies"].get(clip_id)}
            if chosen and _weighed(part, clip, gone):
                verdict["cluster"], row = chosen.judge(clip_id, own[clip_id])
                drops += [row] if row else []
            verdicts.append(verdict)
        verdicts += [{"clip_id": t["clip_id"], "text_id": t["text_id"]} | scores[t["text_id"]] for t in part.texts]
        return {"dropped": drops, "verdicts": verdicts}


def looks(jpegs: Sequence[bytes]) -> Row:
    """What a clip looks like: thumbnails of its frames, their hashes, and the share of blurred ones."""
    import cv2

    small: list[np.ndarray] = []
    blurred = 0
    for jpeg in jpegs:
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None, "keyframes stores JPEGs that can be read"
        small.append(thumbnails.thumbnail(picture))
        luma = quality.luma(picture)
        scale = _BLUR_SIDE_PX / min(luma.shape)
        if scale < 1:
            luma = cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        spread = float(luma.std())
        blurred += spread >= quality.FLAT_STD and quality.blur_variance(luma) < _BLURRED * spread**2
    thumbs = np.stack(small)
    hashes = thumbnails.hashes(thumbs)
    return {
        "thumbnails": thumbs.tobytes(),
        "thumbnail_hashes": np.array(hashes, "<i8").tobytes() if hashes else None,
        "blurred_share": blurred / len(jpegs),
    }


def _video_thresholds(parts: Iterable[tuple[Part, Signals]], cfg: VideoRulesConfig) -> dict[str, float]:
    shares = {name: limit.quantile for name, limit in cfg.rules.items() if limit and limit.quantile}
    if not shares:
        return cfg.thresholds()
    values: dict[str, list[float]] = {name: [] for name in shares}
    for part, own in parts:
        for clip in part.clips:
            signals = part.signals[clip["clip_id"]] | own[clip["clip_id"]]
            for name in shares:
                if (value := signal_value(signals, VIDEO_RULES[name].signal)) is not None:
                    values[name].append(value)
    found = {
        name: at_quantile(np.array(values[name]), share, VIDEO_RULES[name].refuse) for name, share in shares.items()
    }
    return cfg.thresholds(found)


def _mismatch_thresholds(
    parts: Iterable[tuple[Part, Signals]], decisions: dict[str, Any], cfg: AlignConfig
) -> dict[str, float]:
    """lang -> threshold, for every language that has texts to compare."""
    scores: dict[str, list[float]] = {lang: [] for lang in LANGS}
    if cfg.mismatch.quantile is not None:
        judge = Judge(decisions["sample"])
        for part, own in parts:
            found = judge.scores(part, own)
            for text in part.texts:
                score = (own[text["text_id"]] | found[text["text_id"]]).get(cfg.mismatch.signal)
                scores[text["lang"]] += [] if score is None else [score]
    limits = {lang: cfg.mismatch.threshold(scores[lang]) for lang in LANGS}
    return {lang: limit for lang, limit in limits.items() if limit is not None}


def _verdicts(
    part: Part, own: Signals, scores: dict[str, dict[str, float]], decisions: dict[str, Any], cfg: AlignConfig
) -> list[Row]:
    """Drops of one part by video rules, copies and mismatch: all but the balance."""
    limits = decisions["thresholds"]
    drops: list[Row] = []
    for clip in part.clips:
        clip_id = clip["clip_id"]
        copy_of = decisions["copies"].get(clip_id)
        if found := video_refusals(part.signals[clip_id] | own[clip_id], limits["video"]):
            row = drop_row(clip_id, None, found)
            drops.append(row | {"also_failed": [*row["also_failed"], *(["duplicate_clip"] if copy_of else [])]})
        elif copy_of:
            drops.append(
                {"clip_id": clip_id, "text_id": None, "reason": "duplicate_clip", "detail": f"a copy of {copy_of}"}
            )
    for text in part.texts:
        threshold = limits["mismatch"].get(text["lang"])
        judged = scores[text["text_id"]]
        score = (own[text["text_id"]] | judged).get(cfg.mismatch.signal)
        if judged and score is not None and threshold is not None and score < threshold:
            rule = Refusal("mismatch", cfg.mismatch.signal, score, threshold)
            drops.append(drop_row(text["clip_id"], text["text_id"], [rule]))
    return drops


def _weighed(part: Part, clip: Clip, gone: set[str]) -> bool:
    """Whether the balance counts a clip: it is still there, with a text, and to be trained on. Val clips all stay."""
    clip_id = clip["clip_id"]
    here = clip_id not in gone and any(text["text_id"] not in gone for text in part.texts_of[clip_id])
    return here and clip.get("split") != "val"


def _balance(
    parts: Iterable[tuple[Part, Signals]], decisions: dict[str, Any], cfg: AlignConfig, wanted: BalanceConfig
) -> dict[str, Any]:
    """Centres, and the last place of the draw that stays in each full cluster."""
    judge = Judge(decisions["sample"])
    sample = Smallest(balance.POINTS_A_CLUSTER * wanted.clusters)
    staying: list[str] = []
    for part, own in parts:
        drops = _verdicts(part, own, judge.scores(part, own), decisions, cfg)
        gone = {row_key(row) for row in drops}
        for clip in part.clips:
            if _weighed(part, clip, gone):
                staying.append(clip["clip_id"])
                sample.add(clip["clip_id"], clip["clip_id"], own[clip["clip_id"]])
    if len(staying) <= wanted.target:
        talk.log(
            f"align: {len(staying):,} clips are left, no more than align.balance.target {wanted.target:,}: all stay"
        )
        return {}
    vectors_NE = np.stack([_vector(row) for _, row in sample.items()])
    centres_CE = balance.centres(vectors_NE, wanted)
    here = set(staying)
    clusters: list[int] = []
    places: list[int] = []
    for part, own in parts:
        for clip in part.clips:
            if clip["clip_id"] in here:
                clusters.append(balance.nearest(_vector(own[clip["clip_id"]]), centres_CE))
                places.append(balance.place(clip["clip_id"], wanted.seed))
    chosen = balance.last_places(clusters, places, wanted.target)
    return chosen | {
        "centres": base64.b64encode(centres_CE.astype("<f4").tobytes()).decode(),
        "dim": centres_CE.shape[1],
    }


def _vector(signals: Row) -> np.ndarray:
    return balance.clip_vector(unpack(signals["features"], signals["dim"]))


class _Chosen:
    """Which clips the balance keeps."""

    def __init__(self, decided: dict[str, Any], cfg: BalanceConfig) -> None:
        self._centres_CE = np.frombuffer(base64.b64decode(decided["centres"]), "<f4").reshape(-1, decided["dim"])
        self._decided, self._cfg = decided, cfg

    def judge(self, clip_id: str, signals: Row) -> tuple[int, Row | None]:
        """The clip's cluster, and a row of `dropped` if the cluster is full without it."""
        cluster = balance.nearest(_vector(signals), self._centres_CE)
        last = self._decided["last"].get(str(cluster))
        if last is None or balance.place(clip_id, self._cfg.seed) <= last:
            return cluster, None
        detail = f"cluster {cluster} keeps {self._decided['cap']} or one more"
        return cluster, {"clip_id": clip_id, "text_id": None, "reason": "balanced_out", "detail": detail}


class _ClipTable:
    """Clips that may be copies: what finding them needs, some 100 bytes each besides the id."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._rows: list[tuple[float, float, bytes]] = []

    def add(self, clip_id: str, signals: Row) -> None:
        if signals["thumbnail_hashes"] is None:  # nothing to see in any frame
            return
        # Where frames were too few to measure, quality and length are unknown: such a clip ranks last, and copies only
        # what has no length either.
        self._ids.append(clip_id)
        self._rows.append((signals["pick_sharpness"] or 0.0, signals["duration_s"] or 0.0, signals["thumbnail_hashes"]))

    def copies(self, parts: Iterable[tuple[Part, Signals]], cfg: DuplicateConfig) -> dict[str, str]:
        """dropped clip_id -> kept clip_id, sorted by dropped id. Of copies the sharpest is kept."""
        order = sorted(range(len(self._ids)), key=lambda at: (-self._rows[at][0], self._ids[at]))
        if not order:
            return {}
        row_of = {self._ids[at]: row for row, at in enumerate(order)}
        hashes_NH = np.frombuffer(b"".join(self._rows[at][2] for at in order), "<u8").reshape(-1, thumbnails.NUM_HASHES)

        def thumbnails_of(rows: np.ndarray) -> np.ndarray:
            wanted = set(rows.tolist())
            found: dict[int, np.ndarray] = {}
            for part, own in parts:
                for clip in part.clips:
                    if (row := row_of.get(clip["clip_id"], -1)) in wanted:
                        small = np.frombuffer(own[clip["clip_id"]]["thumbnails"], np.uint8)
                        found[row] = thumbnails.in_step(small.reshape(-1, thumbnails.SIDE, thumbnails.SIDE, 3))
            return np.stack([found[row] for row in rows.tolist()])

        found = duplicates.near_duplicates(hashes_NH, [self._rows[at][1] for at in order], thumbnails_of, cfg)
        names = [self._ids[at] for at in order]
        return dict(sorted((names[dropped], names[kept]) for dropped, kept in found.items()))
