from __future__ import annotations

import pytest

from m2raap.report.grading import grade

CLIP_OF = {f"c{i}.{lang}0": f"c{i}" for i in range(6) for lang in ("en", "zh")}


def truth(*rows: tuple[str, str, str, bool]) -> list[dict[str, object]]:
    return [dict(zip(("id", "level", "fault", "repairable"), row, strict=True)) for row in rows]


def test_by_hand() -> None:
    planted = truth(
        ("c0", "clip", "black", False),
        ("c1", "clip", "black", False),
        ("c2.en0", "text", "mismatch", False),
        ("c2.zh0", "text", "mismatch", False),
        ("c3.en0", "text", "shouting", True),
        ("c4.en0", "text", "mojibake", False),
    )
    dropped = {
        "black": ["c0", "c5"],
        "mismatch": ["c2"],
        "text_too_short": ["c3.en0", "c4.en0"],
        "no_text_left": ["c4"],
    }
    found = grade(dropped, planted, CLIP_OF)
    assert [(f["fault"], f["planted"], f["caught"], f["by_reason"]) for f in found["faults"]] == [
        ("black", 2, 1, {"black": 1}),
        ("mismatch", 2, 2, {"mismatch": 2}),
        ("mojibake", 1, 1, {"text_too_short": 1}),
    ]
    assert [f["recall"] for f in found["faults"]] == [0.5, 1, 1]
    assert [(r["reason"], r["dropped"], r["right"], r["precision"]) for r in found["reasons"]] == [
        ("black", 2, 1, 0.5),
        ("mismatch", 1, 1, 1),
        ("text_too_short", 2, 1, 0.5),
    ]
    assert found["overall"] == {
        "planted": 5, "caught": 4, "recall": 0.8, "dropped": 5, "right": 3, "precision": pytest.approx(0.6),
    }  # fmt: skip


def test_a_clip_is_caught_when_all_its_texts_are_dropped() -> None:
    planted = truth(("c0", "clip", "frozen", False), ("c1", "clip", "frozen", False))
    found = grade({"boilerplate": ["c0.en0", "c0.zh0", "c1.en0"]}, planted, CLIP_OF)
    assert found["faults"][0]["caught"] == 1
    assert found["overall"]["right"] == 3


def test_the_same_item_counts_once_overall() -> None:
    planted = truth(("c0.en0", "text", "mojibake", False), ("c0.en0", "text", "duplicate_text", False))
    found = grade({"mojibake": ["c0.en0"], "wrong_language": ["c0.en0"]}, planted, CLIP_OF)
    overall = found["overall"]
    assert (overall["planted"], overall["caught"], overall["dropped"], overall["right"]) == (1, 1, 1, 1)


def test_nothing_planted_nothing_dropped() -> None:
    found = grade({"black": []}, truth(("c0", "clip", "caps", True)), CLIP_OF)
    assert found["faults"] == found["reasons"] == []
    assert found["overall"]["recall"] is None and found["overall"]["precision"] is None
