from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.config import build
from m2raap.core.errors import REASONS, M2raapError, UsageError
from m2raap.curate.text_rules import RULES, FilterTextConfig, refusals, score_text

GOOD = [
    ("en", "a red ring grows"),
    ("en", "a dog runs"),
    ("en", "two small blue squares move left, then a star appears"),
    ("en", "A woman is sautéing mushrooms, capsicum and other vegetables in a frying pan."),
    ("en", "the camera pans left past a yellow star on a striped background"),
    ("en", "ａ ｒｅｄ ｃｉｒｃｌｅ ｍｏｖｅｓ ｒｉｇｈｔ"),
    ("en", "a red circle moves right, royalty free stock footage 4k"),  # dirt that a rewriter takes off
    ("en", "a star grows #shorts #fyp"),
    ("en", "a red circle moves right, then â€œtwoâ€\x9d small blue squares appear"),  # repairable
    ("zh", "一个红色圆形向右移动"),
    ("zh", "红色圆形向右移动，高清视频素材"),
    ("zh", "紅色圓形向右移動"),
    ("zh", "一个人在玩Call of Duty游戏"),
    ("zh", "男人在练瑜伽"),
    ("zh", "一个红色圆形向右移动".encode().decode("latin-1")),
]
BAD = [
    ("en", "red", "text_too_short"),
    ("zh", "圆", "text_too_short"),
    ("en", "the dog runs and " * 40, "repetition"),
    ("en", " ".join(f"a w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(80)), "text_too_long"),
    ("en", "un homme joue de la guitare dans la rue", "wrong_language"),
    ("en", "красный круг движется вправо", "wrong_language"),
    ("en", "一个男人在弹吉他", "wrong_language"),
    ("en", "ein Hund rennt über das Feld", "wrong_language"),
    ("zh", "赤い円が右に動いています", "wrong_language"),
    ("zh", "a man is playing the guitar", "wrong_language"),
    ("zh", "남자가 기타를 친다", "wrong_language"),
    ("zh", "一个红色圆形向右移动".encode().decode("gbk", "replace"), "mojibake"),
    ("en", "Royalty free stock footage, 4K, clip 00231", "boilerplate"),
    ("en", "Please like, comment and subscribe to my channel for more videos", "boilerplate"),
    ("zh", "高清视频素材，编号00231，免版税", "boilerplate"),
    ("en", "IMG_0231.mov", "machine_tags"),
    ("en", "red#a circle#n", "machine_tags"),
    ("en", "shape_circle, red, 4k, hd", "machine_tags"),
    ("zh", "红色，圆形，动画，高清", "machine_tags"),
    ("en", "funny cat funny cat funny cat", "repetition"),
    ("zh", "红色圆形红色圆形红色圆形", "repetition"),
    ("en", "https://youtu.be/abc @someone #fyp", "link"),
]


def verdicts(text: str, lang: str) -> list[str]:
    return [r.reason for r in refusals(score_text(text, lang), lang, FilterTextConfig().thresholds(lang))]


@pytest.mark.parametrize(("lang", "text"), GOOD)
def test_true_captions_pass(lang: str, text: str) -> None:
    assert verdicts(text, lang) == []


@pytest.mark.parametrize(("lang", "text", "reason"), BAD)
def test_bad_texts_are_refused_for_their_reason(lang: str, text: str, reason: str) -> None:
    assert verdicts(text, lang)[0] == reason


def test_reasons_are_known_and_order_is_that_of_the_table() -> None:
    assert set(RULES) <= set(REASONS)
    found = verdicts("IMG_0231.mov", "zh")
    assert found == [r for r in RULES if r in found]
    assert len(found) > 1  # the later ones are recorded too


def test_thresholds_are_applied_to_scores_not_to_texts() -> None:
    signals = score_text("a dog runs", "en")
    strict = FilterTextConfig(min_words_en=4)
    refusal = refusals(signals, "en", strict.thresholds("en"))[0]
    assert (refusal.reason, refusal.signal, refusal.score, refusal.threshold) == (
        "text_too_short",
        "num_words",
        3.0,
        4.0,
    )
    assert refusals(signals, "en", FilterTextConfig(rules=("mojibake",), min_words_en=4).thresholds("en")) == []


def test_unknown_keys_rules_and_languages_fail() -> None:
    with pytest.raises(UsageError, match="did you mean 'min_words_en'"):
        build(FilterTextConfig, {"min_word_en": 4}, "r.yaml")
    with pytest.raises(UsageError, match="unknown rule mojibak"):
        build(FilterTextConfig, {"rules": ["mojibak"]}, "r.yaml")
    with pytest.raises(M2raapError, match="'fr' is not known"):
        score_text("un chat", "fr")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80), st.sampled_from(["en", "zh"]))
def test_any_text_has_scores_in_range(text: str, lang: str) -> None:
    signals = score_text(text, lang)
    assert set(signals) == {rule.signal for rule in RULES.values()}
    for name, value in signals.items():
        assert value >= 0 and (name == "num_words" or value <= 1 + 1e-9), (name, value)


@pytest.mark.parametrize(
    "unit", ["a", "a b ", "一", "#a", "a.", "@", "&amp;", "\u202e", "\x00", ",", "a_", "ä¸", "http://", "\ud800", " "]
)
@pytest.mark.timeout(5)
def test_ten_thousand_characters_take_no_time(unit: str) -> None:
    text = (unit * 10_000)[:10_000]
    for lang in ("en", "zh"):
        verdicts(text, lang)
