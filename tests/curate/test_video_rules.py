from __future__ import annotations

import pytest

from m2raap.core.config import build
from m2raap.core.errors import REASONS, M2raapError, UsageError
from m2raap.curate.video_rules import VideoRulesConfig, video_refusals

GOOD = {"duration_s": 3.0, "width": 96, "height": 128, "black_share": 0.0, "frozen_share": 0.2}


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"duration_s": 0.99}, ["clip_too_short"]),
        ({"duration_s": 1.0}, []),
        ({"duration_s": 301}, ["clip_too_long"]),
        ({"width": 63}, ["clip_too_small"]),
        ({"black_share": 1.0, "frozen_share": 1.0}, ["black", "frozen"]),
        ({"black_share": None, "width": None}, []),
    ],
)
def test_rules(change: dict, reasons: list[str]) -> None:
    found = [r.reason for r in video_refusals(GOOD | change, VideoRulesConfig())]
    assert found == reasons
    assert set(found) <= set(REASONS)


def test_bad_numbers_and_settings() -> None:
    with pytest.raises(M2raapError, match="black_share"):
        video_refusals(GOOD | {"black_share": float("nan")}, VideoRulesConfig())
    with pytest.raises(UsageError, match="above max_duration_s"):
        build(VideoRulesConfig, {"min_duration_s": 9, "max_duration_s": 8}, "r.yaml")
