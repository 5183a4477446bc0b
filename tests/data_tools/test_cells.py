"""What cells of lists hold: nothing, lists of texts, clock times, splits."""

import math

import pytest

from data_tools.cells import clock_s, is_nothing, split_of, split_of_folder, texts_in


@pytest.mark.parametrize(
    "value",
    [None, math.nan, "", " ", "nan", "NaN", "None", "NULL", "null", "N/A", "#N/A", "<NA>", "NA", "[]", "[ ]", "{}", "-",
     [], {}, [None], ["", None], "[None]", "['']"],
)  # fmt: skip
def test_spellings_of_nothing(value: object):
    assert is_nothing(value)


@pytest.mark.parametrize("value", [0, 0.0, "0", False, "na", "no", "none of them", "nancy", [0], ["a"], "[a]"])
def test_what_is_something(value: object):
    assert not is_nothing(value)


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ('["a dog", "it\'s a cat"]', ["a dog", "it's a cat"]),
        ("['a dog', \"it's a cat\"]", ["a dog", "it's a cat"]),
        ("['a dog runs'\n 'a cat sleeps']", ["a dog runs", "a cat sleeps"]),  # numpy
        ("array(['a dog', 'a cat'], dtype=object)", ["a dog", "a cat"]),
        ("('a dog', 'a cat')", ["a dog", "a cat"]),
        ("[u'a dog', None, nan]", ["a dog", "", ""]),
        ('["\\u4e00\\u53ea\\u732b"]', ["一只猫"]),
        (["a dog", None], ["a dog", ""]),
        ("[]", [""]),
        ("[music] a dog", ["[music] a dog"]),
        ("[music]", ["[music]"]),
        ("(a dog)", ["(a dog)"]),
        ("a dog", ["a dog"]),
        (None, []),
    ],
)
def test_a_list_in_a_cell_is_several_texts(cell: object, texts: list[str]):
    assert texts_in(cell) == texts


@pytest.mark.parametrize("cell", ["[1, 2]", "['a', 1]", "[['a'], ['b']]", '[{"a": 1}]', 3, {"en": "a"}])
def test_a_list_of_something_else_is_refused(cell: object):
    with pytest.raises(ValueError, match="list of texts"):
        texts_in(cell)


def test_nan_in_a_list_is_nothing_and_an_infinity_is_refused():
    assert texts_in('["a dog", NaN]') == ["a dog", ""]
    with pytest.raises(ValueError, match="Infinity"):
        texts_in('["a dog", -Infinity]')


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:01.500", 1.5), ("1:00:02", 3602.0), ("0:03", 3.0), ("75:30.25", 4530.25), ("0:00:01,5", 1.5),
        ("0:60", None), ("1:60:00", None), ("0:00:01:12", None), ("12", None), ("-0:01", None), ("1:2", None),
    ],
)  # fmt: skip
def test_clock_times(text: str, seconds: float | None):
    assert clock_s(text) == seconds


def test_names_of_splits():
    assert [split_of(name) for name in ("Test", "VALIDATION", "dev", " train ", "nan", None)] == [
        "test",
        "val",
        "val",
        "train",
        None,
        None,
    ]
    with pytest.raises(ValueError, match="test_1k"):
        split_of("test_1k")


@pytest.mark.parametrize(
    ("parts", "split"),
    [(("data", "train"), "train"), (("val2017",), "val"), (("test-1k", "x"), "test"), (("latest",), None), ((), None)],
)
def test_the_split_of_a_folder(parts: tuple[str, ...], split: str | None):
    assert split_of_folder(parts) == split
    with pytest.raises(ValueError, match="test and train"):
        split_of_folder(("train", "test"))
