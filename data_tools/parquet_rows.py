"""Rows of a parquet file from outside, within limits of memory.

Texts are read as dictionaries: a file of some kB can name one long text millions of times, and would unpack to many GB. Sizes are
added up before anything becomes a Python object.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2raap.core.errors import M2raapError

MAX_TEXT = 1024**2  # bytes of one text
MAX_RATIO = 200  # unpacked bytes for each byte of the file: 20 at most for lists of captions
FREE_BYTES = 128 * 1024**2  # that any file may unpack to
_BATCH_ROWS, _BATCH_BYTES = 65_536, 64 * 1024**2  # that are read at once


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row). Binary values that are UTF-8 become texts, since old writers do not mark texts as such.

    Dates and times that Python cannot represent become whole numbers ([NaN] for lists and structs of them), so that they
    fail only where an importer uses them. Raises M2raapError for a file that is no parquet, has two columns of one name, or
    is too large.
    """
    try:
        with pq.ParquetFile(path) as plain:
            schema, groups = plain.metadata.schema, plain.metadata
            _check_columns(path, plain.schema_arrow.names)
            texts = [
                schema.column(i).path for i in range(len(schema)) if schema.column(i).physical_type == "BYTE_ARRAY"
            ]
            sizes = [groups.row_group(i).total_byte_size for i in range(groups.num_row_groups)]
            per_row = sum(sizes) / max(groups.num_rows, 1)
        limit = FREE_BYTES + MAX_RATIO * path.stat().st_size
        _check_size(path, sum(sizes), limit)
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            number = unpacked = 0
            for batch in file.iter_batches(max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(per_row, 1))))):
                size = _unpacked_bytes(path, number + 1, batch)
                unpacked += size
                _check_size(path, unpacked, limit)
                step = max(1, min(batch.num_rows, int(batch.num_rows * _BATCH_BYTES / max(size, 1))))
                for start in range(0, batch.num_rows, step):
                    block = batch.slice(start, step)
                    columns = [_values(column) for column in block.columns]
                    for cells in zip(*columns, strict=True):
                        number += 1
                        yield number, dict(zip(batch.schema.names, cells, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise M2raapError(f"{path}: not a parquet file ({error})") from None


def _check_columns(path: Path, names: list[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise M2raapError(f"{path}: two columns are named '{twice[0][:60]}'; rename one")


def _check_size(path: Path, num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise M2raapError(
            f"{path}: unpacks to more than {limit // 1024**2:,} MiB, over {MAX_RATIO} times its size: long texts in it are "
            "repeated very often; write it as jsonl if that is meant"
        )


def _unpacked_bytes(path: Path, first_row: int, batch: pa.RecordBatch) -> int:
    """Bytes of the batch where every value has a copy of its own. Raises M2raapError for a text over MAX_TEXT."""
    total = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for leaf in _leaves(column):
            if not pa.types.is_dictionary(leaf.type) or not _is_bytes(leaf.type.value_type):
                total += leaf.nbytes
                continue
            lengths = pc.call_function("binary_length", [leaf.dictionary]).take(leaf.indices.cast(pa.int64()))
            lengths = lengths.fill_null(0).to_numpy(zero_copy_only=False)
            total += int(lengths.sum())
            longest = int(lengths.max(initial=0))
            if longest > MAX_TEXT and pa.types.is_string(leaf.type.value_type):
                rows = f"row {first_row + int(lengths.argmax())}" if leaf is column else f"row {first_row} or later"
                raise M2raapError(
                    f"{path}: {rows}, column '{name[:60]}': a text of {longest:,} bytes; at most {MAX_TEXT:,} are read"
                )
    return total


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays of values in lists, maps and structs."""
    kind = array.type
    if pa.types.is_struct(kind):
        children = array.flatten()
    elif pa.types.is_map(kind):
        children = [array.keys, array.items]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        children = [array.flatten()]
    else:
        yield array
        return
    for child in children:
        yield from _leaves(child)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def _values(column: pa.Array) -> list[Any]:
    plain = _plain(column.type)
    column = column.cast(plain)  # Python objects are made much faster from plain texts
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        values = [_value(scalar) for scalar in column]
    return [_as_text(value) for value in values] if "binary" in str(plain) else values


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    return kind


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        number = getattr(scalar, "value", None)  # of a date or time: its whole number
        return number if isinstance(number, int) else [math.nan]


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes) and len(value) <= MAX_TEXT:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return [_as_text(item) for item in value] if isinstance(value, list) else value
