"""Grammar and captions: splits, meanings, words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.world.grammar import (
    COLOURS,
    KINDS,
    MOTIONS,
    ROUND_SHAPES,
    SHAPES,
    Event,
    Obj,
    Scene,
    SceneSampler,
    Shot,
    meaning,
    motions_of,
    reversed_order,
    split_pairs,
)  # fmt: skip
from data_tools.world.words import EN_SHAPE, EN_VERB, LANGS, ZH_COLOUR, ZH_SHAPE, ZH_VERB, describe

seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(seeds)
def test_splits_share_the_pairs_out_and_train_knows_every_word(seed: int) -> None:
    split = split_pairs(seed)
    together = [p for pairs in split.values() for p in pairs]
    assert len(together) == len(set(together)) == len(COLOURS) * len(SHAPES)
    assert [len(split[s]) for s in ("train", "val", "test")] == [70, 10, 20]
    for pairs in split.values():
        assert {c for c, _ in pairs} == set(COLOURS) and {s for _, s in pairs} == set(SHAPES)


def test_another_seed_splits_otherwise() -> None:
    assert split_pairs(1) != split_pairs(2) and split_pairs(1) == split_pairs(1)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(KINDS), st.sampled_from(["train", "val", "test"]))
def test_scenes_show_only_pairs_of_their_split_and_only_motions_that_can_be_seen(
    seed: int, kind: str, split: str
) -> None:
    pairs = split_pairs(0)[split]
    scene = SceneSampler(pairs, np.random.default_rng(seed)).scene(kind)
    assert set(scene.pairs) <= set(pairs)
    for shot in scene.shots:
        for event in shot.events:
            assert event.motion == "still" or event.motion in motions_of(event.obj.shape)
    if kind == "multishot":
        on_topic = {e.obj.pair for e in scene.main.events}
        away = [shot for shot in scene.shots if shot is not scene.main]
        assert away and all(e.obj.pair not in on_topic and shot.background != scene.main.background
                            for shot in away for e in shot.events)  # fmt: skip
    if kind == "order":
        assert scene.main.events[0].obj.pair != scene.main.events[1].obj.pair


def test_round_shapes_never_turn() -> None:
    assert {s for s in SHAPES if "rotate" not in motions_of(s)} == set(ROUND_SHAPES)


def _reads_back(text: str, obj: Obj, motion: str, lang: str) -> bool:
    """Whether the caption names colour, shape, number and motion."""
    if lang == "zh":
        number = {1: "一个", 2: "两个", 3: "三个"}[obj.count]
        names = [f"{ZH_COLOUR[obj.colour]}{s}" for s in ZH_SHAPE[obj.shape]]
        verbs = ZH_VERB.get(motion, ("",))
    else:
        number = {1: "a", 2: "two ", 3: "three "}[obj.count]
        names = [f"{obj.colour} {s}" for s in EN_SHAPE[obj.shape]]
        column = 0 if obj.count == 1 else 1
        verbs = tuple(f"{v[column]} {v[2]}".strip() for v in EN_VERB[motion]) if motion in EN_VERB else ("",)
    return number in text and any(n in text for n in names) and any(v in text for v in verbs)


@settings(max_examples=80, deadline=None)
@given(seeds, st.sampled_from(KINDS), st.sampled_from(LANGS))
def test_captions_always_say_what_the_meaning_holds(seed: int, kind: str, lang: str) -> None:
    scene = SceneSampler(split_pairs(0)["train"], np.random.default_rng(seed)).scene(kind)
    text = describe(scene, lang, np.random.default_rng(seed))
    assert text == describe(scene, lang, np.random.default_rng(seed))
    assert "{" not in text and text == text.strip() and (lang == "zh") == any("\u4e00" <= c <= "\u9fff" for c in text)
    for event in scene.main.events:
        assert _reads_back(text, event.obj, event.motion, lang), text
    if kind == "pan":
        left = scene.main.camera == "pan_left"
        assert (("left" if left else "right") if lang == "en" else ("向左" if left else "向右")) in text


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_at_least_four_wordings(kind: str, lang: str) -> None:
    scene = SceneSampler(split_pairs(0)["train"], np.random.default_rng(3)).scene(kind)
    assert len({describe(scene, lang, np.random.default_rng(i)) for i in range(200)}) >= 8


def test_plurals_and_articles() -> None:
    def say(obj: Obj) -> set[str]:
        scene = Scene("motion", Shot((Event(obj, "left"),)))
        return {describe(scene, "en", np.random.default_rng(i)) for i in range(60)}

    assert any(t.startswith("an orange cross moves") for t in say(Obj("cross", "orange")))
    assert not any("a orange" in t or "an large" in t for t in say(Obj("cross", "orange")))
    assert any(t.startswith("two orange crosses move ") for t in say(Obj("cross", "orange", count=2)))


def test_meaning_tells_order_number_motion_and_pan_apart_but_not_size_or_background() -> None:
    one, two = Event(Obj("star", "red"), "left"), Event(Obj("ring", "blue"), "appear")
    order = Scene("order", Shot((one, two)))
    assert meaning(order) != meaning(reversed_order(order))
    assert reversed_order(reversed_order(order)) == order

    def single(obj: Obj, motion: str = "left", background: str = "plain", camera: str = "fixed") -> str:
        return meaning(Scene("motion", Shot((Event(obj, motion),), background, camera)))

    base = single(Obj("star", "red", "small"))
    assert base == single(Obj("star", "red", "large"), background="waves")
    others = {single(Obj("star", "red", count=2)), single(Obj("star", "red"), "right")}
    assert base not in others
    still = Obj("star", "red")
    assert len({single(still, "still", camera=c) for c in ("fixed", "pan_left", "pan_right")}) == 3


def test_the_test_pairs_have_room_for_five_hundred_meanings() -> None:
    pairs = split_pairs(0)["test"]
    assert sum(len(motions_of(shape)) * 3 for _, shape in pairs) >= 500
    assert len(MOTIONS) == 9
