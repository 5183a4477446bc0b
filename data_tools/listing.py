"""Reading other people's lists strictly: every error names file, row and column, and what was expected there."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError

_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003134f]")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) of a csv, tsv, jsonl, json (list of objects) or parquet file; rows count from 1 as an editor shows them.

    Raises M2raapError for a file that is not what its name says.
    """
    if not path.is_file():
        raise M2raapError(f"{path}: no such file")
    kind = path.suffix.lower().lstrip(".")
    readers = {"csv": _csv, "tsv": _csv, "jsonl": _jsonl, "ndjson": _jsonl, "json": _json, "parquet": _parquet}
    if kind not in readers:
        raise M2raapError(f"{path}: '.{kind}' is not a table that m2raap reads; it reads {', '.join(readers)}")
    try:
        yield from readers[kind](path)
    except UnicodeDecodeError as error:
        raise M2raapError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(path, encoding="utf-8-sig", newline="") as source:
        reader = csv.DictReader(source, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise M2raapError(f"{path}: row {reader.line_num}: has another number of columns than the header")
                yield reader.line_num, row
        except csv.Error as error:
            raise M2raapError(f"{path}: row {reader.line_num}: {error}") from None


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8") as source:
        for number, line in enumerate(source, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise M2raapError(f"{path}: row {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise M2raapError(f"{path}: row {number}: expected an object, found {type(row).__name__}")
            yield number, row


def read_json_file(path: Path) -> Any:
    if not path.is_file():
        raise M2raapError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise M2raapError(f"{path}: not JSON ({error})") from None


def _json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    tree = read_json_file(path)
    if not isinstance(tree, list):
        raise M2raapError(f"{path}: expected a list of objects, found {type(tree).__name__}")
    for number, row in enumerate(tree, 1):
        if not isinstance(row, dict):
            raise M2raapError(f"{path}: entry {number}: expected an object, found {type(row).__name__}")
        yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        number = 0
        for batch in table.iter_batches(4096):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowInvalid as error:
        raise M2raapError(f"{path}: not a parquet file ({error})") from None


def sniff_lang(text: str) -> str:
    """zh where more than a fifth of the letters are Han, else en; what it really is, `filter` decides."""
    letters = sum(char.isalpha() for char in text)
    return "zh" if letters and len(_HAN.findall(text)) / letters > 0.2 else "en"


def number_or_none(value: Any, path: Path, row: int, column: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise M2raapError(f"{path}: row {row}, column '{column}': '{value}' is no number of seconds") from None
