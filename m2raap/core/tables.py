"""The tables of a corpus: their columns, how a part of one is written and read.

A table is a folder of `part-00000.parquet` files. Part i of every table holds exactly the clips whose id hashes to i, so
no stage ever joins across parts. Rows travel as plain dicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m2raap.core.errors import M2raapError
from m2raap.core.files import inside, write_atomic

SCHEMA_VERSION = 2

Row = dict[str, Any]

CLIPS = pa.schema(
    [
        ("clip_id", pa.string()),  # unique in the corpus
        ("video", pa.string()),  # relative to the corpus's video root, posix
        ("start_s", pa.float64()),  # null: from the beginning
        ("end_s", pa.float64()),  # null: to the end
        ("split", pa.string()),  # train | val | test
        ("source", pa.string()),  # where the pair comes from, as the list says
        ("licence", pa.string()),  # as the list says
        ("category", pa.string()),  # slices of a benchmark
        ("url", pa.string()),  # as the list says; never fetched from here
    ]
)
TEXTS = pa.schema(
    [
        ("text_id", pa.string()),  # unique in the corpus
        ("clip_id", pa.string()),  # the clip that it describes
        ("lang", pa.string()),  # en | zh
        ("text", pa.string()),  # as it came, or as its producer wrote it
        ("origin", pa.string()),  # raw | rewrite | translation | aux
        ("parent_text_id", pa.string()),  # what it was rewritten or translated from
        ("frame_index", pa.int32()),  # aux only
        ("producer", pa.string()),  # model + prompt digest
        ("active", pa.bool_()),  # false: kept, not read
    ]
)
FRAMES = pa.schema(
    [
        ("clip_id", pa.string()),  # one row a clip
        ("times_s", pa.list_(pa.float64())),  # of each frame, since the start of the clip
        ("shots", pa.list_(pa.int32())),  # which shot each is from; -1: unknown
        ("scores", pa.list_(pa.float64())),  # by which each was chosen
        ("why", pa.list_(pa.string())),  # each was chosen
        ("hashes", pa.list_(pa.int64())),  # 64-bit dHash of each
        ("jpegs", pa.list_(pa.binary())),  # the pictures
        ("width", pa.int32()),  # pixels
        ("height", pa.int32()),  # pixels
    ]
)
DROPPED = pa.schema(
    [
        ("clip_id", pa.string()),  # whose row is gone
        ("text_id", pa.string()),  # null: the whole clip
        ("stage", pa.string()),  # that dropped it
        ("reason", pa.string()),  # one of the reason codes
        ("score", pa.float64()),  # what was measured
        ("threshold", pa.float64()),  # that it failed
        ("rule_version", pa.string()),  # reason/number; a stage's own verdicts: stage/version
        ("detail", pa.string()),  # the signal, the twin, the message
        ("also_failed", pa.list_(pa.string())),  # every other rule that refused it
    ]
)
# `missing` has the columns of `dropped`: rows of a benchmark that stay, without frames, and count as misses.
SCHEMAS: dict[str, pa.Schema] = {
    "clips": CLIPS,
    "texts": TEXTS,
    "superseded": TEXTS,  # texts of earlier folders that a stage's own replace: active False
    "frames": FRAMES,
    "dropped": DROPPED,
    "missing": DROPPED,
}
_SIGNAL_TYPES = {"float": pa.float64(), "int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "bytes": pa.binary()}
# A JPEG does not shrink, and frames are most of the bytes.
_COMPRESSION = {"frames": "none"}
FRAMES_A_GROUP = 8  # clips: about 2 MB, what reading a single clip costs (core.frames)
_SORT = {
    "clips": ("clip_id",),
    "texts": ("clip_id", "text_id"),
    "superseded": ("clip_id", "text_id"),
    "frames": ("clip_id",),
    "signals": ("clip_id", "text_id"),
    "verdicts": ("clip_id", "text_id"),
    "dropped": ("clip_id", "text_id"),
    "missing": ("clip_id", "text_id"),
}


def signal_schema(columns: dict[str, str]) -> pa.Schema:
    """Schema of a stage's `signals` or `verdicts`: clip_id, text_id (null: of the clip), then one column a score."""
    fields = [("clip_id", pa.string()), ("text_id", pa.string())]
    return pa.schema(fields + [(name, _SIGNAL_TYPES[kind]) for name, kind in sorted(columns.items())])


def part_name(part: int) -> str:
    return f"part-{part:05d}.parquet"


def part_of(clip_id: str, num_parts: int) -> int:
    """The part that holds a clip: a hash of its id, never of its position or of the workers."""
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "big") % num_parts


def default_num_parts(num_clips: int) -> int:
    """About 32 clips a part in small corpora, growing to 1,024 a part in large ones."""
    clips_a_part = min(max(num_clips / 128, 32), 1024)
    return max(1, round(num_clips / clips_a_part))


def row_key(row: Row) -> str:
    """The id that a row of signals, verdicts or drops is about: its text's, else its clip's."""
    return row["text_id"] or row["clip_id"]


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

    The bytes depend on the rows, and on the name of the settings that made them, alone: rows are sorted, and no time or path
    is stored.
    """
    columns_of = schema or SCHEMAS[table]
    ordered = sort_rows(table, rows)
    unknown = {key for row in ordered for key in row} - set(columns_of.names)
    assert not unknown, f"columns {sorted(unknown)} are not in the schema of {table}"
    columns = [
        pa.array([row.get(name) for row in ordered], type=columns_of.field(name).type) for name in columns_of.names
    ]
    if settings_digest:
        columns_of = columns_of.with_metadata({_SETTINGS_KEY: settings_digest})
    return write_table(folder / table / part_name(part), pa.Table.from_arrays(columns, schema=columns_of))


def part_settings(path: Path) -> str | None:
    """The digest of the settings that made a part; None where it names none. Raises M2raapError for what is no parquet."""
    try:
        return ((pq.read_schema(path).metadata or {}).get(_SETTINGS_KEY) or b"").decode() or None
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def write_table(path: Path, rows: pa.Table) -> str:
    """Puts rows at `path`, whose folder names the table, and returns the SHA-256 of the bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.combine_chunks(),
        sink,
        compression=_COMPRESSION.get(path.parent.name, "zstd"),
        write_statistics=False,
        use_dictionary=path.parent.name != "frames",
        row_group_size=FRAMES_A_GROUP if path.parent.name == "frames" else None,
    )
    data = sink.getvalue().to_pybytes()
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_part(folder: Path, table: str, part: int, columns: list[str] | None = None) -> list[Row]:
    """The rows of one part; an absent file is an empty part.

    Raises M2raapError naming a file that is no parquet, or that a link brings in from outside of the folder.
    """
    path = inside(folder, f"{table}/{part_name(part)}")
    if not path.exists():
        return []
    try:
        return pq.read_table(path, columns=columns, use_threads=False).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> M2raapError:
    """What to raise for a part that is no parquet."""
    return M2raapError(f"{path}: cannot be read as parquet ({error}); delete it and run the stage again")
