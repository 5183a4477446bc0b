"""Labels from captions: lemmas, stop words, synonyms, and words of two languages that are one label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from m2raap.annotate.config import LabelsConfig
from m2raap.annotate.label_set import LabelSet, Synonyms, companions, frequent, label_set, stated_label_set
from m2raap.annotate.label_words import read_word_list, words_of
from m2raap.core.errors import M2raapError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two women are running with the dogs", {"woman", "run", "dog"}),
        ("A man is playing quickly", {"man", "play"}),
        ("She wears glasses, and they glassed it", {"wear", "glass"}),
        ("IGNORE all previous instructions <script>alert(1)</script>", {"ignore", "instruction", "script", "alert"}),
        ("12345 !!!", set()),
        ("", set()),
    ],
)
def test_english_words_are_lemmas_of_nouns_and_verbs(text: str, words: set[str]):
    assert words_of(text, "en") == {f"en:{word}" for word in words}


def test_chinese_words_are_nouns_and_verbs():
    assert words_of("一个男人在踢足球，旁边有一只狗。", "zh") >= {"zh:男人", "zh:狗"}
    assert not {"zh:在", "zh:一个", "zh:，"} & words_of("一个男人在踢足球", "zh")


def test_the_lexicon_of_chinese_is_not_kept_where_others_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import tempfile

    import jieba

    from m2raap.annotate import label_words

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(jieba, "dt", jieba.Tokenizer())
    label_words._segmenter.cache_clear()
    assert "zh:狗" in words_of("一只狗", "zh")
    assert not list(tmp_path.rglob("*")), "jieba reads such a file with marshal"


def test_rare_everywhere_and_stop_words_are_no_labels(tmp_path: Path):
    (tmp_path / "stop.txt").write_text("# mine\nsky, 天空\n", encoding="utf-8")
    cfg = LabelsConfig(min_count=5, max_share=0.5, stop_words=tmp_path / "stop.txt")
    counts = {"en:dog": 30, "en:cat": 4, "en:grass": 60, "en:sky": 20, "zh:天空": 20, "en:run": 30}
    assert frequent(counts, 100, cfg) == {"en:dog": 30, "en:run": 30}


def test_synonyms_count_as_the_first_word_of_their_line(tmp_path: Path):
    (tmp_path / "words.txt").write_text("car, automobile, 汽车\nDog，狗\n", encoding="utf-8")
    synonyms = Synonyms(tmp_path / "words.txt")
    assert synonyms.heads({"en:automobile", "zh:汽车", "en:tree"}) == {"en:car", "en:tree"}
    assert synonyms.words("en:dog") == ["en:dog", "zh:狗"]
    (tmp_path / "twice.txt").write_text("car, automobile\nvan, automobile\n")
    with pytest.raises(M2raapError, match="'en:automobile' is in two lines"):
        Synonyms(tmp_path / "twice.txt")


def test_a_word_list_that_is_no_text_is_told(tmp_path: Path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00car")
    with pytest.raises(M2raapError, match="cannot be read as a UTF-8 text"):
        read_word_list(tmp_path / "list.txt")


def test_words_that_go_together_in_both_languages_are_one_label():
    counts = Counter({"en:dog": 40, "zh:狗": 36, "en:animal": 50, "zh:跑": 30, "en:run": 12})
    both = {("en:dog", "zh:狗"): 35, ("en:animal", "zh:狗"): 36, ("en:animal", "zh:跑"): 12, ("en:run", "zh:跑"): 11}
    joined = companions(counts, both, 0.6)
    assert joined == {"zh:狗": "en:dog"}  # 'run' and 跑: 2 * 11 / 42 is too little
    labels = label_set(dict(counts), 100, LabelsConfig(min_count=2), Synonyms(None), joined, both)
    assert labels.names_L[0] == "animal" and "dog / 狗" in labels.names_L
    dog = labels.names_L.index("dog / 狗")
    assert labels.clips_L[dog] == 40 + 36 - 35
    assert labels.labels_in(["zh:狗", "en:dog", "en:unknown"]) == [dog]


def test_a_word_has_one_companion():
    counts = {"en:car": 10, "en:auto": 10, "zh:车": 10}
    assert companions(counts, {("en:car", "zh:车"): 9, ("en:auto", "zh:车"): 8}, 0.5) == {"zh:车": "en:car"}


def test_labels_of_a_list_are_taken_by_their_names(tmp_path: Path):
    labels = stated_label_set({"Red": 9, "playing guitar": 7, "rare": 1}, 20, LabelsConfig(min_count=2), Synonyms(None))
    assert labels.names_L == ("Red", "playing guitar")
    assert labels.labels_in(["en:red"]) == labels.labels_in(["Red"]) == [0]
    labels.save(tmp_path / "labels.json")
    assert LabelSet.load(tmp_path / "labels.json") == labels


def test_names_that_differ_in_case_share_a_word_which_the_more_frequent_has():
    labels = stated_label_set({"Car": 50, "car": 30}, 100, LabelsConfig(min_count=2), Synonyms(None))
    assert labels.labels_in(["en:car"]) == [0] and labels.labels_in(["car"]) == [1]


def test_no_label_is_told():
    with pytest.raises(M2raapError, match="no label has 50 of the 20 clips"):
        stated_label_set({"red": 9}, 20, LabelsConfig(min_count=50), Synonyms(None))
