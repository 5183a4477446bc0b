"""filter: the cheap rules, before anything is decoded: on texts, their language and copies, the file's header, and scores that
the user supplies."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from m2raap.core import talk
from m2raap.core.config import APPLY, Config
from m2raap.core.errors import NO_TEXT_LEFT, UsageError
from m2raap.core.stage import DataStage, Judged, Signals, Tables
from m2raap.core.tables import Clip, Row
from m2raap.core.videos import VideoDigests
from m2raap.core.view import LANGS, Part, View
from m2raap.curate import text_copies, user_rules
from m2raap.curate.limits import Limit
from m2raap.curate.reasons import TEXT_REASONS, VIDEO_REASONS
from m2raap.curate.refusal import Drop
from m2raap.curate.text_rules import RULES, FilterTextConfig, score_rows
from m2raap.curate.video_rules import VIDEO_RULES, VideoRulesConfig, outside_scores, signal_value, video_refusals
from m2raap.stages.rules import in_order, judged
from m2raap.stages.videos import Headers, file_digest, headers
from m2raap.video.fetch import is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video


class FilterConfig(Config):
    """Text rules, header rules, limits on users' scores. A new threshold scores nothing again."""

    text: FilterTextConfig = Field(
        default_factory=FilterTextConfig, description="Rules on texts.", json_schema_extra=APPLY
    )
    video: VideoRulesConfig = Field(
        default_factory=VideoRulesConfig, description="Rules on the header of the video file.", json_schema_extra=APPLY
    )
    scores: dict[str, Limit] = Field(
        default_factory=dict,
        description="Limits on columns of --scores, such as {nsfw: {max: 0.5}, aesthetic: {lowest: 0.1}}.",
        json_schema_extra=APPLY,
    )
    keep_without_text: bool | None = Field(
        default=None,
        description="Whether clips that come without a text in the recipe's languages are kept, for `caption` and `rewrite` to "
        "give them one; null: where the recipe has a caption stage whose captions can become texts.",
        json_schema_extra=APPLY,
    )
    decode: VideoConfig = Field(default_factory=VideoConfig, description="Limits on the process that reads headers.")


class FilterStage(DataStage[FilterConfig]):
    """Refuse bad texts and unreadable videos before anything is decoded."""

    name = "filter"
    config = FilterConfig
    version = 3
    reasons: ClassVar[Mapping[str, str]] = ChainMap(
        {"user_score": "a score from --scores is outside its limit in filter.scores"},
        VIDEO_REASONS,
        TEXT_REASONS,
    )
    reads = ("texts",)
    reads_video = True
    reduces = True
    verdict_columns: ClassVar[dict[str, str]] = {rule.signal: "float" for rule in RULES.values() if rule.across}
    _copies: tuple[dict[str, Any], text_copies.Copies] | None = None  # of the decisions that `apply` has read last

    def dependencies(self) -> dict[str, Any]:
        return {"rules": {reason: rule.version for reason, rule in RULES.items() if not rule.across}}

    def rule_versions(self) -> dict[str, int]:
        across = {reason: rule.version for reason, rule in RULES.items() if rule.across}
        return across | VIDEO_RULES.versions()

    @property
    def reads_scores(self) -> bool:
        return True

    def prepared(self, view: View, scores: tuple[Path, ...] = ()) -> View:
        """The view with users' scores. Raises M2raapError for scores of other clips, UsageError for a limit without scores."""
        view = view.with_scores(scores)
        for column in self.cfg.scores:
            if column not in view.score_columns:
                known = ", ".join(sorted(view.score_columns))
                raise UsageError(
                    f"filter.scores.{column}: no file of --scores has this column"
                    + (f"; they have {known}" if known else " (none was given); give --scores FILE.parquet")
                )
        return view

    def video_digest(self, clip: Clip, view: View, videos: VideoDigests) -> str:
        return file_digest(clip, view, videos, self.cfg.decode)

    def signal_columns(self) -> dict[str, str]:
        probed = {"probe": "str", "probe_detail": "str", "container": "str", "codec": "str"}
        probed |= {"transfer": "str", "primaries": "str", "hdr": "bool", "wide_gamut": "bool"}
        sizes = {"width": "int", "height": "int", "num_bytes": "int", "duration_s": "float", "fps": "float"}
        texts = {rule.signal: "float" for rule in RULES.values() if not rule.across}
        outside = dict.fromkeys(self.cfg.text.extensions, "float")
        return probed | sizes | texts | outside | {"text_key": "int", "sketch": "bytes"}

    def more_verdict_columns(self, view: View) -> dict[str, str]:
        user = {f"user_{column}": "float" for column in view.score_columns}
        return user | dict.fromkeys(self.cfg.video.extensions, "float")

    def score(self, part: Part, view: View) -> Tables:
        videos = dict.fromkeys(clip["video"] for clip in part.clips)
        probed = {video: _probe(headers(self.cfg.decode), view.corpus.video_root, video) for video in videos}
        rows = [{"clip_id": clip["clip_id"]} | probed[clip["video"]] for clip in part.clips]
        for lang in LANGS:
            texts = [text for text in part.texts if text["lang"] == lang]
            scored = score_rows([text["text"] for text in texts], lang, self.cfg.text.extensions)
            for text, scores in zip(texts, scored, strict=True):
                rows.append({"clip_id": text["clip_id"], "text_id": text["text_id"]} | scores)
        return {"signals": rows}

    def reduce(self, parts: Iterable[tuple[Part, Signals]]) -> dict[str, Any]:
        """Decisions over the whole corpus: copies of texts, and thresholds that are shares of the corpus."""
        cfg = self.cfg
        table = text_copies.TextTable()
        values = _SignalValues(cfg)
        for part, signals in parts:
            source = {clip["clip_id"]: clip["source"] or "" for clip in part.clips}
            for clip in part.clips:
                values.add_clip(clip_signals(clip, signals[clip["clip_id"]]), part.scores.get(clip["clip_id"], {}))
            for text in part.texts:
                measured = signals[text["text_id"]]
                table.add(text["text_id"], text["clip_id"], source[text["clip_id"]], measured)
                values.add_text(text["lang"], measured, part.scores.get(text["text_id"], {}))
        thresholds = values.thresholds()
        for limits in thresholds["text"].values():
            for reason in limits.keys() & {"duplicate_text", "near_duplicate_text"}:
                limits[reason] = text_copies.allowed_copies(limits[reason], cfg.text.batch_share, table.num_clips)
        lowest = {rule.signal: _lowest(thresholds["text"], reason) for reason, rule in RULES.items() if rule.across}
        return {"thresholds": thresholds, "copies": text_copies.decide(table, lowest, cfg.text.near_jaccard)}

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        rules = decisions["thresholds"]
        copies = self._copies_in(decisions["copies"])
        drops: list[Row] = []
        verdicts: list[Row] = []
        sources = {clip["clip_id"]: clip["source"] or "" for clip in part.clips}
        extensions = self.cfg.video.extensions
        for clip in part.clips:
            clip_id = clip["clip_id"]
            measured, user_scores = signals[clip_id], part.scores.get(clip_id, {})
            of_clip = clip_signals(clip, measured)
            outside = outside_scores(of_clip, extensions) if measured["probe"] == "ok" else {}
            refused = video_refusals(of_clip | outside, rules["video"])
            refused += user_rules.refusals(user_scores, rules["scores"])
            if measured["probe"] != "ok":
                row = {"clip_id": clip_id, "reason": measured["probe"], "detail": measured["probe_detail"]}
                drops.append(row | {"also_failed": [rule.reason for rule in refused]})
            elif refused:
                drops.append(Drop.by(refused, clip_id).row())
            elif not part.texts_of[clip_id] and not self.cfg.keep_without_text:
                drops.append({"clip_id": clip_id, "reason": NO_TEXT_LEFT, "detail": "no text in the recipe's langs"})
            if user_scores or outside:
                verdicts.append({"clip_id": clip_id} | outside | _user_columns(user_scores))
        for text in part.texts:
            ids = {"clip_id": text["clip_id"], "text_id": text["text_id"]}
            user_scores = part.scores.get(text["text_id"], {})
            measured = signals[text["text_id"]]
            across = copies.of(text["text_id"], sources[text["clip_id"]], measured["text_key"])
            refused = RULES.refusals(measured | across, rules["text"].get(text["lang"], {}))
            if refused := refused + user_rules.refusals(user_scores, rules["scores"]):
                drops.append(Drop.by(refused, **ids).row())
            if across or user_scores:
                verdicts.append(ids | across | _user_columns(user_scores))
        return {"dropped": drops, "verdicts": verdicts}

    def _copies_in(self, decided: dict[str, Any]) -> text_copies.Copies:
        """The copies of the whole corpus, which are the same for every part."""
        if self._copies is None or self._copies[0] is not decided:
            self._copies = (decided, text_copies.Copies(decided))
        return self._copies[1]

    def judged(self, row: Mapping[str, Any], signals: Row, decisions: dict[str, Any]) -> list[Judged]:
        thresholds = decisions.get("thresholds", {})
        scores = {name.removeprefix("user_"): score for name, score in signals.items() if name.startswith("user_")}
        user_results = user_rules.judged(scores, thresholds.get("scores", {}))
        if "text_id" in row:
            limits = in_order(thresholds.get("text", {}).get(row["lang"], {}), RULES)
            return [judged(*rule) for rule in RULES.judged(signals, limits) + user_results]
        if signals.get("probe") not in (None, "ok"):
            return []
        measured = clip_signals(row, {"duration_s": None, **signals})
        limits = in_order(thresholds.get("video", {}), VIDEO_RULES)
        return [judged(*rule) for rule in VIDEO_RULES.judged(measured, limits) + user_results]


def _lowest(by_lang: Mapping[str, Mapping[str, float]], reason: str) -> float | None:
    return min((limits[reason] for limits in by_lang.values() if reason in limits), default=None)


def _user_columns(user_scores: Row) -> Row:
    return {f"user_{column}": score for column, score in user_scores.items()}


class _SignalValues:
    """The values of all signals whose limit is a share of the corpus, and of users' scores."""

    def __init__(self, cfg: FilterConfig) -> None:
        self._cfg = cfg
        self._of_video, self._of_text = cfg.video.by_share, cfg.text.by_share
        self._extensions = cfg.video.extensions
        self._values: dict[tuple[str, ...], list[float]] = {}

    def _add(self, key: tuple[str, ...], value: float | None) -> None:
        if value is not None:
            self._values.setdefault(key, []).append(value)

    def add_clip(self, signals: Row, user_scores: Row) -> None:
        if signals["probe"] == "ok":
            signals = signals | outside_scores(signals, self._extensions)
        for name in self._of_video:
            self._add(("video", name), signal_value(signals, VIDEO_RULES[name].signal))
        self._add_scores(user_scores)

    def add_text(self, lang: str, signals: Row, user_scores: Row) -> None:
        for name in self._of_text:
            self._add(("text", lang, name), signals[RULES[name].signal])
        self._add_scores(user_scores)

    def _add_scores(self, user_scores: Row) -> None:
        for column in self._cfg.scores:
            self._add(("score", column), user_scores.get(column))

    def _array(self, *key: str) -> np.ndarray:
        return np.asarray(self._values.get(key, ()), np.float64)

    def thresholds(self) -> dict[str, Any]:
        """The threshold of every rule that is switched on; a share of the corpus becomes the score at which it ends."""
        cfg = self._cfg
        video = {name: self._array("video", name) for name in cfg.video.by_share}
        thresholds: dict[str, Any] = {"video": cfg.video.thresholds(video), "text": {}, "scores": {}}
        for lang in LANGS:
            text = {name: self._array("text", lang, name) for name in cfg.text.by_share}
            thresholds["text"][lang] = cfg.text.thresholds(lang, text)
        for column, limit in cfg.scores.items():
            scores = self._array("score", column)
            talk.log(f"filter: {len(scores):,} rows have a score '{column}'; rows without one are not checked")
            thresholds["scores"][column] = user_rules.bounds(limit, scores)
        return thresholds


def clip_signals(clip: Mapping[str, Any], signals: Row) -> dict[str, Any]:
    """The signals of the video file, with the duration of the clip instead of that of the file."""
    start, end = clip["start_s"] or 0.0, clip["end_s"]
    whole = signals["duration_s"]
    duration = end - start if end is not None else (whole - start if whole else None)
    return {**signals, "duration_s": duration}


def _probe(headers: Headers, root: Path, video: str) -> Row:
    row: Row = {"probe": "ok"}
    if is_url(video):  # only keyframes downloads it, and reports what is wrong with it
        return row | {"probe_detail": "an address, not probed"}
    try:
        header = headers.of(resolve_video(root, video))
    except Refused as refused:
        return row | {"probe": refused.reason, "probe_detail": refused.detail}
    names = ("container", "codec", "width", "height", "num_bytes", "duration_s", "fps")
    colours = ("transfer", "primaries", "hdr", "wide_gamut")
    return row | {name: getattr(header, name) for name in names + colours}
