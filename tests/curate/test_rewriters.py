from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.errors import M2raapError
from m2raap.curate import language
from m2raap.curate.clean import clean
from m2raap.curate.fidelity import compare
from m2raap.curate.rewriters import REWRITERS, RewriterConfig, RulesRewriter, best_auxiliary

CLEANED = [
    ("en", "a red circle moves right, royalty free stock footage 4k", "a red circle moves right"),
    ("en", "a red circle moves right royalty free stock footage 4k", "a red circle moves right"),
    ("en", "4K stock footage of a dog running on grass", "a dog running on grass"),
    ("en", "A RED CIRCLE MOVES RIGHT", "a red circle moves right"),
    ("en", "a red circle  moves right #shorts #fyp", "a red circle moves right"),
    ("en", "a #dog runs in the park", "a dog runs in the park"),
    ("en", "ａ ｒｅｄ ｃｉｒｃｌｅ，then a star", "a red circle,then a star"),
    ("en", "a man plays guitar. Subscribe to my channel! https://youtu.be/abc", "a man plays guitar."),
    ("en", "a red circle moves right, red, circle, 4k", "a red circle moves right"),
    ("en", "a man â€œplaysâ€\x9d guitar", "a man “plays” guitar"),
    ("zh", "红色圆形向右移动，高清视频素材", "红色圆形向右移动"),
    ("zh", "红色圆形向右移动高清视频素材", "红色圆形向右移动"),
    ("zh", "【高清】一个男人在弹吉他", "一个男人在弹吉他"),
    ("zh", "红色 圆形 向右 移动 #短视频", "红色圆形向右移动"),
    ("zh", "先是红色圆环下降,接着青色十字出现", "先是红色圆环下降，接着青色十字出现"),
]
UNTOUCHED = [
    ("en", "a man watching a music video clip"),
    ("en", "no dog, 3 cats"),
    ("en", "a boy has two apples, not three"),
    ("en", "a dog chases a cat, then the cat chases the dog"),
    ("zh", "正在看搞笑视频"),
    ("zh", "一个红色圆形向右移动，然后两个蓝色方块出现。"),
]


@pytest.mark.parametrize(("lang", "text", "expected"), CLEANED)
def test_dirt_goes_and_words_stay(lang: str, text: str, expected: str) -> None:
    cleaned, steps = clean(text, lang)
    assert cleaned == expected and steps
    assert compare(text, cleaned, lang).kept
    assert clean(cleaned, lang) == (cleaned, [])


@pytest.mark.parametrize(("lang", "text"), UNTOUCHED)
def test_good_captions_are_left_alone(lang: str, text: str) -> None:
    assert clean(text, lang) == (text, [])
    result = RulesRewriter().rewrite([{"text_id": "t", "lang": lang, "text": text}], [], [lang])
    assert (result.new, result.inactive, result.refused) == ([], [], [])


def test_fidelity_sees_numbers_negation_colours_and_inventions() -> None:
    assert compare("no 3 red dogs", "red dogs", "en").lost == ("3", "no")
    assert compare("a red dog runs", "a blue dog runs", "en") == (("red",), ("blue",))
    assert compare("一个红色圆形", "一个圆形", "zh").lost == ("红", "色")
    assert compare("a dog runs, stock footage, clip 00231", "a dog runs", "en").kept
    assert compare("三隻貓", "三只猫", "zh", simplified=True).kept


AUX = [
    {"lang": "en", "text": "a red circle", "score": 0.3, "frame_index": 0},
    {"lang": "en", "text": "a red ring", "score": 0.9, "frame_index": 1},
    {"lang": "en", "text": "a red circle", "score": 0.3, "frame_index": 2},
    {"lang": "en", "text": None, "score": 0.1, "frame_index": 3},
    {"lang": "zh", "text": "一个红色圆形", "score": 0.3, "frame_index": 0},
]


def test_rewrite_of_a_clip() -> None:
    raw = [
        {"text_id": "e0", "lang": "en", "text": "a red circle grows #fyp"},
        {"text_id": "e1", "lang": "en", "text": "a red circle gets bigger"},
        {"text_id": "e2", "lang": "en", "text": "Stock footage, 4K, clip 77"},
    ]
    result = RulesRewriter().rewrite(raw, AUX, ["en", "zh"])
    assert [(r["lang"], r["text"], r["origin"], r["parent_text_id"]) for r in result.new] == [
        ("en", "a red circle grows", "rewrite", "e0"),
        ("en", "a red circle", "rewrite", "e2"),
        ("zh", "一个红色圆形", "rewrite", None),
    ]
    assert result.inactive == ["e0", "e2"] and result.refused == []
    assert "auxiliary" in result.new[1]["note"] and "auxiliary" in result.new[2]["note"]


def test_nothing_is_made_from_nothing() -> None:
    raw = [{"text_id": "e2", "lang": "en", "text": "Stock footage, 4K, clip 77"}]
    result = RulesRewriter(RewriterConfig(fill_missing=False)).rewrite(raw, AUX[-1:], ["en", "zh"])
    assert result.new == [] and result.inactive == []
    assert [(r["text_id"], r["reason"]) for r in result.refused] == [("e2", "nothing_left")]
    assert REWRITERS["none"](RewriterConfig()).rewrite(raw, AUX, ["en"]).new == []
    assert best_auxiliary(AUX, "en") == "a red circle" and best_auxiliary([], "en") is None
    with pytest.raises(M2raapError, match="'fr'"):
        RulesRewriter().rewrite([], [], ["fr"])


def test_simplified_is_an_option() -> None:
    raw = [{"text_id": "z", "lang": "zh", "text": "紅色圓形向右移動"}]
    assert RulesRewriter().rewrite(raw, [], ["zh"]).new == []
    assert RulesRewriter(RewriterConfig(simplified=True)).rewrite(raw, [], ["zh"]).new[0]["text"] == "红色圆形向右移动"


WORDS = st.lists(
    st.sampled_from(
        [
            "a",
            "red",
            "dog",
            "not",
            "3",
            "runs",
            "#fyp",
            "4k",
            "stock",
            "footage",
            "video",
            ",",
            "|",
            ".",
            "(",
            ")",
            "https://x.co",
            "IMG_1.mov",
            "clip",
            "77",
            "红色",
            "圆",
            "高清",
            "视频素材",
            "，",
            "１",
        ]
    )
)


@settings(max_examples=300, deadline=None)
@given(WORDS, st.sampled_from(["en", "zh"]))
def test_a_rewrite_never_loses_or_invents_words(words: list[str], lang: str) -> None:
    text = " ".join(words)
    for row in RulesRewriter().rewrite([{"text_id": "t", "lang": lang, "text": text}], [], [lang]).new:
        assert compare(text, row["text"], lang).kept
        assert language.num_words(row["text"], lang) >= 3
        for word in ("red", "dog", "not", "runs", "圆"):
            assert word not in text or word in row["text"]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["en", "zh"]))
def test_odd_text_never_crashes(text: str, lang: str) -> None:
    RulesRewriter(RewriterConfig(simplified=True)).rewrite([{"text_id": "t", "lang": lang, "text": text}], AUX, [lang])


@pytest.mark.parametrize(
    "unit", ["a", "a,", "一", "#a", "# a ", "4k ", "(", "&amp;", "\u202e", "<b>", "<a ", "a_", "http://", "，"]
)
@pytest.mark.timeout(5)
def test_ten_thousand_characters_take_no_time(unit: str) -> None:
    for lang in ("en", "zh"):
        clean((unit * 10_000)[:10_000], lang)
