from __future__ import annotations

import numpy as np
import pytest

from m2raap import stages
from m2raap.core.config import build
from m2raap.core.errors import M2raapError, UsageError
from m2raap.curate.video_rules import VIDEO_RULES, VideoRulesConfig, judged, signal_value, video_refusals

GOOD = {"duration_s": 3.0, "width": 96, "height": 128, "black_share": 0.0, "frozen_share": 0.2, "motion": 0.0}
DEFAULTS = VideoRulesConfig().thresholds()


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"duration_s": 0.99}, ["clip_too_short"]),
        ({"duration_s": 1.0}, []),
        ({"duration_s": 301}, ["clip_too_long"]),
        ({"width": 63}, ["clip_too_small"]),
        ({"width": 640, "height": 128}, ["elongated"]),
        ({"width": 128, "height": 640}, ["elongated"]),
        ({"black_share": 1.0, "frozen_share": 1.0}, ["black", "frozen"]),
        ({"blurred_share": 1.0}, ["blurred"]),
        ({"black_share": None, "width": None, "duration_s": None, "frozen_share": None}, []),
    ],
)
def test_rules(change: dict, reasons: list[str]) -> None:
    found = [r.reason for r in video_refusals(GOOD | change, DEFAULTS)]
    assert found == reasons
    assert set(found) <= set(stages.reasons())


def test_what_is_not_known_is_not_judged() -> None:
    """A clip of which only key-frames were decoded has no motion and no shares: no rule about them may speak."""
    sparse = {"duration_s": 3.0, "width": 96, "height": 96, "motion": None, "black_share": None, "frozen_share": None}
    strict = build(VideoRulesConfig, {"rules": {"still": 1.0, "black": 0.0, "frozen": 0.0}}, "r.yaml").thresholds()
    assert {rule.reason for _, rule in judged(sparse, strict)} == {
        "clip_too_short",
        "clip_too_long",
        "clip_too_small",
        "elongated",
    }
    assert [r.reason for r in video_refusals(sparse | {"motion": 0.5}, strict)] == ["still"]


def test_thresholds_come_by_bound_by_share_or_not_at_all() -> None:
    tree = {"rules": {"still": {"lowest": 0.1}, "black": False, "clip_too_small": 200}}
    cfg = build(VideoRulesConfig, tree, "r.yaml")
    assert "still" not in cfg.thresholds() and cfg.thresholds({"still": np.array([0.7])})["still"] == 0.7
    assert cfg.by_share == ["still"]
    assert "black" not in cfg.thresholds() and "frozen" in cfg.thresholds()
    assert [r.reason for r in video_refusals(GOOD | {"black_share": 1.0}, cfg.thresholds())] == ["clip_too_small"]
    assert "still" not in DEFAULTS and set(VIDEO_RULES) <= set(stages.reasons())
    assert VideoRulesConfig(**cfg.model_dump(mode="json")) == cfg  # as manifests keep it


def test_bad_numbers_and_settings() -> None:
    with pytest.raises(M2raapError, match="black_share"):
        video_refusals(GOOD | {"black_share": float("nan")}, DEFAULTS)
    with pytest.raises(UsageError, match="clip_too_short 9.*clip_too_long 8"):
        build(VideoRulesConfig, {"rules": {"clip_too_short": 9, "clip_too_long": 8}}, "r.yaml")
    with pytest.raises(UsageError, match="frosen.*frozen"):
        build(VideoRulesConfig, {"rules": {"frosen": 1}}, "r.yaml")
    for limit in ({"highest": 0.1}, {"max": 1}, {"value": 1}, {}):
        with pytest.raises(UsageError, match="still"):
            build(VideoRulesConfig, {"rules": {"still": limit}}, "r.yaml")
    assert signal_value({"width": 0, "height": 9}, "aspect") is None
