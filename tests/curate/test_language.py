from __future__ import annotations

from m2raap.curate import language
from m2raap.curate.mojibake import broken_share, rare_han_share, repair

FOREIGN = [
    "un homme joue de la guitare",
    "une femme coupe des légumes dans la cuisine",
    "un chien court sur la plage",
    "ein Mann spielt Gitarre",
    "die Frau ist in der Küche",
    "ein roter Kreis bewegt sich nach rechts",
    "un hombre toca la guitarra",
    "una mujer cocina en la cocina",
    "il cerchio rosso si muove verso destra",
    "um homem toca violão",
    "een man is aan het koken",
    "de rode cirkel beweegt naar rechts",
    "mężczyzna gra na gitarze",
    "kırmızı daire sağa hareket ediyor",
    "seorang pria bermain gitar",
    "en hund springer på stranden",
    "một người đàn ông đang chơi guitar",
    "muž hraje na kytaru",
    "красный круг движется вправо",
    "남자가 기타를 친다",
    "赤い円が右に動く",
    "رجل يعزف على الجيتار",
    "एक आदमी गिटार बजा रहा है",
]


def test_foreign_captions_score_low_in_both_languages() -> None:
    assert [t for t in FOREIGN if language.lang_share(t, "en") >= 0.1 or language.lang_share(t, "zh") >= 0.4] == []


def test_short_english_and_chinese_score_high() -> None:
    for text in ("a dog", "red", "a red ring grows", "a chef sautes garlic in a pan", "an army fights a war"):
        assert language.lang_share(text, "en") >= 0.3, text
    for text in ("一只狗", "紅色圓形向右移動", "奶茶の味道很好", "女孩用Photoshop修图"):
        assert language.lang_share(text, "zh") >= 0.5, text


def test_words_and_characters_are_counted() -> None:
    assert language.num_words("A dog's life - don't stop!", "en") == 5
    assert language.num_words("一只狗在跑 OK", "zh") == 6
    assert language.tokens("红色circle移动3次") == ["红", "色", "circle", "移", "动", "3", "次"]
    assert language.num_words("", "en") == 0


def test_invisible_characters_go() -> None:
    assert language.visible("a\u202e dog\u200b\x00\n runs ") == "a dog runs"
    assert repair("\ufeffa dog\ud800") == "a dog"


def test_repair_undoes_whole_encodings_and_leaves_good_text() -> None:
    for text in ("getting it’s head in a pot", "a café serves crème brûlée", "一个女人在煎鲑鱼，然后吃掉。"):
        assert repair(text) == text
        assert repair(text.encode().decode("latin-1")) == text
        assert broken_share(text) == 0
    even = "红色圆形向右移动"  # 24 bytes: GBK pairs them without loss
    assert repair(even.encode().decode("gb18030")) == even
    assert repair("getting it鈥檚 head") == "getting it’s head"


def test_lost_bytes_show() -> None:
    broken = "一个红色圆形向右移动".encode().decode("cp1252", "replace")
    assert broken_share(repair(broken)) > 0.15
    assert rare_han_share("红色圆形") == 0
    assert rare_han_share("紅色圓形") == 0  # traditional is not rare
    assert rare_han_share("涓孩鹑插渾褰㈠悜鍙崇Щ鍔") > 0.5
