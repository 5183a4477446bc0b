"""align: the rules that need frames: video rules, near-duplicate clips, texts that do not match their clip, and the balance of
the remaining clips.

`score` embeds frames and texts once. `reduce` finds copies, draws the texts with which each pair is compared and, for shares and
the balance, reads the parts once or twice more. `apply` compares with thresholds: a new threshold embeds nothing again.
"""

from __future__ import annotations

import base64
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from m2raap.core import talk
from m2raap.core.ahead import ahead
from m2raap.core.clusters import POINTS_A_CLUSTER
from m2raap.core.config import APPLY, Config
from m2raap.core.engine import decoder_threads
from m2raap.core.errors import UsageError
from m2raap.core.stage import DataStage, Judged, Signals, Tables
from m2raap.core.tables import Clip, Row, row_key
from m2raap.core.view import LANGS, Part, View
from m2raap.curate import balance, duplicates
from m2raap.curate.balance import BalanceConfig
from m2raap.curate.clean import clean
from m2raap.curate.duplicates import DuplicateConfig
from m2raap.curate.encode import CLIPS_AHEAD, encoder, pack, unpack
from m2raap.curate.judging import HashSample, Judge, Sample
from m2raap.curate.picture_signals import picture_signals
from m2raap.curate.reasons import VIDEO_REASONS
from m2raap.curate.refusal import Drop, Refusal
from m2raap.curate.similarity import FEWEST_OTHERS, MISMATCH, MismatchConfig, pair_scores
from m2raap.curate.text_copies import text_key
from m2raap.curate.video_rules import VIDEO_RULES, VideoRulesConfig, outside_scores, signal_value, video_refusals
from m2raap.models.config import BackboneConfig
from m2raap.stages.rules import in_order, judged
from m2raap.stages.shared import Shared


class AlignConfig(Config):
    """Limits on what the frames show. null for `duplicates`, `mismatch.limit` or `balance` switches that rule off."""

    video: VideoRulesConfig = Field(
        default_factory=VideoRulesConfig, description="Rules on what the frames show.", json_schema_extra=APPLY
    )
    duplicates: DuplicateConfig | None = Field(
        default_factory=DuplicateConfig,
        description="When two clips count as copies; null: no copy is dropped.",
        json_schema_extra=APPLY,
    )
    mismatch: MismatchConfig = Field(
        default_factory=MismatchConfig,
        description="When a text does not match its clip, by the backbone's similarity.",
        json_schema_extra=APPLY,
    )
    balance: BalanceConfig | None = Field(
        default=None, description="How many clips of each concept are kept; null: all.", json_schema_extra=APPLY
    )


class AlignStage(DataStage[AlignConfig]):
    """Refuse what the frames show: mismatches, copies, black and frozen clips."""

    name = "align"
    config = AlignConfig
    version = 5
    needs = ("keyframes",)
    reasons: ClassVar[Mapping[str, str]] = ChainMap(
        {
            "duplicate_clip": "a near-copy of a clip that is kept",
            "mismatch": "image and text do not belong together, by the backbone's similarity",
            "balanced_out": "a clip that passed all rules, of a concept of which the corpus holds more than its share",
        },
        VIDEO_REASONS,
    )
    reads = ("texts", "jpegs")
    reduces = True
    verdict_columns: ClassVar[dict[str, str]] = {
        "sim_percentile": "float", "sim_margin": "float", "sim_z": "float", "copy_of": "str", "cluster": "int",
    }  # fmt: skip

    def __init__(self, cfg: AlignConfig, shared: Shared | None = None) -> None:
        super().__init__(cfg, shared or Shared())

    @property
    def reads_scores(self) -> bool:
        return self._by is not None

    @property
    def _by(self) -> str | None:
        return self.cfg.balance.by if self.cfg.balance else None

    def prepared(self, view: View, scores: tuple[Path, ...] = ()) -> View:
        """The view with users' scores, where the balance reads a column. Raises UsageError where clips have no such column."""
        if self._by is None:
            return view
        view = view.with_scores(scores)
        if view.score_columns.get(self._by, "text_id") == "text_id":
            raise UsageError(f"align.balance.by: no file of --scores has a column '{self._by}' of clips")
        return view

    def dependencies(self) -> dict[str, Any]:
        return {"backbone": self.shared.backbone.model_dump(mode="json")}

    def rule_versions(self) -> dict[str, int]:
        return {"mismatch": MISMATCH.version} | VIDEO_RULES.versions()

    def backbones(self) -> list[BackboneConfig]:
        return [self.shared.backbone]

    def signal_columns(self) -> dict[str, str]:
        sims = {"sim_max": "float", "sim_mean": "float", "sim_robust": "float"}
        pictures = {"thumbnails": "bytes", "thumbnail_hashes": "bytes", "blurred_share": "float"}
        return sims | pictures | {"features": "bytes", "dim": "int", "text_key": "int"}

    def score(self, part: Part, view: View) -> Tables:
        encode = encoder(self.shared.backbone)
        texts_of = [part.texts_of[clip["clip_id"]] for clip in part.clips]
        jpegs_of = [part.frames[clip["clip_id"]]["jpegs"] for clip in part.clips]
        frames_of = encode.images_of(jpegs_of)
        # Stock phrases and tags, which a rewriter removes, do not describe the clip and are not compared with it.
        cleaned_of = [[clean(t["text"], t["lang"])[0] or t["text"] for t in texts] for texts in texts_of]
        features_of = encode.texts_of(cleaned_of)
        rows: list[Row] = []
        signals_of = ahead(picture_signals, jpegs_of, decoder_threads(), CLIPS_AHEAD)
        for clip, texts, signals, frames_KE, features_NE in zip(
            part.clips, texts_of, signals_of, frames_of, features_of, strict=True
        ):
            dim = frames_KE.shape[1]
            rows.append({"clip_id": clip["clip_id"], "features": pack(frames_KE), "dim": dim} | signals)
            for text, feature_E in zip(texts, features_NE, strict=True):
                ids = {"clip_id": clip["clip_id"], "text_id": text["text_id"], "dim": dim}
                sims = pair_scores(frames_KE @ feature_E)
                rows.append(
                    ids | sims | {"features": pack(feature_E), "text_key": text_key(text["text"], text["lang"])}
                )
        return {"signals": rows}

    def reduce(self, parts: Iterable[tuple[Part, Signals]]) -> dict[str, Any]:
        """Reads `parts` once, again for the thumbnails of candidate copies, and again for shares and balance."""
        cfg = self.cfg
        limits = _video_thresholds(parts, cfg.video)
        sample = Sample(cfg.mismatch.num_others)
        table = duplicates.ClipTable()
        for part, signals_of in parts:
            for clip in part.clips:
                signals = _clip_signals(part, signals_of, clip["clip_id"], cfg.video)
                sample.add_clip(clip["clip_id"], signals)
                if not video_refusals(signals, limits):  # else a good clip could be dropped as a copy of a black one
                    table.add(clip["clip_id"], signals)
            for text in part.texts:
                sample.add_text(text, signals_of[text["text_id"]])
        decisions: dict[str, Any] = {"thresholds": {"video": limits, "mismatch": {}}, "balance": None}
        decisions["copies"] = table.copies(parts, cfg.duplicates) if cfg.duplicates else {}
        decisions["sample"] = sample.as_json()
        decisions["thresholds"]["mismatch"] = _mismatch_thresholds(parts, decisions, cfg)
        if cfg.balance:
            decisions["balance"] = _balance(parts, decisions, cfg, cfg.balance)
        return decisions

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        cfg = self.cfg
        scores = Judge(decisions["sample"]).scores(part, signals)
        drops = _rule_drops(part, signals, scores, decisions, cfg)
        dropped_ids = {row_key(row) for row in drops}
        verdicts: list[Row] = []
        chosen = _Chosen(decisions["balance"], cfg.balance) if decisions["balance"] and cfg.balance else None
        for clip in part.clips:
            clip_id = clip["clip_id"]
            verdict = {"clip_id": clip_id, "copy_of": decisions["copies"].get(clip_id)}
            measured = _clip_signals(part, signals, clip_id, cfg.video) if cfg.video.extensions else {}
            verdict |= {name: measured[name] for name in cfg.video.extensions}
            if chosen and _is_balanced(part, clip, dropped_ids):
                verdict["cluster"], row = chosen.judge(part, signals, clip_id)
                drops += [row] if row else []
            verdicts.append(verdict)
        verdicts += [{"clip_id": t["clip_id"], "text_id": t["text_id"]} | scores[t["text_id"]] for t in part.texts]
        return {"dropped": drops, "verdicts": verdicts}

    def more_verdict_columns(self, view: View) -> dict[str, str]:
        return dict.fromkeys(self.cfg.video.extensions, "float")

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        thresholds = decisions.get("thresholds", {})
        if "text_id" not in row:
            limits = in_order(thresholds.get("video", {}), VIDEO_RULES)
            return [judged(*rule) for rule in VIDEO_RULES.judged(signals, limits)]
        signal = self.cfg.mismatch.signal
        score, threshold = signals.get(signal), thresholds.get("mismatch", {}).get(row["lang"])
        return (
            []
            if score is None or threshold is None
            else [Judged("mismatch", MISMATCH.version, signal, score, threshold, "below")]
        )


def _clip_signals(part: Part, signals_of: Signals, clip_id: str, cfg: VideoRulesConfig) -> Row:
    """The signals of a clip by all stages so far, and the scores of the rules from outside of the package."""
    signals = part.signals[clip_id] | signals_of[clip_id]
    return signals | outside_scores(signals, cfg.extensions)


def _video_thresholds(parts: Iterable[tuple[Part, Signals]], cfg: VideoRulesConfig) -> dict[str, float]:
    if not cfg.by_share:
        return cfg.thresholds()
    values: dict[str, list[float]] = {name: [] for name in cfg.by_share}
    for part, signals_of in parts:
        for clip in part.clips:
            signals = _clip_signals(part, signals_of, clip["clip_id"], cfg)
            for name in values:
                if (value := signal_value(signals, VIDEO_RULES[name].signal)) is not None:
                    values[name].append(value)
    return cfg.thresholds({name: np.array(scores) for name, scores in values.items()})


def _mismatch_thresholds(
    parts: Iterable[tuple[Part, Signals]], decisions: dict[str, Any], cfg: AlignConfig
) -> dict[str, float]:
    """lang -> threshold, for every language that has texts to compare."""
    scores: dict[str, list[float]] = {lang: [] for lang in LANGS}
    if cfg.mismatch.limit and cfg.mismatch.limit.has_share:
        judge = Judge(decisions["sample"])
        for part, signals_of in parts:
            judged_scores = judge.scores(part, signals_of)
            for text in part.texts:
                score = (signals_of[text["text_id"]] | judged_scores[text["text_id"]]).get(cfg.mismatch.signal)
                scores[text["lang"]] += [] if score is None else [score]
    limits = {lang: cfg.mismatch.threshold(scores[lang]) for lang in LANGS}
    for lang, texts in decisions["sample"]["langs"].items():
        if cfg.mismatch.compares and limits[lang] is not None and len(texts["keys"]) <= FEWEST_OTHERS:
            talk.log(
                f"align: {len(texts['keys'])} different texts in {lang} are too few to tell a mismatch by "
                f"{cfg.mismatch.signal} (at least {FEWEST_OTHERS + 1}): none is refused as one"
            )
            limits[lang] = None
    return {lang: limit for lang, limit in limits.items() if limit is not None}


def _rule_drops(
    part: Part, signals_of: Signals, scores: dict[str, dict[str, float]], decisions: dict[str, Any], cfg: AlignConfig
) -> list[Row]:
    """The rows of `dropped` of one part by all rules but the balance: video rules, copies and mismatch."""
    limits = decisions["thresholds"]
    drops: list[Row] = []
    for clip in part.clips:
        clip_id = clip["clip_id"]
        copy_of = decisions["copies"].get(clip_id)
        if refused := video_refusals(_clip_signals(part, signals_of, clip_id, cfg.video), limits["video"]):
            drop = Drop.by(refused, clip_id)
            also_failed = (*drop.also_failed, *(("duplicate_clip",) if copy_of else ()))
            drops.append(replace(drop, also_failed=also_failed).row())
        elif copy_of:
            drops.append(
                {"clip_id": clip_id, "text_id": None, "reason": "duplicate_clip", "detail": f"a copy of {copy_of}"}
            )
    for text in part.texts:
        threshold = limits["mismatch"].get(text["lang"])
        judged = scores[text["text_id"]]
        score = (signals_of[text["text_id"]] | judged).get(cfg.mismatch.signal)
        if judged and score is not None and threshold is not None and score < threshold:
            rule = Refusal("mismatch", cfg.mismatch.signal, score, threshold, MISMATCH.version)
            drops.append(Drop.by([rule], text["clip_id"], text["text_id"]).row())
    return drops


def _is_balanced(part: Part, clip: Clip, dropped_ids: set[str]) -> bool:
    """Whether the balance may drop a clip: one that is left, with a text, and for training. All val clips are kept."""
    clip_id = clip["clip_id"]
    is_left = clip_id not in dropped_ids and any(text["text_id"] not in dropped_ids for text in part.texts_of[clip_id])
    return is_left and clip.get("split") != "val"


def _balance(
    parts: Iterable[tuple[Part, Signals]], decisions: dict[str, Any], cfg: AlignConfig, balance_cfg: BalanceConfig
) -> dict[str, Any]:
    """The centres of the clusters and, for each full cluster, the last place in the random order of its clips that is kept.

    Returns {} where no more clips are left than `balance_cfg.target`.
    """
    judge = Judge(decisions["sample"])
    sample = HashSample(POINTS_A_CLUSTER * balance_cfg.clusters if balance_cfg.by is None else 0)
    staying: list[str] = []
    for part, signals_of in parts:
        drops = _rule_drops(part, signals_of, judge.scores(part, signals_of), decisions, cfg)
        dropped_ids = {row_key(row) for row in drops}
        for clip in part.clips:
            if _is_balanced(part, clip, dropped_ids):
                staying.append(clip["clip_id"])
                sample.add(clip["clip_id"], clip["clip_id"], signals_of[clip["clip_id"]])
    if len(staying) <= balance_cfg.target:
        talk.log(
            f"align: {len(staying):,} clips are left, at most align.balance.target {balance_cfg.target:,}: all are kept"
        )
        return {}
    centres: dict[str, Any] = {}
    if balance_cfg.by is None:
        centres_CE = balance.centres(np.stack([_vector(row) for _, row in sample.items()]), balance_cfg)
        centres = {"centres": base64.b64encode(centres_CE.astype("<f4").tobytes()).decode(), "dim": centres_CE.shape[1]}
    cluster_of = _ClusterOf(centres, balance_cfg)
    kept_ids = set(staying)
    clusters: list[int] = []
    places: list[int] = []
    for part, signals_of in parts:
        for clip in part.clips:
            if clip["clip_id"] in kept_ids:
                clusters.append(cluster_of(part, signals_of, clip["clip_id"]))
                places.append(balance.place(clip["clip_id"], balance_cfg.seed))
    return balance.last_places(clusters, places, balance_cfg.target) | centres


def _vector(signals: Row) -> np.ndarray:
    return balance.clip_vector(unpack(signals["features"], signals["dim"]))


class _ClusterOf:
    """The cluster of a clip: that of the nearest centre, or the number in the column `by` of the users' scores."""

    def __init__(self, centres: dict[str, Any], cfg: BalanceConfig) -> None:
        self._by = cfg.by
        if cfg.by is None:
            self._centres_CE = np.frombuffer(base64.b64decode(centres["centres"]), "<f4").reshape(-1, centres["dim"])

    def __call__(self, part: Part, signals_of: Signals, clip_id: str) -> int:
        if self._by is None:
            return balance.nearest(_vector(signals_of[clip_id]), self._centres_CE)
        return balance.given(self._by, clip_id, part.scores.get(clip_id, {}).get(self._by))


class _Chosen:
    """Applies the decision of `_balance` to single clips."""

    def __init__(self, decided: dict[str, Any], cfg: BalanceConfig) -> None:
        self._cluster_of = _ClusterOf(decided, cfg)
        self._decided, self._cfg = decided, cfg

    def judge(self, part: Part, signals_of: Signals, clip_id: str) -> tuple[int, Row | None]:
        """The clip's cluster, and a row of `dropped` if the cluster is full without it."""
        cluster = self._cluster_of(part, signals_of, clip_id)
        last = self._decided["last"].get(str(cluster))
        if last is None or balance.place(clip_id, self._cfg.seed) <= last:
            return cluster, None
        detail = f"cluster {cluster} keeps {self._decided['cap']} or one more"
        return cluster, {"clip_id": clip_id, "text_id": None, "reason": "balanced_out", "detail": detail}
