"""vocabulary.csv: the names of numbered labels, with the columns Index and Name of YouTube-8M's."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_tools.listing import read_rows, require
from m2raap.core.errors import M2raapError
from m2raap.core.exports import neutral, unguarded
from m2raap.core.view import View

FILE = "vocabulary.csv"
COLUMNS = ("Index", "Name")


def read_vocabulary(path: Path) -> dict[int, str]:
    """Label number -> name. A name that several numbers have gets the number, 'Game (12)'; one without a name is its number.

    Raises M2raapError naming file and row.
    """
    names: dict[int, str] = {}
    for number, row in read_rows(path):
        require(path, f"row {number}", row, COLUMNS)
        index = str(row["Index"]).strip()
        if not (index.isascii() and index.isdecimal() and len(index) < 10):
            raise M2raapError(f"{path}: row {number}, column 'Index': expected a number from 0, found {index[:40]!r}")
        if int(index) in names:
            raise M2raapError(f"{path}: row {number}, column 'Index': {index} is there twice")
        names[int(index)] = unguarded(str(row["Name"] or "").strip())
    if not names:
        raise M2raapError(f"{path}: holds no label")
    return distinct(names)


def distinct(names: Mapping[int, str]) -> dict[int, str]:
    """The names with their number where they are empty or not the only ones."""
    counts = Counter(names.values())
    return {
        index: name if counts[name] == 1 and name else f"{name} ({index})".strip() if name else str(index)
        for index, name in names.items()
    }


def numbered(names: Iterable[str]) -> dict[int, str]:
    """Label number -> name for labels without a vocabulary: in alphabetical order; names that are all numbers are their own."""
    ordered = sorted(set(names))
    if all(name.isascii() and name.isdecimal() and len(name) < 10 and str(int(name)) == name for name in ordered):
        return {int(name): name for name in sorted(ordered, key=int)}
    return dict(enumerate(ordered))


def vocabulary_of(view: View) -> dict[int, str]:
    """Label number -> name: the vocabulary that the source of the corpus states, else all labels and tags, `numbered`.

    Raises M2raapError for a source whose vocabulary has another shape.
    """
    stated = view.corpus.source.get("vocabulary")
    if stated is None:
        rows = (row for part in view.parts(("signals",)) for row in part.signals.values())
        return numbered({name for row in rows for column in ("labels", "tags") for name in row.get(column) or ()})
    if isinstance(stated, dict) and all(
        number.isdecimal() and isinstance(name, str) for number, name in stated.items()
    ):
        names = {int(number): name for number, name in stated.items()}
        if len({*names.values()}) == len(names):
            return names
    raise M2raapError(
        f"{view.corpus_path / 'manifest.json'}: is damaged (the vocabulary of its source); import the corpus again"
    )


def write_vocabulary(path: Path, names: Mapping[int, str]) -> None:
    """Writes a vocabulary, which `read_vocabulary` reads again."""
    with open(path, "w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(COLUMNS)
        writer.writerows((index, neutral(name)) for index, name in sorted(names.items()))
