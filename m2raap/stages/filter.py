"""filter: the cheap refusals, before anything is decoded: text rules, language, duplicate texts, the file's header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.stage import DataStage, Settings, Signals, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View
from m2raap.curate.text_rules import RULES, FilterTextConfig, refusals, score_text
from m2raap.curate.video_rules import VideoRulesConfig, video_refusals
from m2raap.stages.drops import drop_row
from m2raap.stages.videos import path_or_none, video_worker
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video


class FilterConfig(Config):
    """Text rules and header rules. Thresholds are applied after scoring: a new one rescores nothing."""

    text: FilterTextConfig = Field(default_factory=FilterTextConfig)
    video: VideoRulesConfig = Field(default_factory=VideoRulesConfig)
    decode: VideoConfig = Field(default_factory=VideoConfig)

    def settings(self) -> Settings:
        both = self.model_dump(mode="json")
        return Settings(score={"decode": both.pop("decode")}, apply=both)


class FilterStage(DataStage):
    name = "filter"
    reads = ("texts",)
    reads_video = True
    reduces = True

    def video_path(self, root: Path, clip: Row) -> Path | None:
        return path_or_none(root, clip)

    def signal_columns(self) -> dict[str, str]:
        probed = {"probe": "str", "probe_detail": "str", "container": "str", "codec": "str"}
        sizes = {"width": "int", "height": "int", "num_bytes": "int"}
        texts = {rule.signal: "float" for rule in RULES.values()}
        return probed | sizes | texts | {"duration_s": "float", "fps": "float", "text_key": "int"}

    def score(self, part: Part, view: View, settings: dict[str, Any]) -> Tables:
        from m2raap.curate.duplicates import text_key

        worker = video_worker(VideoConfig(**settings["decode"]))
        rows = [_probe(worker, view.corpus.video_root, clip) for clip in part.clips]
        for text in part.texts:
            scores = score_text(text["text"], text["lang"])
            ids = {"clip_id": text["clip_id"], "text_id": text["text_id"]}
            rows.append(ids | scores | {"text_key": text_key(text["text"], text["lang"])})
        return {"signals": rows}

    def reduce(self, parts: Iterable[tuple[Part, Signals]], settings: dict[str, Any]) -> dict[str, Any]:
        """The texts that stand on too many clips, as {text_key: number of clips}."""
        counts: Counter[int] = Counter()
        for part, own in parts:
            counts.update(key for key, _ in {(own[t["text_id"]]["text_key"], t["clip_id"]) for t in part.texts})
        most = settings["text"]["max_copies"]
        return {"common_texts": {str(key): n for key, n in sorted(counts.items()) if n > most}}

    def apply(self, part: Part, own: Signals, decisions: dict[str, Any], settings: dict[str, Any]) -> Tables:
        cfg = FilterConfig(text=settings["text"], video=settings["video"])
        drops = []
        for clip in part.clips:
            signals = own[clip["clip_id"]]
            if signals["probe"] != "ok":
                detail = signals["probe_detail"]
                drops.append({"clip_id": clip["clip_id"], "reason": signals["probe"], "detail": detail})
            elif found := video_refusals(clip_signals(clip, signals), cfg.video):
                drops.append(drop_row(clip["clip_id"], None, found))
            elif not part.texts_of[clip["clip_id"]]:
                drops.append(
                    {"clip_id": clip["clip_id"], "reason": "no_text_left", "detail": "no text in the recipe's langs"}
                )
        for text in part.texts:
            signals = own[text["text_id"]]
            found = refusals(signals, text["lang"], cfg.text.thresholds(text["lang"]))
            if found:
                drops.append(drop_row(text["clip_id"], text["text_id"], found))
            elif copies := decisions["common_texts"].get(str(signals["text_key"])):
                limits = {"score": float(copies), "threshold": float(cfg.text.max_copies)}
                drops.append(
                    {"clip_id": text["clip_id"], "text_id": text["text_id"], "reason": "duplicate_text"} | limits
                )
        return {"dropped": drops}


def clip_signals(clip: Row, signals: Row) -> dict[str, Any]:
    """Signals of the file with the duration of the clip where it is cut out of it."""
    start, end = clip["start_s"] or 0.0, clip["end_s"]
    whole = signals["duration_s"]
    duration = end - start if end is not None else (whole - start if whole else None)
    return {**signals, "duration_s": duration}


def _probe(worker: Any, root: Path, clip: Row) -> Row:
    row: Row = {"clip_id": clip["clip_id"], "probe": "ok"}
    try:
        found = worker.probe(resolve_video(root, clip["video"]))
    except Refused as refused:
        return row | {"probe": refused.reason, "probe_detail": refused.detail}
    names = ("container", "codec", "width", "height", "num_bytes", "duration_s", "fps")
    return row | {name: getattr(found, name) for name in names}
