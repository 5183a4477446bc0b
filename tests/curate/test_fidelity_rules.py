"""What a model may not do to a caption, in both languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap import stages
from m2raap.core.config import build
from m2raap.core.errors import UsageError
from m2raap.curate.bilingual import length_ratio, mixed_script, residue_share
from m2raap.curate.echo import echoes
from m2raap.curate.facts import facts
from m2raap.curate.fidelity_rules import FIDELITY_RULES, Candidate, FidelityConfig, Kind, near_key, score

DATA = Path(__file__).parent / "data"


def refusing_rules(
    lang: str, raw: str, text: str, text_lang: str | None = None, aux: tuple[tuple[str, str], ...] = ()
) -> list[str]:
    kind: Kind = "translation" if text_lang not in (None, lang) else "rewrite"
    signals, _ = score(Candidate(text, text_lang or lang, kind, (lang, raw), aux))
    return [refusal.reason for refusal in FIDELITY_RULES.refusals(signals, FidelityConfig().thresholds(kind))]


FAITHFUL = [
    ("en", "man playing guitar on the stage, 4k stock footage", "A man plays the guitar on a stage."),
    (
        "en",
        "a red circle moves right then a blue star appears",
        "A red circle moves to the right, and then a blue star appears.",
    ),
    ("en", "TWO DOGS RUN IN SNOW", "Two dogs run in the snow."),
    ("en", "clip 00231 aerial view of london bridge #travel", "An aerial view of London Bridge."),
    ("en", "there is nobody in the room", "Nobody is in the room."),
    ("zh", "红色圆形向右移动，高清视频素材", "一个红色圆形向右移动。"),
    ("zh", "兩隻狗在雪地裡奔跑", "两只狗在雪地里奔跑。"),
    ("zh", "三个人在北京吃饭", "3个人在北京一起吃饭。"),
]
TRANSLATED = [
    ("en", "two red dogs run on the grass", "两只红色的狗在草地上奔跑。"),
    ("en", "a man without a hat walks in Paris", "一名没戴帽子的男子在巴黎散步。"),
    ("en", "a man drives a BMW on the left lane", "一名男子驾驶宝马在左侧车道行驶。"),
    ("en", "twenty-five people at a table", "二十五个人坐在桌旁。"),
    ("en", "a person left the room", "一个人离开了房间。"),
    ("en", "a drone flies over a red triangle", "一架无人机飞过红色三角形。"),
    ("zh", "先是红色圆形向左移动，然后两个蓝色方块出现", "A red circle moves left, then two blue squares appear."),
    ("zh", "一个男人没有说话", "A man does not speak."),
    ("zh", "2024年春节的上海街头", "Streets of Shanghai at Spring Festival 2024."),
]
UNFAITHFUL = [
    ("en", "three dogs run", "Two dogs run fast.", "rewrite_numbers"),
    ("en", "dogs run on the grass", "5 dogs run on the grass.", "rewrite_numbers"),
    ("en", "a man does not smile at all", "A man smiles at all of them.", "rewrite_negation"),
    ("en", "a man smiles at a dog", "A man never smiles at a dog.", "rewrite_negation"),
    ("en", "a red circle moves right", "A red circle moves left.", "rewrite_colours"),
    ("en", "a red circle moves right", "A blue circle moves right.", "rewrite_colours"),
    ("en", "a man walks in Paris at night", "A man walks at night.", "rewrite_names"),
    ("en", "a man walks in a city at night", "A man walks in Tokyo at night.", "rewrite_names"),
    ("en", "a man talks to a friend", "A man talks to his friend Jonathan Creek.", "rewrite_names"),
    ("en", "a man plays guitar", "A woman bakes bread slowly at dawn.", "rewrite_lost"),
    ("en", "a dog", "A dog waits beside mountains while rivers flow under bright skies.", "rewrite_invented"),
    ("en", "a dog runs", "Here is a dog that runs.", "rewrite_echo"),
    ("en", "a dog runs", "A dog runs. See www.dogs.com", "rewrite_echo"),
    ("en", "a dog runs", "A dog\u202e runs away.", "rewrite_echo"),
    ("en", "a dog runs", "**A dog** runs.", "rewrite_echo"),
    ("en", "a dog runs", "Assistant: a dog runs.", "rewrite_echo"),
    ("en", "a dog runs", "Un chien court dans le parc avec son maître.", "rewrite_language"),
    ("en", "a dog runs", "Dog.", "rewrite_too_short"),
    ("zh", "三只猫在睡觉", "两只猫在睡觉。", "rewrite_numbers"),
    ("zh", "红色圆形向左移动", "红色圆形向右移动。", "rewrite_colours"),
    ("zh", "一个人没有说话", "一个人在说话。", "rewrite_negation"),
    ("zh", "一个人在北京吃饭", "一个人在上海吃饭。", "rewrite_names"),
    ("zh", "一个人用iPhone拍照", "一个人用华为拍照。", "rewrite_names"),
    ("zh", "红色圆形移动", "以下是改写：红色圆形移动。", "rewrite_echo"),
    ("zh", "红色圆形向左移动，蓝色方块出现", "红色圆形向左移动，然後藍色方块出现。", "rewrite_script"),
]  # fmt: skip
MISTRANSLATED = [
    ("en", "two red dogs run on the grass", "三只红色的狗在草地上奔跑。", "rewrite_numbers"),
    ("en", "two red dogs run on the grass", "两只蓝色的狗在草地上奔跑。", "rewrite_colours"),
    ("en", "two red dogs run on the grass", "两只红色的dogs在grass上奔跑。", "translation_residue"),
    ("en", "two red dogs run on the grass", "两只狗#n 红色#a 奔跑#v", "translation_residue"),
    ("en", "a man walks in Paris", "一个男人在伦敦走路。", "rewrite_names"),
    ("en", "a man without a hat", "一个戴帽子的男人。", "rewrite_negation"),
    ("en", "a dog runs over the green grass of a very large park in the morning sun", "一只绿狗。", "translation_length"),
    ("zh", "一个人在吃饭", "A person is eating 米饭 at home.", "translation_residue"),
    ("zh", "一个人", "A person who sits on a chair in a room and who then eats dinner with friends.", "translation_length"),
]  # fmt: skip


@pytest.mark.parametrize(("lang", "raw", "text"), FAITHFUL)
def test_faithful_rewrites_pass(lang: str, raw: str, text: str):
    assert refusing_rules(lang, raw, text) == []


@pytest.mark.parametrize(("lang", "raw", "text"), TRANSLATED)
def test_good_translations_pass(lang: str, raw: str, text: str):
    assert refusing_rules(lang, raw, text, "zh" if lang == "en" else "en") == []


@pytest.mark.parametrize(("lang", "raw", "text", "reason"), UNFAITHFUL)
def test_unfaithful_rewrites_are_refused_for_the_reason(lang: str, raw: str, text: str, reason: str):
    assert reason in refusing_rules(lang, raw, text)


@pytest.mark.parametrize(("lang", "raw", "text", "reason"), MISTRANSLATED)
def test_bad_translations_are_refused_for_the_reason(lang: str, raw: str, text: str, reason: str):
    assert reason in refusing_rules(lang, raw, text, "zh" if lang == "en" else "en")


def test_translations_of_real_captions_pass(shared_data: Path):
    """132 captions with an LLM's translation: what a rule refuses here it refuses wrongly."""
    rows = [json.loads(line) for line in (shared_data / "panda70m" / "captions_zh_llm.jsonl").open(encoding="utf-8")]
    into_zh = [row for row in rows if refusing_rules("en", row["caption_en"], row["caption_zh"], "zh")]
    into_en = [row for row in rows if refusing_rules("zh", row["caption_zh"], row["caption_en"], "en")]
    assert len(rows) == 132 and len(into_zh) <= 1 and len(into_en) <= 1, (into_zh, into_en)


def test_what_the_frames_show_is_not_invented():
    raw, text = "a car drives", "A red car drives past two people in Paris."
    assert set(refusing_rules("en", raw, text)) >= {"rewrite_numbers", "rewrite_colours", "rewrite_names"}
    aux = (("en", "a red car and two people"), ("en", "the eiffel tower in paris"))
    assert refusing_rules("en", raw, text, aux=aux) == []


def test_every_rule_is_a_reason_with_a_limit_that_can_be_set_off():
    assert set(FIDELITY_RULES) <= set(stages.reasons())
    off = build(FidelityConfig, {"rules": dict.fromkeys(FIDELITY_RULES, False)}, "r.yaml")
    bad = {"num_sources": 99.0, "similarity_drop": 1.0, "tokens_over": 9.0}

    def reasons(signals: dict[str, float], kind: Kind, cfg: FidelityConfig) -> list[str]:
        return [refusal.reason for refusal in FIDELITY_RULES.refusals(signals, cfg.thresholds(kind))]

    assert reasons(bad, "rewrite", FidelityConfig()) == ["rewrite_too_long", "rewrite_copies", "rewrite_similarity"]
    assert reasons(bad, "rewrite", off) == [] and reasons({}, "rewrite", FidelityConfig()) == []
    assert reasons(bad, "translation", FidelityConfig()) == ["rewrite_too_long", "rewrite_copies"]
    loose = build(FidelityConfig, {"rules": {"rewrite_copies": 100, "rewrite_too_long": {"max": 9}}}, "r.yaml")
    assert reasons(bad, "rewrite", loose) == ["rewrite_similarity"]
    assert FidelityConfig(**loose.model_dump(mode="json")) == loose  # as manifests keep it
    with pytest.raises(UsageError, match="rewrite_lost.*highest"):
        build(FidelityConfig, {"rules": {"rewrite_lost": {"highest": 0.1}}}, "r.yaml")


@pytest.mark.parametrize(
    ("lang", "text", "numbers"),
    [
        ("en", "twenty-five cats, a hundred and six birds and two thousand ants", {25, 106, 2000}),
        ("en", "1,200 people and 3.5 miles; the 2nd of 10", {1200, 3.5, 2, 10}),
        ("en", "a man, another one, the second and both twins", set()),
        ("en", "4K h264 PS5 at 3pm", set()),
        ("en", "one dozen eggs", {12}),
        ("zh", "三十五只猫和两百个人，一万二千米", {35, 200, 12000}),
        ("zh", "三角形、十字、四川、一起、五颜六色、第二个人", set()),
        ("zh", "二〇二四年，8个人", {2024, 8}),
        ("zh", "一个人和一只猫", set()),
    ],
)
def test_numbers(lang: str, text: str, numbers: set[float]):
    assert facts(text, lang).numbers == numbers


def test_negation_is_told_from_words_that_only_look_like_it():
    for text in ("无人机非常不错", "非洲的别墅", "不锈钢特别亮", "差不多不同的未来"):
        assert not facts(text, "zh").negated, text
    for text in ("没有人", "他不笑", "禁止停车，请勿入内"):
        assert facts(text, "zh").negated, text
    for text in ("he isn’t here", "no dog", "without shoes"):
        assert facts(text, "en").negated, text
    assert not facts("a knot in a notebook", "en").negated


def test_bilingual_measures():
    assert length_ratio("two red dogs run", "en", "两只红色的狗在跑", "zh") == pytest.approx(1.25)
    assert residue_share("一个人用BMW车", "zh", frozenset()) == 0 < residue_share("一个man用车", "zh", frozenset())
    assert residue_share("一个叫John的人", "zh", frozenset({"john"})) == 0
    assert residue_share("Windows Vista的设置", "zh", frozenset(), "settings of windows vista") == 0
    assert mixed_script("兩隻狗在後面", simplified=False) == 0, "traditional throughout"
    assert mixed_script("兩隻狗在後面", simplified=True) == 3
    assert mixed_script("皇后在这里面", simplified=True) == 0, "characters of both scripts"
    assert mixed_script("这裡有兩个人", simplified=False) == 2


def test_near_keys_forget_order_endings_and_numbers_and_nothing_else():
    same = ["Two dogs are running in the park.", "in the park 3 dogs run", "The dogs run in a park"]
    assert len({near_key(text.replace("Two ", "2 "), "en") for text in same[:2]}) == 1
    assert near_key(same[2], "en") != near_key("a dog sleeps in the park", "en")
    assert near_key("a dog", "en") != near_key("a dog", "zh")


def test_orders_never_pass_for_captions_and_captions_do():
    """The texts of the hostile list as a model's answer: every one is refused. Benign look-alikes are not called an echo."""
    hostile = [json.loads(line) for name in ("dev", "held") for line in (DATA / f"hostile_{name}.jsonl").open()]
    passed = [row["text"] for row in hostile if not refusing_rules(row["lang"], "a dog runs", row["text"], row["lang"])]
    assert len(hostile) > 60 and passed == []
    benign = [json.loads(line) for name in ("dev", "held") for line in (DATA / f"benign_{name}.jsonl").open()]
    wrong = [row["text"] for row in benign if set(echoes(row["text"])) - {"link", "markup"}]
    assert len(wrong) <= 0.05 * len(benign), wrong


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(["en", "zh"]), st.sampled_from(["en", "zh"]))
def test_odd_texts_never_crash_and_a_text_is_faithful_to_itself(text: str, other: str, lang: str, to: str):
    score(Candidate(text, to, "translation" if lang != to else "rewrite", (lang, other), [(to, other)]))
    own = facts(text, lang)
    signals, told = score(Candidate(text, lang, "rewrite", None, [(lang, text)]))
    assert signals["number_faults"] == signals["colour_faults"] == signals["negation_faults"] == 0, (told, own)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "unit", ["a ", "一", "A", "二", "not ", "[", "<a ", "as an ", "1,", "system: ", "left ", "{", "."]
)
def test_ten_thousand_characters_take_no_time(unit: str):
    for lang in ("en", "zh"):
        score(Candidate((unit * 10_000)[:10_000], lang, "rewrite", (lang, unit * 1000), []))
