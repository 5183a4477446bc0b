"""Scores that users supply (--scores nsfw.parquet): columns of numbers for clips, texts or whole videos.

A file has one column of names (clip_id, text_id or video) and columns of numbers. The folder of a data stage is given as a file
is: the numbers that it has stored of clips and texts are scores. Names are kept as 64-bit hashes, so that ten million rows take
about 80 MB, and 80 MB for each column. A name without a row, or with an empty cell, has no score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256
from m2raap.core.signed import part_key, read_manifest, signed_parts, signed_path
from m2raap.core.tables import Row, part_schema, read_part
from m2raap.core.tombstones import Tombstones

NAMES = ("clip_id", "text_id", "video")
PAIR_SIGNALS = "signals/pairs.parquet"  # scores of captions, in the folder of a training that writes some


@dataclass(frozen=True)
class ScoreFile:
    """One file: `keys` sorted hashes of the names, `values` (rows, columns) with NaN where there is no score."""

    path: Path
    names: str  # the column of names: one of NAMES
    columns: tuple[str, ...]
    keys: np.ndarray
    values: np.ndarray

    def of(self, names: Iterable[str]) -> dict[str, Row]:
        """name -> {column: score or None} for the names that have a row."""
        names = list(names)
        hashes = _hashes(names)
        at = np.minimum(np.searchsorted(self.keys, hashes), max(len(self.keys) - 1, 0))
        scores = {}
        for name, row, key in zip(names, at.tolist(), hashes.tolist(), strict=True):
            if len(self.keys) and self.keys[row] == key:
                values = self.values[row].tolist()
                scores[name] = {c: None if v != v else v for c, v in zip(self.columns, values, strict=True)}
        return scores


def _hashes(names: Iterable[str]) -> np.ndarray:
    digests = (hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


class Scores:
    """All files of a run. Columns have different names in different files."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.files = [file for path in paths for file in (_read_stage(path) if path.is_dir() else [_read(path)])]
        self.columns: dict[str, str] = {}
        for file in self.files:
            for column in file.columns:
                if column in self.columns:
                    raise M2raapError(
                        f"{file.path}: the column '{column}' is in another file of --scores, too; rename one of the two"
                    )
                self.columns[column] = "text_id" if file.names == "text_id" else "clip_id"

    def of(self, clips: Iterable[Mapping[str, Any]], texts: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
        """clip_id or text_id -> {column: score or None}."""
        clips, texts = list(clips), list(texts)
        scores: dict[str, Row] = {}
        for file in self.files:
            rows = texts if file.names == "text_id" else clips
            row_scores = file.of({row[file.names] for row in rows})
            key = "text_id" if file.names == "text_id" else "clip_id"
            for row in rows:
                if row[file.names] in row_scores:
                    scores.setdefault(row[key], {}).update(row_scores[row[file.names]])
        return scores

    def check(self, corpus: Corpus, forgotten: Tombstones) -> None:
        """Raises M2raapError naming the file and an id of it that is not in the corpus (and was not forgotten)."""
        for file in self.files:
            table = "texts" if file.names == "text_id" else "clips"
            known = _hashes(row[file.names] for row in corpus.all_rows(table, [file.names]))
            unknown = np.setdiff1d(file.keys, known)
            if len(unknown) and not (len(forgotten) and file.names != "clip_id"):
                name = next(
                    (
                        name
                        for name in _names(file)
                        if int(_hashes([name])[0]) in set(unknown.tolist()) and not forgotten.contains(name)
                    ),
                    None,
                )
                if name is not None:
                    raise M2raapError(
                        f"{file.path}: {len(unknown):,} of its {len(file.keys):,} rows have a {file.names} that is not in "
                        f"the corpus, such as '{name}'; give scores of this corpus"
                    )


@lru_cache(maxsize=1)
def open_scores(paths: tuple[Path, ...]) -> Scores:
    """The scores of all files, read once in each process: reading millions of rows takes seconds."""
    return Scores(paths)


def scores_digest(paths: tuple[Path, ...]) -> str:
    """The digest of the content of the files."""
    return hashlib.sha256("".join(map(_digest, paths)).encode()).hexdigest()[:32]


def _digest(path: Path) -> str:
    return read_manifest(path)["digest"] if path.is_dir() else file_sha256(path)


def _numbers_in(folder: Path, part: int) -> list[str]:
    """The columns of numbers of a stage's signals; `dim`, the size of vectors, is no score."""
    import pyarrow as pa

    schema = part_schema(signed_path(folder, part_key("signals", part)))
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return [f.name for f in schema if f.name != "dim" and any(is_kind(f.type) for is_kind in kinds)]


def _read_stage(folder: Path) -> list[ScoreFile]:
    """The numbers that a finished data stage has stored of clips and of texts. Raises M2raapError where it has none."""
    parts = signed_parts(folder, "signals") or [] if (folder / "manifest.json").exists() else []
    columns_of = ["clip_id", "text_id", *(_numbers_in(folder, parts[0]) if parts else ())]
    rows = [row for part in parts for row in read_part(folder, "signals", part, columns_of)]
    files = []
    for names in ("clip_id", "text_id"):
        of_kind = [row for row in rows if (row["text_id"] is None) == (names == "clip_id")]
        kinds = {c: {type(row[c]) for row in of_kind} - {type(None)} for c in (of_kind[0] if of_kind else {})}
        columns = tuple(sorted(c for c, of in kinds.items() if of and of <= {int, float, bool}))
        if columns:
            hashes = _hashes(row[names] for row in of_kind)
            values = np.array([[np.nan if row[c] is None else float(row[c]) for c in columns] for row in of_kind])
            order = np.argsort(hashes, kind="stable")
            files.append(ScoreFile(folder, names, columns, hashes[order], values[order]))
    if not files:
        raise M2raapError(f"--scores {folder}: is no finished folder of a data stage with columns of numbers")
    return files


def _names(file: ScoreFile) -> Iterable[str]:
    import pyarrow.parquet as pq

    if file.path.is_dir():
        for part in signed_parts(file.path, "signals") or []:
            yield from (
                row[file.names] for row in read_part(file.path, "signals", part, [file.names]) if row[file.names]
            )
        return
    for batch in pq.ParquetFile(file.path).iter_batches(columns=[file.names]):
        yield from batch.column(0).to_pylist()


def _read(path: Path) -> ScoreFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise M2raapError(f"--scores {path}: no such file")
    try:
        source = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise M2raapError(f"--scores {path}: cannot be read as parquet ({error})") from None
    schema = source.schema_arrow
    names = [name for name in NAMES if name in schema.names]
    if len(names) != 1:
        present = f"has {' and '.join(names)}" if names else f"has none of them, only {', '.join(schema.names)}"
        raise M2raapError(f"{path}: the file must have exactly one of the columns {', '.join(NAMES)}, but it {present}")
    columns = [name for name in schema.names if name != names[0]]
    for column in columns:
        kind = schema.field(column).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise M2raapError(f"{path}: the column '{column}' holds {kind}, but only numbers are allowed; remove it")
    if not columns:
        raise M2raapError(f"{path}: has no column of scores besides {names[0]}; add one")
    keys, values = [np.zeros(0, np.uint64)], [np.zeros((0, len(columns)))]
    row = 0
    for batch in source.iter_batches(columns=[names[0], *columns]):
        ids = batch.column(names[0]).to_pylist()
        for offset, name in enumerate(ids):
            if not isinstance(name, str):
                raise M2raapError(f"{path}: row {row + offset}: {names[0]} is {name!r}, expected a text")
        cells = [batch.column(c).cast(pa.float64(), safe=False) for c in columns]
        table = np.stack([c.fill_null(0.0).to_numpy(zero_copy_only=False) for c in cells], axis=1)
        if not np.isfinite(table).all():
            at, column = np.argwhere(~np.isfinite(table))[0]
            raise M2raapError(
                f"{path}: row {row + at}: {columns[column]} is {table[at, column]}, expected a finite number or an empty cell"
            )
        empty = np.stack([c.is_null().to_numpy(zero_copy_only=False) for c in cells], axis=1)
        keys.append(_hashes(ids))
        values.append(np.where(empty, np.nan, table))
        row += len(ids)
    hashes, table = np.concatenate(keys), np.concatenate(values)
    order = np.argsort(hashes, kind="stable")
    hashes, table = hashes[order], table[order]
    repeated = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(repeated):
        first, second = sorted((int(order[repeated[0]]), int(order[repeated[0] + 1])))
        raise M2raapError(f"{path}: rows {first} and {second} have the same {names[0]}; remove one of them")
    return ScoreFile(path, names[0], tuple(columns), hashes, table)
