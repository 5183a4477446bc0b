"""Rows of a loss that several processes may share, each computing some of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Rows = Callable[[slice], Tensor]  # the rows of a slice: a tensor whose first dimension has its length
SharedRows = Callable[[int, Rows], Tensor]  # (number of rows, what computes some of them) -> all rows


def every_row(count: int, rows: Rows) -> Tensor:
    """All rows, computed by this process alone."""
    return rows(slice(0, count))
