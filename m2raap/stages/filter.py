"""filter: the cheap refusals, before anything is decoded: text rules, language, copies of texts, the file's header, and
scores that the user brought along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from m2raap.core import talk
from m2raap.core.config import Config
from m2raap.core.errors import UsageError
from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Clip, Row
from m2raap.core.videos import VideoDigests
from m2raap.core.view import LANGS, Part, View
from m2raap.curate import text_copies, user_rules
from m2raap.curate.limits import at_quantile
from m2raap.curate.text_rules import RULES, FilterTextConfig, refusals, score_rows
from m2raap.curate.user_rules import ScoreLimit
from m2raap.curate.video_rules import VIDEO_RULES, VideoRulesConfig, signal_value, video_refusals
from m2raap.stages.drops import drop_row
from m2raap.stages.videos import file_digest, video_worker
from m2raap.video.fetch import is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video


class FilterConfig(Config):
    """Text rules, header rules, limits on users' scores. Thresholds are applied after scoring: a new one rescores nothing."""

    text: FilterTextConfig = Field(default_factory=FilterTextConfig)
    video: VideoRulesConfig = Field(default_factory=VideoRulesConfig)
    scores: dict[str, ScoreLimit] = Field(
        default_factory=dict, description="limits on columns of --scores: {nsfw: {max: 0.5}, aesthetic: {lowest: 0.1}}"
    )
    decode: VideoConfig = Field(default_factory=VideoConfig)

    def settings(self) -> Settings:
        both = self.model_dump(mode="json")
        versions = {reason: rule.version for reason, rule in RULES.items() if not rule.across}
        return Settings(score={"decode": both.pop("decode"), "rules": versions}, apply=both)


def with_scores(view: View, paths: Iterable[Path], settings: Settings) -> View:
    """The view with users' scores, checked against the corpus and against the limits that the recipe sets on them."""
    view = view.with_scores(tuple(paths))
    for column in settings.apply["scores"]:
        if column not in view.score_columns:
            known = ", ".join(sorted(view.score_columns))
            raise UsageError(
                f"filter.scores.{column}: no file of --scores has this column"
                + (f"; they have {known}" if known else " (none was given); give --scores FILE.parquet")
            )
    return view


class FilterStage(DataStage):
    name = "filter"
    version = 2
    reads = ("texts",)
    reads_video = True
    reduces = True
    verdict_columns: ClassVar[dict[str, str]] = {rule.signal: "float" for rule in RULES.values() if rule.across}

    def video_digest(self, clip: Row, view: View, videos: VideoDigests, settings: dict[str, Any]) -> str:
        return file_digest(clip, view, videos)

    def signal_columns(self) -> dict[str, str]:
        probed = {"probe": "str", "probe_detail": "str", "container": "str", "codec": "str"}
        sizes = {"width": "int", "height": "int", "num_bytes": "int", "duration_s": "float", "fps": "float"}
        texts = {rule.signal: "float" for rule in RULES.values() if not rule.across}
        return probed | sizes | texts | {"text_key": "int", "sketch": "bytes"}

    def more_verdict_columns(self, view: View) -> dict[str, str]:
        return {f"user_{column}": "float" for column in view.score_columns}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        worker = video_worker(VideoConfig(**settings["decode"]))
        rows = [_probe(worker, view.corpus.video_root, clip) for clip in part.clips]
        for lang in LANGS:
            texts = [text for text in part.texts if text["lang"] == lang]
            for text, scores in zip(texts, score_rows([text["text"] for text in texts], lang), strict=True):
                rows.append({"clip_id": text["clip_id"], "text_id": text["text_id"]} | scores)
        return {"signals": rows}

    def reduce(self, parts: Iterable[tuple[Part, Signals]], settings: dict[str, Any]) -> dict[str, Any]:
        """What only the whole corpus can say: copies of texts, thresholds by quantile."""
        cfg = FilterConfig(**settings)
        table = text_copies.TextTable()
        spread = _Spread(cfg)
        for part, own in parts:
            source = {clip["clip_id"]: clip["source"] or "" for clip in part.clips}
            for clip in part.clips:
                spread.add_clip(clip_signals(clip, own[clip["clip_id"]]), part.signals.get(clip["clip_id"], {}))
            for text in part.texts:
                signals = own[text["text_id"]]
                table.add(text["text_id"], text["clip_id"], source[text["clip_id"]], signals)
                spread.add_text(text["lang"], signals, part.signals.get(text["text_id"], {}))
        thresholds = spread.thresholds()
        for limits in thresholds["text"].values():
            for reason in limits.keys() & {"duplicate_text", "near_duplicate_text"}:
                limits[reason] = text_copies.allowed_copies(limits[reason], cfg.text.batch_share, table.num_clips)
        least = {rule.signal: _least(thresholds["text"], reason) for reason, rule in RULES.items() if rule.across}
        return {"thresholds": thresholds, "copies": text_copies.decide(table, least, cfg.text.near_jaccard)}

    def apply(self, part: Part, own: Signals, decisions: dict[str, Any], settings: dict[str, Any]) -> Tables:
        rules = decisions["thresholds"]
        copies = text_copies.Copies(decisions["copies"])
        drops: list[Row] = []
        verdicts: list[Row] = []
        sources = {clip["clip_id"]: clip["source"] or "" for clip in part.clips}
        for clip in part.clips:
            clip_id = clip["clip_id"]
            signals, brought = own[clip_id], part.signals.get(clip_id, {})
            found = video_refusals(clip_signals(clip, signals), rules["video"])
            found += user_rules.refusals(brought, rules["scores"])
            if signals["probe"] != "ok":
                row = {"clip_id": clip_id, "reason": signals["probe"], "detail": signals["probe_detail"]}
                drops.append(row | {"also_failed": [rule.reason for rule in found]})
            elif found:
                drops.append(drop_row(clip_id, None, found))
            elif not part.texts_of[clip_id]:
                drops.append({"clip_id": clip_id, "reason": "no_text_left", "detail": "no text in the recipe's langs"})
            if brought:
                verdicts.append({"clip_id": clip_id} | _named(brought))
        for text in part.texts:
            ids = {"clip_id": text["clip_id"], "text_id": text["text_id"]}
            brought = part.signals.get(text["text_id"], {})
            signals = own[text["text_id"]]
            across = copies.of(text["text_id"], sources[text["clip_id"]], signals["text_key"])
            found = refusals(signals | across, rules["text"].get(text["lang"], {}))
            if found := found + user_rules.refusals(brought, rules["scores"]):
                drops.append(drop_row(text["clip_id"], text["text_id"], found))
            if across or brought:
                verdicts.append(ids | across | _named(brought))
        return {"dropped": drops, "verdicts": verdicts}


def _least(by_lang: Mapping[str, Mapping[str, float]], reason: str) -> float | None:
    return min((limits[reason] for limits in by_lang.values() if reason in limits), default=None)


def _named(brought: Row) -> Row:
    return {f"user_{column}": score for column, score in brought.items()}


class _Spread:
    """Values of the signals whose thresholds are quantiles, and of users' scores."""

    def __init__(self, cfg: FilterConfig) -> None:
        self._cfg = cfg
        self._video = {name: limit.quantile for name, limit in cfg.video.rules.items() if limit and limit.quantile}
        self._text = {name: limit.quantile for name, limit in cfg.text.rules.items() if limit and limit.quantile}
        self._values: dict[tuple[str, ...], list[float]] = {}

    def _add(self, key: tuple[str, ...], value: float | None) -> None:
        if value is not None:
            self._values.setdefault(key, []).append(value)

    def add_clip(self, signals: Row, brought: Row) -> None:
        for name in self._video:
            self._add(("video", name), signal_value(signals, VIDEO_RULES[name].signal))
        self._add_scores(brought)

    def add_text(self, lang: str, signals: Row, brought: Row) -> None:
        for name in self._text:
            self._add(("text", lang, name), signals[RULES[name].signal])
        self._add_scores(brought)

    def _add_scores(self, brought: Row) -> None:
        for column in self._cfg.scores:
            self._add(("score", column), brought.get(column))

    def _array(self, *key: str) -> np.ndarray:
        return np.asarray(self._values.get(key, ()), np.float64)

    def thresholds(self) -> dict[str, Any]:
        """What every rule that is on compares with: quantiles as the numbers that they came to."""
        cfg = self._cfg
        video = {
            name: at_quantile(self._array("video", name), q, VIDEO_RULES[name].refuse)
            for name, q in self._video.items()
        }
        found: dict[str, Any] = {"video": cfg.video.thresholds(video), "text": {}, "scores": {}}
        for lang in LANGS:
            text = {
                name: at_quantile(self._array("text", lang, name), q, RULES[name].refuse)
                for name, q in self._text.items()
            }
            found["text"][lang] = cfg.text.thresholds(lang, text)
        for column, limit in cfg.scores.items():
            scores = self._array("score", column)
            talk.log(f"filter: {len(scores):,} rows have a score '{column}'; those without are not judged")
            found["scores"][column] = limit.bounds(scores)
        return found


def clip_signals(clip: Mapping[str, Any], signals: Row) -> dict[str, Any]:
    """Signals of the file with the duration of the clip where it is cut out of it."""
    start, end = clip["start_s"] or 0.0, clip["end_s"]
    whole = signals["duration_s"]
    duration = end - start if end is not None else (whole - start if whole else None)
    return {**signals, "duration_s": duration}


def _probe(worker: Any, root: Path, clip: Clip) -> Row:
    row: Row = {"clip_id": clip["clip_id"], "probe": "ok"}
    if is_url(clip["video"]):  # one transfer is enough: keyframes makes it, and says what is wrong with it
        return row | {"probe_detail": "an address, not probed"}
    try:
        found = worker.probe(resolve_video(root, clip["video"]))
    except Refused as refused:
        return row | {"probe": refused.reason, "probe_detail": refused.detail}
    names = ("container", "codec", "width", "height", "num_bytes", "duration_s", "fps")
    return row | {name: getattr(found, name) for name in names}
