"""The split of each row of a list: a row for tests must never become one for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.cells import is_nothing, split_of
from data_tools.columns import Columns
from m2raap.core.errors import M2raapError

# Only the first has to name a split; of each other one all rows or none do.
SPLIT = ("split", "subset", "partition", "set", "data_split", "dataset_split", "split_name")


class Splits:
    """The columns of one list that may name splits, over all of its rows: `add` for every row, then `check`, then `of`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._naming = {SPLIT[0]}
        self._first_other: dict[str, M2raapError] = {}

    def add(self, where: str, row: dict[str, Any]) -> None:
        """Notes what a row says; `where` names it: 'row 3'."""
        for name in SPLIT[1:]:
            if is_nothing(row.get(name)):
                continue
            try:
                self._split(where, name, row[name])
                self._naming.add(name)
            except M2raapError as error:
                self._first_other.setdefault(name, error)

    def _split(self, where: str, name: str, value: Any) -> str | None:
        try:
            return split_of(value)
        except ValueError as error:
            raise M2raapError(f"{self._path}: {where}, column '{name}': {error}") from None

    def check(self) -> None:
        """Raises M2raapError for a column in which some rows name a split and others something else."""
        for name, error in self._first_other.items():
            if name in self._naming:
                raise error

    def of(self, where: str, row: dict[str, Any], columns: Columns) -> str | None:
        """The split of a row. Raises M2raapError where the column 'split' holds something else."""
        for name in SPLIT:
            if name in self._naming and not is_nothing(row.get(name)):
                columns.used.add(name)
                return self._split(where, name, row[name])
        return None
