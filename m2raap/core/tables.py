"""The tables of a corpus: their columns, how a part of one is written and read.

A table is a folder of `part-00000.parquet` files. Part i of every table holds exactly the clips whose id hashes to i, so
no stage ever joins across parts. Rows travel as plain dicts; a TypedDict names the columns of each table.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2raap.core.errors import M2raapError
from m2raap.core.files import open_atomic
from m2raap.core.signed import named_path, part_key, part_name, signed_parts, signed_path, verified_path

SCHEMA_VERSION = 2

Row = dict[str, Any]  # a row of any table, complete or not


class Clip(TypedDict):
    """A row of `clips`."""

    clip_id: str
    video: str
    start_s: float | None
    end_s: float | None
    split: str
    source: str | None
    licence: str | None
    category: str | None
    url: str | None
    twin_id: str | None


class Text(TypedDict):
    """A row of `texts`."""

    text_id: str
    clip_id: str
    lang: str
    text: str
    origin: str
    parent_text_id: str | None
    frame_index: int | None
    producer: str | None
    active: bool


class Frames(TypedDict):
    """A row of `frames`. A view that is read with 'frames' but not with 'jpegs' gives it without `jpegs`."""

    clip_id: str
    times_s: list[float]
    shots: list[int]
    scores: list[float]
    why: list[str]
    hashes: list[int]
    jpegs: list[bytes]
    width: int
    height: int


class Drop(TypedDict):
    """A row of `dropped` or `missing`."""

    clip_id: str
    text_id: str | None
    stage: str
    reason: str
    score: float | None
    threshold: float | None
    rule_version: str | None
    detail: str | None
    also_failed: list[str] | None


class Column(NamedTuple):
    """A column of a table. The description is for people; parquet files do not hold it."""

    name: str
    type: pa.DataType
    description: str


COLUMNS: dict[str, tuple[Column, ...]] = {
    "clips": (
        Column("clip_id", pa.string(), "Id of the clip, unique in the corpus."),
        Column("video", pa.string(), "Path of the video file, relative to the corpus's video root, with '/'; or an address."),
        Column("start_s", pa.float64(), "Second of the container's time (see the glossary) at which the clip begins; null: 0 s."),
        Column("end_s", pa.float64(), "Second of the container's time at which the clip ends; null: the end."),
        Column("split", pa.string(), "Split of the clip: train, val or test."),
        Column("source", pa.string(), "Where the clip comes from, as the imported list states it."),
        Column("licence", pa.string(), "Licence of the clip, as the imported list states it."),
        Column("category", pa.string(), "Category of the clip, by which a benchmark is cut into slices."),
        Column("url", pa.string(), "Address of the clip on the web, as the imported list states it; it is never fetched."),
        Column("twin_id", pa.string(), "Id of the clip that shows the same things in another order, for the two-way accuracy."),
    ),
    "texts": (
        Column("text_id", pa.string(), "Id of the text, unique in the corpus."),
        Column("clip_id", pa.string(), "Id of the clip that the text describes."),
        Column("lang", pa.string(), "Language of the text: en or zh."),
        Column("text", pa.string(), "The text as it was imported, or as its producer wrote it."),
        Column("origin", pa.string(), "Origin of the text: raw, rewrite, translation or aux (a caption of one key-frame)."),
        Column("parent_text_id", pa.string(), "Id of the text from which this one was rewritten or translated."),
        Column("frame_index", pa.int32(), "Index of the key-frame that an aux text describes; null for all other texts."),
        Column("producer", pa.string(), "Model that wrote the text, and digest of its prompt; null for raw texts."),
        Column("active", pa.bool_(), "Whether later stages read the text; false: another text has replaced it."),
    ),
    "frames": (
        Column("clip_id", pa.string(), "Id of the clip that the key-frames are from; a clip has one row."),
        Column("times_s", pa.list_(pa.float64()), "Time of each key-frame, in seconds since the start of the clip."),
        Column("shots", pa.list_(pa.int32()), "Index of the shot that each key-frame is from; -1: unknown."),
        Column("scores", pa.list_(pa.float64()), "Score by which each key-frame was chosen."),
        Column("why", pa.list_(pa.string()), "Reason for which each key-frame was chosen."),
        Column("hashes", pa.list_(pa.int64()), "64-bit dHash of each key-frame."),
        Column("jpegs", pa.list_(pa.binary()), "JPEG bytes of each key-frame."),
        Column("width", pa.int32(), "Width of the key-frames in pixels."),
        Column("height", pa.int32(), "Height of the key-frames in pixels."),
    ),
    "senses": (
        Column("clip_id", pa.string(), "Id of the clip."),
        Column("sound_state", pa.string(), "ok, none (the clip has no sound), or the reason why its sound cannot be read."),
        Column("sound", pa.binary(), "Mean power in dB by time and mel band, float16 (96, 64); null without sound."),
        Column("motion", pa.binary(), "Flow to the right and down, and its length, by time and place, float16 (8, 4, 4, 3)."),
    ),
    "dropped": (
        Column("clip_id", pa.string(), "Id of the clip that was dropped, or of the clip whose text was dropped."),
        Column("text_id", pa.string(), "Id of the text that was dropped; null: the whole clip was dropped."),
        Column("stage", pa.string(), "Name of the stage that dropped the row."),
        Column("reason", pa.string(), "Reason code of the rule that dropped the row."),
        Column("score", pa.float64(), "Value that the rule measured."),
        Column("threshold", pa.float64(), "Threshold that the score failed."),
        Column("rule_version", pa.string(), "Version of the rule: reason/number, or stage/version where there is no rule."),
        Column("detail", pa.string(), "Detail for people: the signal, the clip that this one copies, or an error message."),
        Column("also_failed", pa.list_(pa.string()), "Reasons of all other rules that refused the row."),
    ),
}  # fmt: skip
CLIPS, TEXTS, FRAMES, SENSES, DROPPED = (
    pa.schema([(column.name, column.type) for column in COLUMNS[table]])
    for table in ("clips", "texts", "frames", "senses", "dropped")
)
# Columns that corpora may lack. They are written only where a row has a value, so that a corpus without values keeps its
# digest; a row that is read has them in any case.
OPTIONAL = {"clips": ("twin_id",)}
# `missing` has the columns of `dropped`: rows of a benchmark that stay, without frames, and count as misses.
SCHEMAS: dict[str, pa.Schema] = {
    "clips": CLIPS,
    "texts": TEXTS,
    "superseded": TEXTS,  # texts of earlier folders that texts of this stage replace; `active` is False
    "frames": FRAMES,
    "senses": SENSES,
    "dropped": DROPPED,
    "missing": DROPPED,
}
_SIGNAL_TYPES: dict[str, pa.DataType] = {
    "float": pa.float64(), "int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "bytes": pa.binary(),
    "strs": pa.list_(pa.string()), "floats": pa.list_(pa.float64()),
}  # fmt: skip
# A JPEG does not shrink, and frames are most of the bytes.
_COMPRESSION = {"frames": "none"}
FRAMES_A_GROUP = 8  # clips in a row group: reading one clip's pictures reads about 2 MB (core.frames)
_SORT = {
    "clips": ("clip_id",),
    "texts": ("clip_id", "text_id"),
    "superseded": ("clip_id", "text_id"),
    "frames": ("clip_id",),
    "senses": ("clip_id",),
    "signals": ("clip_id", "text_id"),
    "verdicts": ("clip_id", "text_id"),
    "dropped": ("clip_id", "text_id"),
    "missing": ("clip_id", "text_id"),
}


def row_key(row: Mapping[str, Any]) -> str:
    """The id that a row of signals, verdicts or drops is about: its text's, else its clip's."""
    return row["text_id"] or row["clip_id"]


def signal_schema(columns: dict[str, str]) -> pa.Schema:
    """Schema of a stage's or corpus's `signals`, or of `verdicts`: clip_id, text_id (null: a row of the clip), then one column
    for each score, of a kind of _SIGNAL_TYPES: float, int, str, bool, bytes, strs or floats."""
    fields = [("clip_id", pa.string()), ("text_id", pa.string())]
    return pa.schema(fields + [(name, _SIGNAL_TYPES[kind]) for name, kind in sorted(columns.items())])


def part_of(clip_id: str, num_parts: int) -> int:
    """The part that holds a clip: by a hash of its id, whatever its position and the number of workers."""
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "big") % num_parts


def default_num_parts(num_clips: int) -> int:
    """The number of parts for a corpus: about 32 clips a part in small corpora, and up to 1,024 in large ones."""
    clips_a_part = min(max(num_clips / 128, 32), 1024)
    return max(1, round(num_clips / clips_a_part))


def sort_rows(table: str, rows: Iterable[Row]) -> list[Row]:
    keys = _SORT[table]
    return sorted(rows, key=lambda row: tuple(row.get(key) or "" for key in keys))


_SETTINGS_KEY = b"m2raap.settings"


def write_part(
    folder: Path,
    table: str,
    part: int,
    rows: Iterable[Row],
    schema: pa.Schema | None = None,
    settings_digest: str | None = None,
) -> str:
    """Writes `folder/table/part-*.parquet` (temp, fsync, rename) and returns the SHA-256 of its bytes.

    The bytes depend only on the rows and on `settings_digest`, which is stored in the file: rows are sorted, and no time or path
    is stored.
    """
    ordered = sort_rows(table, rows)
    unknown = {key for row in ordered for key in row} - set((schema or SCHEMAS[table]).names)
    assert not unknown, f"columns {sorted(unknown)} are not in the schema of {table}"
    columns_of = schema or _without_empty(table, ordered)
    columns = [
        pa.array([row.get(name) for row in ordered], type=columns_of.field(name).type) for name in columns_of.names
    ]
    if settings_digest:
        columns_of = columns_of.with_metadata({_SETTINGS_KEY: settings_digest})
    return write_table(folder / table / part_name(part), pa.Table.from_arrays(columns, schema=columns_of))


def _without_empty(table: str, rows: list[Row]) -> pa.Schema:
    """The schema of a table without those of its optional columns that no row has a value of."""
    empty = {name for name in OPTIONAL.get(table, ()) if all(row.get(name) is None for row in rows)}
    return pa.schema([field for field in SCHEMAS[table] if field.name not in empty])


def part_settings(path: Path) -> str | None:
    """The digest of the settings with which a part was made; None where it has none. Raises M2raapError for a damaged file."""
    try:
        return ((pq.read_schema(path).metadata or {}).get(_SETTINGS_KEY) or b"").decode() or None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def part_schema(path: Path) -> pa.Schema:
    """The columns of a part of signals, which the part alone tells. Raises M2raapError for a damaged file."""
    try:
        fields = pq.read_schema(path).remove_metadata()
        # Parquet calls the items of a list by another name than Arrow does, and the name is in the bytes of a part.
        lists = {field.name: pa.list_(field.type.value_type) for field in fields if pa.types.is_list(field.type)}
        return pa.schema([(field.name, lists.get(field.name, field.type)) for field in fields])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def part_rows(path: Path) -> int:
    """The number of rows in a part. Raises M2raapError for a damaged file."""
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


class _Hashed(io.RawIOBase):
    """Writes to a file, and keeps the SHA-256 of what was written."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._sink.tell()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._sink.write(data)


def write_table(path: Path, rows: pa.Table) -> str:
    """Writes rows to `path`, whose folder is named after the table, and returns the SHA-256 of the bytes."""
    with open_atomic(path) as file:
        sink = _Hashed(file)  # not bytes in memory: a part of pictures has hundreds of megabytes
        pq.write_table(
            rows.combine_chunks(),
            sink,
            compression=_COMPRESSION.get(path.parent.name, "zstd"),
            write_statistics=False,
            use_dictionary=path.parent.name != "frames",
            row_group_size=FRAMES_A_GROUP if path.parent.name == "frames" else None,
            # For readers of single groups, which do not hash the whole file.
            write_page_checksum=path.parent.name == "frames",
        )
    return sink.sha256.hexdigest()


def read_part(
    folder: Path, table: str, part: int, columns: list[str] | None = None, files: Mapping[str, str] | None = None
) -> list[Row]:
    """The rows of one part; a part that the folder's manifest does not name has none.

    `files`: digests by key that count instead of those in the manifest. Raises M2raapError naming a file that is absent or
    differs from its digest, is no parquet, or to which a link leads out of the folder. In a folder without manifest, which is
    unfinished, an absent part has no rows.
    """
    path = verified_path(folder, part_key(table, part), files)
    if path is None:
        return []
    try:
        with pq.ParquetFile(path) as file:
            absent = sorted({*(columns or ()), *OPTIONAL.get(table, ())} - set(file.schema_arrow.names))
            if lacking := [name for name in absent if name not in OPTIONAL.get(table, ())]:
                raise pa.ArrowInvalid(f"the column {lacking[0]} is absent")
            present = columns and [name for name in columns if name not in absent]
            rows = file.read(columns=present, use_threads=False).to_pylist()
            fill = dict.fromkeys(name for name in absent if columns is None or name in columns)
            return [row | fill for row in rows] if fill else rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def read_columns(folder: Path, table: str, part: int, columns: list[str], verify: bool = True) -> pa.Table:
    """Columns of one part, with no rows where the folder's manifest does not name the part.

    `verify`: whether the bytes of the whole file are compared with the manifest, as `read_part` does. Raises M2raapError as
    `read_part`; without `verify` for a file that is absent or no parquet, but not for one that was changed.
    """
    empty = pa.schema([SCHEMAS[table].field(name) for name in columns]).empty_table()
    path = (verified_path if verify else named_path)(folder, part_key(table, part))
    if path is None:
        return empty
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns, use_threads=False).select(columns).cast(empty.schema)
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise damaged(path, error) from None


def row_group_sizes(folder: Path, table: str, part: int) -> list[int]:
    """Number of rows of every row group of a part, which exists. Raises M2raapError for a damaged file."""
    path = signed_path(folder, part_key(table, part))
    try:
        metadata = pq.read_metadata(path)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def part_bytes(folder: Path, table: str, part: int) -> tuple[int, int]:
    """(size of the file, number of rows) of a part, which exists. Raises M2raapError for a damaged file."""
    path = signed_path(folder, part_key(table, part))
    return path.stat().st_size, part_rows(path)


def read_clip(folder: Path, table: str, part: int, clip_id: str) -> list[Row]:
    """The rows of one clip in its part: the pictures of the other thousand clips are left on disk. Raises as `read_part`."""
    path = verified_path(folder, part_key(table, part))
    if path is None:
        return []
    rows: list[Row] = []
    try:
        with pq.ParquetFile(path) as file:
            fill = dict.fromkeys(set(OPTIONAL.get(table, ())) - set(file.schema_arrow.names))
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["clip_id"], use_threads=False)["clip_id"]
                mask = pc.call_function("equal", [ids, clip_id])
                if pc.call_function("any", [mask]).as_py():
                    rows += file.read_row_group(group, use_threads=False).filter(mask).to_pylist()
            return [row | fill for row in rows]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def read_all(folder: Path, table: str, columns: list[str] | None = None) -> Iterator[Row]:
    """The rows of all parts of a table, in the order of the parts; an absent table has none. Raises as `read_part`."""
    parts = signed_parts(folder, table)
    if parts is None:  # unfinished
        names = (path.stem.removeprefix("part-") for path in sorted((folder / table).glob("part-*.parquet")))
        parts = [int(name) for name in names if name.isdecimal()]
    for part in parts:
        yield from read_part(folder, table, part, columns)


def damaged(path: Path, error: Exception) -> M2raapError:
    """The error to raise for a part that is no parquet."""
    return M2raapError(f"{path}: cannot be read as parquet ({error}); delete it and run the stage again")
