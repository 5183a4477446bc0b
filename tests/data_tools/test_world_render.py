"""What the frames show: measured on the pictures, not on the plan."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from data_tools.world.grammar import COLOURS, SHAPES, Event, Obj, Scene, SceneSampler, Shot, split_pairs
from data_tools.world.palette import COLOUR_RGB, lab, tones_for
from data_tools.world.render import lay_out, render, shot_frames

SEEDS = range(6)


def scene_of(motion: str, shape: str = "square", kind: str = "motion", camera: str = "fixed", count: int = 1) -> Scene:
    return Scene(kind, Shot((Event(Obj(shape, "red", "large", count), motion),), "plain", camera))


def red(frames: np.ndarray) -> np.ndarray:
    """bool (T, H, W): the red object's pixels."""
    f = frames.astype(int)
    return (f[..., 0] > 150) & (f[..., 1] < 110) & (f[..., 2] < 110)


def centre(mask: np.ndarray) -> np.ndarray:
    """(T, 2): x and y of the middle of the true pixels."""
    return np.array([[xs.mean(), ys.mean()] for ys, xs in (np.nonzero(m) for m in mask)])


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_moves_go_their_way_and_stay_in_the_picture(motion: str, axis: int, sign: int) -> None:
    for seed in SEEDS:
        mask = red(render(scene_of(motion), [seed]))
        way = centre(mask)[-1] - centre(mask)[0]
        assert sign * way[axis] > 26 and abs(way[1 - axis]) < 2
        area = mask.sum(axis=(1, 2))
        assert area.min() > 0.8 * area.max()


def test_left_and_right_share_their_places() -> None:
    """All places of all frames together: the two motions cannot be told apart by where the object is."""
    places = {}
    for motion in ("left", "right"):
        clips = [centre(red(render(scene_of(motion), [7, seed])))[:, 0] for seed in range(24)]
        places[motion] = np.concatenate(clips)
    low = np.quantile(places["left"], [0.1, 0.5, 0.9]) - np.quantile(places["right"], [0.1, 0.5, 0.9])
    assert np.abs(low).max() < 12  # of 96 px


def test_grow_shrink_rotate_appear_vanish() -> None:
    for seed in SEEDS:
        area = {m: red(render(scene_of(m), [seed])).sum(axis=(1, 2)) for m in ("grow", "shrink", "appear", "vanish")}
        assert area["grow"][-1] > 2.5 * area["grow"][0] and area["shrink"][0] > 2.5 * area["shrink"][-1]
        assert area["appear"][0] == 0 < area["appear"][-1] and area["vanish"][-1] == 0 < area["vanish"][0]
        turned = red(render(scene_of("rotate", "cross"), [seed]))
        size = turned.sum(axis=(1, 2))
        assert size.min() > 0.85 * size.max()
        assert (turned[0] ^ turned).sum(axis=(1, 2)).max() > 0.15 * size.max()


def test_order_clips_do_one_thing_after_the_other() -> None:
    first, second = Event(Obj("square", "red"), "left"), Event(Obj("heart", "blue"), "up")
    for seed in SEEDS:
        frames = render(Scene("order", Shot((first, second))), [seed])
        x = centre(red(frames))[:, 0]
        half = len(x) // 2
        assert abs(x[half] - x[0]) > 0.7 * abs(x[-1] - x[0]) > 8


def test_twins_differ_in_the_times_of_their_events_alone() -> None:
    for first, second in (("left", "up"), ("appear", "rotate"), ("vanish", "grow")):
        events = Event(Obj("square", "red"), first), Event(Obj("heart", "blue"), second)
        for seed in SEEDS:
            one, other = (lay_out(Shot(order), np.random.default_rng(seed)) for order in (events, events[::-1]))
            assert np.array_equal(one.canvas, other.canvas) and np.array_equal(one.flicker, other.flicker)
            for a, b in zip(one.actors, other.actors, strict=True):
                same = [np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)]
                assert [f.name for f, is_same in zip(fields(a), same, strict=True) if not is_same] == ["start", "end"]
                assert a.end - a.start == pytest.approx(b.end - b.start)  # the same speed
            for layout, order in ((one, events), (other, events[::-1])):
                begin = {actor.event: actor.start for actor in layout.actors}
                assert begin[order[0]] < begin[order[1]] and all(0 < a.start < a.end < 1 for a in layout.actors)
            clips = [render(Scene("order", Shot(order)), [seed]) for order in (events, events[::-1])]
            assert np.array_equal(clips[0][0], clips[1][0]) and np.array_equal(clips[0][-1], clips[1][-1])
            assert (clips[0] != clips[1]).any()


def test_a_camera_that_pans_left_shows_things_going_right() -> None:
    for camera, sign in (("pan_left", 1), ("pan_right", -1)):
        scene = Scene("pan", Shot((Event(Obj("star", "red")),), "stripes", camera))
        x = centre(red(render(scene, [3])))[:, 0]
        assert sign * (x[-1] - x[0]) > 15


@pytest.mark.parametrize("count", [1, 2, 3])
def test_number_of_objects(count: int) -> None:
    import cv2

    for seed in SEEDS:
        picture = red(render(scene_of("still", kind="static", camera="shake", count=count), [seed]))[0]
        assert cv2.connectedComponents(picture.astype(np.uint8))[0] - 1 == count


def test_clip_form_length_and_seed() -> None:
    sampler = SceneSampler(split_pairs(0)["train"], np.random.default_rng(0))
    for i, kind in enumerate(("motion", "order", "pan", "static", "multishot")):
        scene = sampler.scene(kind)
        clip = render(scene, [i])
        assert clip.dtype == np.uint8 and clip.shape[1:] == (96, 96, 3) and 24 <= len(clip) <= 42
        assert np.array_equal(clip, render(scene, [i])) and not np.array_equal(clip[:24], render(scene, [i + 1])[:24])
    assert render(scene_of("left"), [1], size_px=64).shape[1:] == (64, 64, 3)


def test_multishot_gives_off_topic_shots_a_third_to_a_half() -> None:
    sampler = SceneSampler(split_pairs(0)["train"], np.random.default_rng(1))
    for seed in range(10):
        scene = sampler.scene("multishot")
        counts = shot_frames(scene, 40, np.random.default_rng(seed))
        assert sum(counts) == 40 and len(counts) == len(scene.shots) and min(counts) >= 4
        assert 0.29 <= 1 - counts[len(scene.before)] / 40 <= 0.51
        clip = render(scene, [seed])
        jumps = np.abs(np.diff(clip.astype(int), axis=0)).mean(axis=(1, 2, 3))
        assert (jumps > 8).sum() >= len(scene.shots) - 1  # a cut is a jump


def test_frozen_is_still_to_the_bit_and_a_static_clip_is_not() -> None:
    frozen = render(scene_of("left"), [2], frozen=True)
    assert (frozen == frozen[0]).all() and red(frozen[:1]).any()
    static = render(scene_of("still", kind="static", camera="shake"), [2]).astype(int)
    assert np.abs(np.diff(static, axis=0)).mean(axis=(1, 2, 3)).min() > 0.5
    assert render(scene_of("left"), [2], black=True).max() <= 5


def test_objects_stand_out_from_every_background_they_may_get() -> None:
    for colour in COLOURS:
        for other in COLOURS:
            for tone in tones_for(tuple(sorted({colour, other}))):
                assert np.linalg.norm(lab(np.array(tone)) - lab(np.array(COLOUR_RGB[colour]))) >= 40


def test_shapes_are_different_pictures() -> None:
    masks = []
    for shape in SHAPES:
        mask = red(render(scene_of("still", shape), [5]))[0]
        ys, xs = np.nonzero(mask)
        window = np.zeros((80, 80), bool)
        y, x = 40 - round(ys.mean()), 40 - round(xs.mean())
        window[ys + y, xs + x] = True
        masks.append(window)
    for i, one in enumerate(masks):
        for two in masks[i + 1 :]:
            assert (one & two).sum() / (one | two).sum() < 0.88
