"""shots.parquet: what it says of a moment is what the pictures show then."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from data_tools.world.grammar import Event, Obj, Scene, SceneSampler, Shot, split_pairs
from data_tools.world.plan import Planned, WorldConfig, planned
from data_tools.world.render import render
from data_tools.world.shots import shot_rows
from data_tools.world.words import ZH_COLOUR

CFG = WorldConfig()
RED, BLUE = Obj("square", "red"), Obj("heart", "blue")


def plan_of(scene: Scene, number: int, fault: str = "") -> Planned:
    plan = planned(CFG, f"t{number:06d}", "train", scene, number)
    plan.fault = fault
    return plan


def masks(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Pixels (T, H, W) that are clearly red, or blue, by their channels alone."""
    r, g, b = (frames[..., i].astype(int) for i in range(3))
    return {"red": (r - g > 60) & (r - b > 60), "blue": (b - r > 60) & (b - g > 60)}


def drawn(plan: Planned) -> np.ndarray:
    return render(plan.scene, plan.seed, CFG.size_px, CFG.fps, frozen=plan.fault == "frozen")


def test_objects_are_named_while_they_can_be_seen() -> None:
    """Compared with the pixels, frame by frame; where an object fades or is passed, a frame earlier or later is right, too."""
    num_changes = 0
    for number, (one, two) in enumerate(
        [("appear", "vanish"), ("vanish", "appear"), ("right", "left"), ("up", "appear")]
    ):
        for repeat in range(3):
            plan = plan_of(Scene("order", Shot((Event(RED, one), Event(BLUE, two)))), 10 * number + repeat)
            pictures = masks(drawn(plan))
            rows = shot_rows(plan, CFG)
            num_changes += len(rows) - 1
            assert rows[0]["start_s"] == 0 and rows[-1]["end_s"] == len(pictures["red"]) / CFG.fps
            assert all(before["end_s"] == after["start_s"] for before, after in pairwise(rows))
            for row in rows:
                first, last = round(row["start_s"] * CFG.fps) + 1, round(row["end_s"] * CFG.fps) - 1
                for frame in range(first, last):
                    area = {name: int(mask[frame].sum()) for name, mask in pictures.items()}
                    named = {name for name in area if name in row["caption_en"]}
                    assert named == {name for name, pixels in area.items() if pixels > 60}, (row, frame, area)
                    assert named == {name for name in area if ZH_COLOUR[name] in row["caption_zh"]}
    assert num_changes >= 12


def test_a_moment_ends_where_two_objects_pass_each_other() -> None:
    """So that a caption that names them from left to right is true of the whole moment."""
    num_passed = 0
    for number in range(20):
        plan = plan_of(Scene("order", Shot((Event(RED, "right"), Event(BLUE, "left")))), number)
        pictures = masks(drawn(plan))
        for row in shot_rows(plan, CFG):
            frames = range(round(row["start_s"] * CFG.fps), round(row["end_s"] * CFG.fps))
            x = {name: [np.nonzero(mask[frame])[1].mean() for frame in frames] for name, mask in pictures.items()}
            gaps = np.array(x["red"]) - np.array(x["blue"])
            assert (gaps > -3).all() or (gaps < 3).all(), "px of the middle of what can be seen of both"
        num_passed += len(shot_rows(plan, CFG)) > 1
    assert num_passed >= 3


def test_shots_are_cut_where_the_picture_is_another() -> None:
    around = Shot((Event(RED),), "dots", "shake")
    main = Shot((Event(BLUE, "left"),), "stripes")
    for number in range(8):
        before, after = ((around,), ()) if number % 2 else ((around,), (around,)) if number % 4 else ((), (around,))
        plan = plan_of(Scene("multishot", main, before, after), number)
        pictures = masks(drawn(plan))
        rows = shot_rows(plan, CFG)
        assert [row["shot"] for row in rows] == list(range(len(plan.scene.shots)))
        for row in rows:
            first, last = round(row["start_s"] * CFG.fps), round(row["end_s"] * CFG.fps)
            assert row["on_topic"] == ("blue" in row["caption_en"]) == (plan.scene.shots[row["shot"]] is main)
            name, other = ("blue", "red") if row["on_topic"] else ("red", "blue")
            areas = {name: mask.sum((1, 2)) for name, mask in pictures.items()}
            assert (areas[name][first:last] > 60).all() and (areas[other][first:last] < 10).all()
            assert first == 0 or areas[name][first - 1] < 10, "the frame before is of another shot"


def test_captions_are_about_looks_alone() -> None:
    sampler = SceneSampler(split_pairs(0)["train"], np.random.default_rng(4))
    kinds = ("motion", "order", "pan", "static", "multishot")
    rows = [row for i in range(100) for row in shot_rows(plan_of(sampler.scene(kinds[i % 5]), i), CFG)]
    words = {word for row in rows for word in row["caption_en"].split()}
    assert not words & {
        "then",
        "moves",
        "moving",
        "left",
        "right",
        "grows",
        "appears",
        "pans",
        "first",
        "after",
        "vanishes",
    }
    assert not [
        row
        for row in rows
        if any(word in row["caption_zh"] for word in ("移动", "然后", "镜头", "出现", "消失", "变大", "变小"))
    ]


@pytest.mark.parametrize("motion", ["left", "appear", "vanish"])
def test_faulty_clips_are_described_as_they_are_drawn(motion: str) -> None:
    scene = Scene("motion", Shot((Event(RED, motion),)))
    assert shot_rows(plan_of(scene, 5, "not_media"), CFG) == []
    (black,) = {(row["caption_en"], row["caption_zh"]) for row in shot_rows(plan_of(scene, 5, "black"), CFG)}
    assert black == ("a black picture", "黑色的画面")
    frozen = plan_of(scene, 5, "frozen")
    (row,) = shot_rows(frozen, CFG)
    assert ("red" in row["caption_en"]) == bool(masks(drawn(frozen))["red"].any())
    copy = plan_of(scene, 5, "duplicate_clip")
    copy.clip_id = "t000006"
    assert [row | {"clip_id": ""} for row in shot_rows(copy, CFG)] == [
        row | {"clip_id": ""} for row in shot_rows(plan_of(scene, 5), CFG)
    ]
