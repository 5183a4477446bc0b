"""The table `signals` of a corpus: what an imported list says of its clips, such as vectors and labels, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.core.signed import part_key
from m2raap.core.tables import Row, part_of, signal_schema, write_part

TABLE = "signals"
# All rows at once, or a function of (part, number of parts) that gives those of the clips of one part: vectors of millions of
# clips do not fit into memory.
SignalRows = Iterable[Row] | Callable[[int, int], Iterable[Row]]


def write_signals(
    folder: Path, rows: SignalRows, columns: Mapping[str, str], clip_ids: list[set[str]], left_out: Set[str]
) -> dict[str, str]:
    """Writes the parts that have rows, and returns the digest of each by its key in a manifest.

    `columns`: name -> kind, as in signal_schema. `clip_ids`: those of every part. Rows of clips that are `left_out` are not
    written. Raises M2raapError for two rows of one clip, a row of a text, and a row of a clip that is not in the part.
    """
    schema, files = signal_schema(dict(columns)), dict[str, str]()
    rows_of_part = rows if callable(rows) else _grouped(rows, len(clip_ids))
    for part, ids in enumerate(clip_ids):
        kept: dict[str, Row] = {}
        for row in rows_of_part(part, len(clip_ids)):
            clip_id = row["clip_id"]
            if clip_id in left_out:
                continue
            if row.get("text_id") is not None:
                raise M2raapError(
                    f"signals of clip '{clip_id}': belong to a text; an imported list has signals of clips"
                )
            if clip_id in kept:
                raise M2raapError(f"signals of clip '{clip_id}': are given twice; a clip has one row")
            if clip_id not in ids:
                raise M2raapError(f"signals of clip '{clip_id}': this clip is not in part {part} of the corpus")
            kept[clip_id] = row
        if kept:
            files[part_key(TABLE, part)] = write_part(folder, TABLE, part, kept.values(), schema)
    return files


def _grouped(rows: Iterable[Row], num_parts: int) -> Callable[[int, int], Iterable[Row]]:
    parts: list[list[Row]] = [[] for _ in range(num_parts)]
    for row in rows:
        parts[part_of(row["clip_id"], num_parts)].append(row)
    return lambda part, _: parts[part]
