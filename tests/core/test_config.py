from pathlib import Path

import pytest
from pydantic import Field

from m2raap.core.config import Config, build, digest, merge, parse_assignment, read_yaml, set_keys
from m2raap.core.errors import UsageError


class Inner(Config):
    warmup_steps: int = 10
    lr: float = 1e-4


class Outer(Config):
    name: str
    adapt: Inner = Field(default_factory=Inner)
    stages: tuple[Inner, ...] = ()


def test_unknown_key_names_its_whole_path_and_the_nearest_good_name():
    with pytest.raises(UsageError, match=r"r.yaml: unknown key 'adapt.warmup_stepz': did you mean 'warmup_steps'\?"):
        build(Outer, {"name": "x", "adapt": {"warmup_stepz": 3}}, "r.yaml")


def test_unknown_key_in_a_list():
    with pytest.raises(UsageError, match=r"'stages.1.lrr': did you mean 'lr'\?"):
        build(Outer, {"name": "x", "stages": [{}, {"lrr": 3}]}, "r.yaml")


def test_unknown_key_like_nothing_lists_what_is_known():
    with pytest.raises(UsageError, match="'adapt.zzz'.*warmup_steps, lr"):
        build(Outer, {"name": "x", "adapt": {"zzz": 3}}, "r.yaml")


def test_missing_key_and_wrong_value_are_said_with_the_path():
    with pytest.raises(UsageError, match=r"name: this key is needed; adapt.lr: .*found 'fast'"):
        build(Outer, {"adapt": {"lr": "fast"}}, "r.yaml")


def test_number_that_yaml_reads_as_text_is_caught(tmp_path: Path):
    class Strict(Config):
        note: str | float = 0.0
        rate: tuple[int, ...] = ()

    path = tmp_path / "r.yaml"
    path.write_text("rate: 1e-5\n")
    assert read_yaml(path) == {"rate": "1e-5"}, "PyYAML itself reads text"
    with pytest.raises(UsageError, match=r"rate: YAML reads 1e-5 as text; write 1.0e-5"):
        build(Strict, read_yaml(path), "r.yaml")


def test_number_with_exponent_reaches_a_float_field(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nadapt: {lr: 1.0e-5}\n")
    assert build(Outer, read_yaml(path), "r").adapt.lr == 1e-5


def test_set_reads_1e_5_as_a_number():
    assert parse_assignment("adapt.lr=1e-5") == (["adapt", "lr"], 1e-5)
    assert parse_assignment("langs=[zh]") == (["langs"], ["zh"])


@pytest.mark.parametrize("item", ["adapt.lr", "=3", "a=[1"])
def test_bad_assignment(item: str):
    with pytest.raises(UsageError, match="--set"):
        parse_assignment(item)


def test_defaults_then_file_then_set():
    tree = set_keys({"name": "x", "adapt": {"lr": 0.5}}, [parse_assignment("adapt.warmup_steps=7")])
    assert build(Outer, tree, "r").adapt == Inner(lr=0.5, warmup_steps=7)


def test_set_below_a_value_is_refused():
    with pytest.raises(UsageError, match="'lr' is a value"):
        set_keys({"adapt": {"lr": 1}}, [parse_assignment("adapt.lr.x=7")])


def test_twin_keys_bad_yaml_and_no_mapping_name_file_and_line(tmp_path: Path):
    path = tmp_path / "r.yaml"
    for text, message in (
        ("a: 1\na: 2\n", "line 2: the key 'a'"),
        ("a: [1\n", "is not YAML"),
        ("- 1\n", "at the top"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message) as error:
            read_yaml(path)
        assert str(path) in str(error.value)
    with pytest.raises(UsageError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_merge_replaces_a_mapping_of_another_name():
    base = {"temporal": {"name": "stan", "layers": 3}, "lr": 1}
    assert merge(base, {"temporal": {"layers": 2}}) == {"temporal": {"name": "stan", "layers": 2}, "lr": 1}
    assert merge(base, {"temporal": {"name": "mean"}}) == {"temporal": {"name": "mean"}, "lr": 1}


def test_digest_is_of_the_value_not_of_its_spelling():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": (1, 2), "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
