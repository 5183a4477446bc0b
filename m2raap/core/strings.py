"""A column of strings as a sequence, without a Python object for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa


class Strings:
    """The strings of an Arrow column, which may lie in a memory-mapped file; none is null."""

    def __init__(self, column: Any) -> None:
        """`column`: pyarrow.ChunkedArray or Array of strings."""
        self.column: Any = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])

    @classmethod
    def of(cls, strings: Iterable[str]) -> Strings:
        return cls(pa.array(list(strings), pa.string()))

    def __len__(self) -> int:
        return len(self.column)

    def __iter__(self) -> Iterator[str]:
        for chunk in self.column.chunks:
            yield from chunk.to_pylist()

    def __getitem__(self, place: int) -> str:
        return self.column[int(place)].as_py()

    def between(self, start: int, stop: int) -> list[str]:
        """The strings start .. stop."""
        return self.column.slice(start, max(0, stop - start)).to_pylist()

    def take(self, places: np.ndarray) -> list[str]:
        """The strings at these places."""
        return self.taken(places).column.to_pylist()

    def taken(self, places: np.ndarray) -> Strings:
        """As `take`, as a column."""
        return Strings(self.column.take(pa.array(places)))

    def distinct(self) -> tuple[np.ndarray, Strings]:
        """Of each string its place among the distinct strings, and these in the order in which they come first."""
        encoded = self.column.combine_chunks().dictionary_encode()
        return encoded.indices.to_numpy(), Strings(encoded.dictionary)
