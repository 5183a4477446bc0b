"""Every rule that judged a clip or a text, passed or failed: its score beside its threshold, from what the stages stored.

`dropped` holds the verdicts; this holds the rest of the truth, for `explain` and for what was nearly dropped. To show a new
rule here, add it to the function of its stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from m2raap.core.config import Config
from m2raap.core.files import read_json
from m2raap.core.tables import Row
from m2raap.curate import text_rules, user_rules, video_rules
from m2raap.curate.refusal import Refusal, Side
from m2raap.stages.align import AlignConfig
from m2raap.stages.filter import FilterConfig, clip_signals
from m2raap.stages.keyframes import KeyframesConfig


class Judged(NamedTuple):
    """One rule's look at one clip (text_id None) or text."""

    stage: str
    side: Side
    rule: Refusal

    @property
    def failed(self) -> bool:
        return self.rule.fails(self.side)

    @property
    def margin(self) -> float:
        """How far on the good side, in units of the threshold (of the score where that is 0)."""
        gap = self.rule.threshold - self.rule.score if self.side == "above" else self.rule.score - self.rule.threshold
        return gap / (abs(self.rule.threshold) or 1.0)

    def as_dict(self) -> dict[str, Any]:
        rule = self.rule
        return {
            "stage": self.stage, "rule": rule.reason, "version": rule.version, "signal": rule.signal, "score": rule.score,
            "refused_if": self.side, "threshold": rule.threshold, "failed": self.failed,
        }  # fmt: skip


_Found = list[tuple[Side, Refusal]]


class StageRules:
    """The rules of one finished stage, as it was set. `signals`: all that is known of a clip or text so far."""

    def __init__(self, folder: Path) -> None:
        manifest = read_json(folder / "manifest.json")
        decisions = folder / "decisions.json"
        self._stage = manifest["stage"]
        self._decided: dict[str, Any] = read_json(decisions) if decisions.exists() else {}
        self._of_clip, self._of_text = _RULES.get(self._stage, (_none, _none))
        config = _CONFIGS.get(self._stage)
        self._cfg: Any = config(**manifest["settings"]["apply"]) if config else None

    def clip(self, clip: Mapping[str, Any], signals: Row) -> list[Judged]:
        return [Judged(self._stage, *found) for found in self._of_clip(self._cfg, self._decided, clip, signals)]

    def text(self, text: Mapping[str, Any], signals: Row) -> list[Judged]:
        return [Judged(self._stage, *found) for found in self._of_text(self._cfg, self._decided, text, signals)]


def _none(_cfg: Any, _decided: dict[str, Any], _row: Mapping[str, Any], _signals: Row) -> _Found:
    return []


def _filter_clip(_cfg: FilterConfig, decided: dict[str, Any], clip: Mapping[str, Any], signals: Row) -> _Found:
    if signals.get("probe") not in (None, "ok"):
        return []
    named = clip_signals(clip, {"duration_s": None, **signals})
    found = video_rules.judged(named, _in_order(_thresholds(decided, "video"), video_rules.VIDEO_RULES))
    return found + user_rules.judged(_brought(signals), _thresholds(decided, "scores"))


def _filter_text(_cfg: FilterConfig, decided: dict[str, Any], text: Mapping[str, Any], signals: Row) -> _Found:
    thresholds = _thresholds(decided, "text").get(text["lang"], {})
    found = text_rules.judged(signals, _in_order(thresholds, text_rules.RULES))
    return found + user_rules.judged(_brought(signals), _thresholds(decided, "scores"))


def _thresholds(decided: dict[str, Any], kind: str) -> dict[str, Any]:
    return decided.get("thresholds", {}).get(kind, {})


def _in_order(thresholds: dict[str, float], rules: Iterable[str]) -> dict[str, float]:
    """In the order of the verdict, which a file sorted by name has lost."""
    return {name: thresholds[name] for name in rules if name in thresholds}


def _brought(signals: Row) -> Row:
    """Scores that came with --scores."""
    return {name.removeprefix("user_"): score for name, score in signals.items() if name.startswith("user_")}


def _keyframes_clip(cfg: KeyframesConfig, _decided: dict[str, Any], _clip: Mapping[str, Any], signals: Row) -> _Found:
    if signals.get("decode") != "ok":
        return []
    return [("below", Refusal("too_few_frames", "num_frames", float(signals["num_frames"]), float(cfg.min_frames)))]


def _align_clip(_cfg: AlignConfig, decided: dict[str, Any], _clip: Mapping[str, Any], signals: Row) -> _Found:
    return video_rules.judged(signals, _in_order(_thresholds(decided, "video"), video_rules.VIDEO_RULES))


def _align_text(cfg: AlignConfig, decided: dict[str, Any], text: Mapping[str, Any], signals: Row) -> _Found:
    score, threshold = signals.get(cfg.mismatch.signal), _thresholds(decided, "mismatch").get(text["lang"])
    return (
        []
        if score is None or threshold is None
        else [("below", Refusal("mismatch", cfg.mismatch.signal, score, threshold))]
    )


_CONFIGS: dict[str, type[Config]] = {"filter": FilterConfig, "keyframes": KeyframesConfig, "align": AlignConfig}
_Rule = Callable[[Any, dict[str, Any], Mapping[str, Any], Row], _Found]
_RULES: dict[str, tuple[_Rule, _Rule]] = {
    "filter": (_filter_clip, _filter_text),
    "keyframes": (_keyframes_clip, _none),
    "align": (_align_clip, _align_text),
}
