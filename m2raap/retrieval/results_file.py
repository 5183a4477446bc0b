"""results.json of an evaluate folder, and the results of ablations and rescorings beside it, as they are read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from m2raap.core.records import read_record
from m2raap.core.signed import named_files, refuse_changed_file


class ResultOf(TypedDict):
    """One language, direction, scope and slice."""

    lang: str
    direction: str
    scope: str
    slice: str
    metrics: dict[str, FiniteFloat]
    intervals: dict[str, list[FiniteFloat]]


class TwoWayOf(TypedDict):
    """Two-way accuracy of one language and direction, in percent."""

    lang: str
    direction: str
    n: int
    pairs: int
    accuracy: FiniteFloat
    interval: list[FiniteFloat]
    seeds: int
    seeds_accuracy: list[FiniteFloat]


class ResultsTree(TypedDict):
    """The content of results.json. `protocol`: in files of older versions only its name."""

    rows: list[ResultOf]
    missing: list[str]
    protocol: NotRequired[dict[str, Any] | str]
    rescored: NotRequired[dict[str, Any]]
    bilingual: NotRequired[list[dict[str, Any]]]
    two_way: NotRequired[list[TwoWayOf]]
    by_tag: NotRequired[list[ResultOf]]
    compat: NotRequired[dict[str, dict[str, dict[str, dict[str, FiniteFloat]]] | str]]


def other_results(folder: Path) -> dict[str, dict[str, Any]]:
    """NAME -> a ResultsTree, of every results-NAME.json. Raises M2raapError as `read_results`."""
    names = named_files(folder, "results-*.json")
    return {name.removeprefix("results-").removesuffix(".json"): read_results(folder, name) for name in names}


def read_results(folder: Path, name: str = "results.json") -> dict[str, Any]:
    """A ResultsTree. Raises M2raapError naming the file that is absent, differs from its manifest, or has another shape."""
    return dict(read_record(ResultsTree, refuse_changed_file(folder, name)))
