"""The door of the room: `from m2raap.curate import refusals`."""

from __future__ import annotations

import doctest
import subprocess
import sys
from typing import Any

import pytest

from m2raap import curate
from m2raap.core.config import build
from m2raap.core.errors import M2raapError
from m2raap.curate.text_rules import FilterTextConfig


def test_the_example_of_the_docstring_is_true() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(curate.refusals, "refusals")
    runner = doctest.DocTestRunner()
    runner.run(example)
    assert runner.tries == 3 and runner.failures == 0


def test_limits_and_languages() -> None:
    strict = build(FilterTextConfig, {"rules": {"text_too_short": 9, "unspecific": {"lowest": 0.5}}}, "r.yaml")
    (refusal,) = curate.refusals("A man is playing the guitar.", "en", strict)
    assert (refusal.reason, refusal.signal, refusal.score, refusal.threshold) == ("text_too_short", "num_words", 6, 9)
    assert curate.refusals("红色", "zh")[0].reason == "text_too_short"
    with pytest.raises(M2raapError, match="'fr'"):
        curate.refusals("un chat", "fr")


@pytest.mark.parametrize("value", [["A man is playing the guitar."], b"a man", None])
def test_a_text_that_is_no_string_is_refused_by_the_name_of_the_argument(value: Any) -> None:
    with pytest.raises(M2raapError, match=f"'text'.*{type(value).__name__}"):
        curate.refusals(value, "en")


def test_the_door_is_light() -> None:
    code = "import sys; import m2raap.curate; print(*sorted({'numpy', 'pydantic', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
