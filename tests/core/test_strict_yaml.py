from __future__ import annotations

from pathlib import Path

import pytest

from m2raap.core.config import Config, build, parse_assignment, read_yaml
from m2raap.core.errors import UsageError
from m2raap.core.strict_yaml import parse_yaml


def bomb(first: str, level: str) -> str:
    """Nine levels of aliases, each used nine times by the next one: 9 ** 9 values."""
    lines = [f"a: &a {first}"]
    for name, below in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{name}: &{name} " + level.replace("?", ", ".join([f"*{below}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("[x, x]", "[?]"), "line 6: .*100,000"),
        (bomb("{x: 1, y: 2}", "{<<: [?]}"), "line 6: .*100,000"),
        ("a: 1\nb: &b [*b]", "line 2"),
        ("a: 1\nb: !!binary aGk=", "line 2"),
        ("a: !!set {x}", "line 1"),
        ("x: !!python/object:os.system x", "line 1"),
        ("a: 1\n? [a, b]\n: 1", "line 2: a key"),
        ("true: 1", "line 1: a key"),
        ('a: "\\ud800"', "line 1"),
        ("seed: " + "9" * 5000, "line 1: .*99"),
        ("seed: 0x" + "f" * 5000, "line 1: .*0xff"),
        ("a:\n  lr: .inf", "line 2: .*inf"),
        ("lr: .nan", "line 1: .*nan"),
        ("lr: 1.0e+999", "line 1: .*999"),
        ("a: !!bool maybe", "line 1: .*maybe"),
        ('a: 1\nb: !!int ""', "line 2: "),
        ('a: !!float ""', "line 1: "),
        ("a: 1\nb: !!map [c]", "line 2: "),
        ("a: \0", "not YAML"),
        ("- " * 3000 + "x", "too deep"),
        ("x" * (1024**2 + 1), "1,048,576"),
    ],
)
def test_what_is_no_plain_value_is_one_sentence(tmp_path: Path, text: str, message: str):
    with pytest.raises(UsageError, match=message):
        parse_yaml(text)
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=str(path)):
        read_yaml(path)
    with pytest.raises(UsageError, match="--set name="):
        parse_assignment(f"name={text}")


def test_dates_stay_text_and_aliases_are_values():
    assert parse_yaml("name: 2020-01-01") == {"name": "2020-01-01"}
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2.5}\nc: [*a, null, yes]") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2.5},
        "c": [{"x": 1}, None, True],
    }


@pytest.mark.parametrize("value", [float("inf"), "1e999", float("nan"), "nan"])
def test_settings_are_finite(value: object):
    class Rate(Config):
        lr: float = 1.0

    with pytest.raises(UsageError, match="r.yaml: lr: "):
        build(Rate, {"lr": value}, "r.yaml")


def test_a_long_value_is_cut_in_a_message():
    class Flag(Config):
        on: bool = False

    with pytest.raises(UsageError) as error:
        build(Flag, {"on": "x" * 10_000}, "r.yaml")
    assert len(str(error.value)) < 500


def test_what_yaml_would_misread_as_a_number_is_text_and_a_truth_value_is_no_number():
    """YAML 1.1 reads 90, 8 and 8.5 * 60 here."""
    texts = ["1:30", "010", "-1:30.5", "0_1"]
    assert parse_yaml(f"[{', '.join(texts)}]") == texts
    assert parse_yaml("[0, -0.5, 10, 1_000, 0x10, 00.5]") == [0, -0.5, 10, 1000, 16, 0.5]

    class Numbers(Config):
        k: int = 1
        lr: float | None = None
        name: str | int = ""
        is_on: bool = False

    assert build(Numbers, {"k": "010", "is_on": True}, "r.yaml").k == 10
    for tree in ({"k": True}, {"lr": False}, {"k": "1:30"}):
        with pytest.raises(UsageError, match=f"r.yaml: {next(iter(tree))}: .*{str(next(iter(tree.values()))).lower()}"):
            build(Numbers, tree, "r.yaml")
