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
