"""The rules that split a caption into its two events, on every caption of the world and on captions as people write them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.world.grammar import KINDS, SceneSampler, split_pairs
from data_tools.world.words import (
    EN_BACKGROUND,
    EN_MOTION,
    EN_ORDER,
    EN_PAN,
    EN_STATIC,
    EN_VERB,
    LANGS,
    ZH_BACKGROUND,
    ZH_MOTION,
    ZH_ORDER,
    ZH_PAN,
    ZH_STATIC,
    ZH_VERB,
    background_phrase,
    describe,
)
from m2raap.adapt.clauses import clauses, swapped

EN_EVENTS = [f"{verbs[0]} {verbs[2]}".strip() for forms in EN_VERB.values() for verbs in forms]
ZH_EVENTS = [verb for forms in ZH_VERB.values() for verb in forms]
BACKGROUNDS = {
    "en": ["", *(f"{word} a {name} background, " for name in EN_BACKGROUND.values() for word in ("on", "in front of"))],
    "zh": ["", *(f"{name}背景{word}，" for name in ZH_BACKGROUND.values() for word in "下上")],
}


def events(lang: str) -> tuple[list[str], list[str]]:
    """Clauses of first and of second events: of each verb one."""
    if lang == "en":
        return [f"a red cross {verb}" for verb in EN_EVENTS], [f"an orange hourglass {verb}" for verb in EN_EVENTS]
    return [f"一个红色十字{verb}" for verb in ZH_EVENTS], [f"一个小的橙色沙漏{verb}" for verb in ZH_EVENTS]


@pytest.mark.parametrize(
    ("lang", "template"), [*(("en", t) for t in EN_ORDER), *(("zh", t) for t in ZH_ORDER)], ids=str
)
def test_every_order_caption_of_the_world_splits_and_swaps_right(lang: str, template: str) -> None:
    # 'after A, B' is the only template whose first placeholder is not in front; in all of them {a} happens first.
    firsts, seconds = events(lang)
    backgrounds = BACKGROUNDS[lang]
    for number, (first, second) in enumerate((a, b) for a in firsts for b in seconds):
        background = backgrounds[number % len(backgrounds)]
        text = background + template.format(a=first, b=second)
        assert clauses(text) == (first, second), text
        assert swapped(text) == background + template.format(a=second, b=first)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.sampled_from(LANGS))
def test_captions_of_the_world_split_where_they_are_about_order(seed: int, kind: str, lang: str) -> None:
    scene = SceneSampler(split_pairs(0)["train"], np.random.default_rng(seed)).scene(kind)
    text = describe(scene, lang, np.random.default_rng(seed))
    assert (clauses(text) is not None) == (swapped(text) is not None) == (kind == "order"), text


@pytest.mark.parametrize("lang", LANGS)
def test_no_other_template_of_the_world_splits(lang: str) -> None:
    english = lang == "en"
    templates = (*EN_MOTION, *EN_PAN, *EN_STATIC) if english else (*ZH_MOTION, *ZH_PAN, *ZH_STATIC)
    noun, directions = ("two red crosses", ("left", "right")) if english else ("两个红色十字", ("左", "右"))
    for template in templates:
        for verb in EN_EVENTS if english else ZH_EVENTS:
            for d in directions:
                text = template.format(a=f"{noun}{' ' * english}{verb}", n=noun, v=verb, d=d, be="are")
                assert clauses(text) is None and swapped(text) is None, text
    rng = np.random.default_rng(0)
    assert not any(clauses(f"{noun} {background_phrase(name, lang, rng)}") for name in EN_BACKGROUND)


SPLIT = [
    # text, first event, second event, the text with the events exchanged
    (
        "A man opens the door and then walks out.",
        "a man opens the door",
        "walks out",
        "Walks out and then a man opens the door.",
    ),
    ("Tom jumps, then the crowd cheers", "Tom jumps", "the crowd cheers", "The crowd cheers, then Tom jumps"),
    ("a dog barks. Then a cat runs away.", "a dog barks", "a cat runs away", "a cat runs away. Then a dog barks."),
    (
        "First, a woman cuts onions, and then she fries them.",
        "a woman cuts onions",
        "she fries them",
        "First, she fries them, and then a woman cuts onions.",
    ),
    (
        "a boy kicks the ball after the girl passes it",
        "the girl passes it",
        "a boy kicks the ball",
        "the girl passes it after a boy kicks the ball",
    ),
    ("He smiles before he leaves", "he smiles", "he leaves", "He leaves before he smiles"),
    ("Before the dog barks, the cat jumps", "the cat jumps", "the dog barks", "Before the cat jumps, the dog barks"),
    ("After the rain stops, children go outside", "the rain stops", "children go outside", None),
    (
        "Once the water boils, the cook adds salt",
        "the water boils",
        "the cook adds salt",
        "Once the cook adds salt, the water boils",
    ),
    (
        "a man sings while dancing, and afterwards bows",
        "a man sings while dancing",
        "bows",
        "bows, and afterwards a man sings while dancing",
    ),
    ("a car drives past, followed by a bus", "a car drives past", "a bus", "a bus, followed by a car drives past"),
    (
        "in a small kitchen, a man stirs soup; next, he tastes it",
        "a man stirs soup",
        "he tastes it",
        "in a small kitchen, he tastes it; next, a man stirs soup",
    ),
    (
        "in a kitchen a man stirs soup, then he tastes it",
        "in a kitchen a man stirs soup",
        "he tastes it",
        "he tastes it, then in a kitchen a man stirs soup",
    ),
    ("red then green", "red", "green", "green then red"),
    ("a dog then a cat", "a dog", "a cat", "a cat then a dog"),
    ("a man runs up then jumps into the sand", "a man runs up", "jumps into the sand", None),
    (
        "She mixes eggs before pouring them in",
        "she mixes eggs",
        "pouring them in",
        "Pouring them in before she mixes eggs",
    ),
    ("他跳起来然后落下", "他跳起来", "落下", None),
    ("吃完饭之后洗手", "吃完饭", "洗手", None),
    ("一个男人打开门，然后走了出去。", "一个男人打开门", "走了出去", "走了出去，然后一个男人打开门。"),
    ("先切洋葱，再下锅炒", "切洋葱", "下锅炒", "先下锅炒，再切洋葱"),
    ("男人先挥手后跳水", "男人挥手", "男人跳水", "男人先跳水后挥手"),
    ("先红后绿", "红", "绿", "先绿后红"),
    ("吃饭之前，他先洗手", None, None, None),  # 先 of what is said last
    ("吃饭之前，他洗手", "他洗手", "吃饭", "他洗手之前，吃饭"),
    ("小狗叫以后，小猫跑了", "小狗叫", "小猫跑了", "小猫跑了以后，小狗叫"),
    ("小狗叫了几声后，小猫跑了", "小狗叫了几声", "小猫跑了", "小猫跑了后，小狗叫了几声"),
    ("他跳起来，之后倒在地上", "他跳起来", "倒在地上", "倒在地上，之后他跳起来"),
    ("在厨房里，女人切菜，接着炒菜", "女人切菜", "炒菜", "在厨房里，炒菜，接着女人切菜"),
    ("首先主持人说再见，随后灯灭了", "主持人说再见", "灯灭了", "首先灯灭了，随后主持人说再见"),
]


@pytest.mark.parametrize(("text", "first", "second", "exchanged"), SPLIT, ids=[row[0] for row in SPLIT])
def test_captions_as_people_write_them(text: str, first: str | None, second: str | None, exchanged: str | None) -> None:
    assert clauses(text) == (None if first is None else (first, second))
    assert swapped(text) == exchanged


TRAPS = """
The man then walks away / he then jumps / Tom then jumps / the girls then dance / the man is then seen talking
a singer stands before a group of people talking / a man poses before the football players / he bows before a car parked outside
he jumps once and lands / he turns once while dancing / the day after, he runs / a man runs and soon after falls
a man is shown after the title / moments later a man runs / they wait before several dancers in dresses / a man walks
then / then a man walks / a man walks and then / after that a man walks / first a man walks
a man sings while a woman dances / thereafter a man walks / thereafter / the other dog runs
a man strengthens his arms / a singer stands before the camera / a band plays before a cheering crowd
he bows before the judges / a house before the green hills / after a while the dog sleeps / a man runs after the bus
a nurse looks after dogs / waves roll in one after another / pictures of a room before and after cleaning
the day before he left / after all he wins / the train is now and then late / she once again waves
they all jump at once / a man stands next to a car / a man and next to him a dog runs / later that day a man runs
a man is followed by a dog / a man, followed by a dog, walks down the road / more beautiful then the sun
the year after / a man runs, then jumps, then falls / first a man runs, then he jumps, finally he falls
a man sings after he eats, then sleeps / after he eats, drinks, and sleeps, he runs
a dog runs. The sky is blue. Then it sits. / then it sits. A dog runs. The sky is blue.
a man first runs and then sits / the end / lengthen the table
男人然后走开 / 男人之后走开 / 再见
他挥手说再见 / 他再次跳起来 / 男人站在门后面 / 他向前后看了看 / 他在镜头之前唱歌 / 站在观众以前唱歌
先生走进房间 / 女人先后换了两件衣服 / 很久以前，有一座山 / 几秒后，猫跑了 / 最后他走了 / 以后 / 之前
然后他走了 / 他走了，然后 / 先走路，然后跑步，最后休息 / 他跳起来，然后跑，然后停下 / 一边唱歌一边跳舞
他不再说话 / 虽然后来下雨 / 人们在幕后，灯亮了 / 两个红色圆形移到后面 / 一个男人，吃饭之前挥手
"""


@pytest.mark.parametrize("text", ["", *(part.strip() for part in re.split("[/\n]", TRAPS.strip()))])
def test_traps_do_not_split(text: str) -> None:
    assert clauses(text) is None and swapped(text) is None


WORDS = st.sampled_from(
    ["a dog", "Tom", "runs", "the cameras", "barks", "is", "red", "first", "then", "and", "after", "that", "before", "once",
     "followed by", "next", "moves right", ",", ".", ";", "while", "finally", "A man", "on a beach", "jumping"]
)  # fmt: skip
ZH_WORDS = st.sampled_from(
    ["小狗", "跑了", "红色", "先", "先是", "然后", "之后", "之前", "以后", "后", "再", "再见", "接着",
     "，", "。", "前", "在海边", "最后", "叫"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=9).map(" ".join) | st.lists(ZH_WORDS, min_size=2, max_size=9).map("".join))
def test_whatever_splits_has_its_events_in_the_text_and_swapping_exchanges_them(text: str) -> None:
    parts = clauses(text)
    if parts is None:
        assert swapped(text) is None
        return
    assert all(part.strip() for part in parts)
    exchanged = swapped(text)
    if exchanged is None:
        return
    assert sorted(exchanged.lower()) == sorted(text.lower())
    again = swapped(exchanged)
    low = [part.lower() for part in parts]
    assert [part.lower() for part in clauses(exchanged) or ()] == low[::-1]
    assert again is not None and [part.lower() for part in clauses(again) or ()] == low


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    parts = clauses(text)
    assert parts is None or len(parts) == 2
