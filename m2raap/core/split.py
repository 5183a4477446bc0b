"""The clips of one split of a view as columns, for training: without a Python object for each row, so that a corpus of a
million clips is opened in seconds. What is read here are the rows that `View.part` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from m2raap.core.errors import M2raapError
from m2raap.core.files import open_atomic
from m2raap.core.tables import part_of, read_columns, row_group_sizes
from m2raap.core.tombstones import id_hash
from m2raap.core.view import View

pc: Any = pyarrow.compute  # whose functions are made when it is imported, so that no checker knows them
ORIGINS = ("raw", "rewrite", "translation", "aux")
_CLIP_COLUMNS = ["clip_id", "video", "start_s", "end_s", "split"]
_TEXT_COLUMNS = ["text_id", "clip_id", "lang", "text", "origin", "parent_text_id", "frame_index", "active"]


@dataclass(frozen=True)
class SplitTables:
    """Clips by part and id, and their texts by clip and text id.

    `clips`: clip_id, video, start_s, end_s, part, folder (index of the view's folder with the key-frames), group and row (of
    the key-frames in that part), num_frames. `texts`: clip (index of its row in `clips`), lang (index in the view's
    languages), origin (index in ORIGINS), frame_index, text, raw_id (of the text of the corpus that it is, or comes from; empty
    where there is none).
    """

    clips: pa.Table
    texts: pa.Table

    def take(self, clips: np.ndarray) -> SplitTables:
        """Only the clips with these (ascending) indices, with their texts."""
        places = np.full(len(self.clips), -1, np.int32)
        places[clips] = np.arange(len(clips), dtype=np.int32)
        clip_N = places[self.texts["clip"].to_numpy()]
        texts = self.texts.filter(pa.array(clip_N >= 0)).set_column(0, "clip", pa.array(clip_N[clip_N >= 0]))
        return SplitTables(self.clips.take(pa.array(clips)), texts)

    def save(self, folder: Path) -> None:
        """Writes both tables into a folder, for `open_tables`."""
        for name, table in (("clips", self.clips), ("texts", self.texts)):
            with open_atomic(folder / f"{name}.arrow") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)


def open_tables(folder: Path) -> SplitTables:
    """The tables that `SplitTables.save` wrote, as memory that all processes of the machine share."""
    maps = [pa.memory_map(str(folder / f"{name}.arrow")) for name in ("clips", "texts")]
    return SplitTables(*(pa.ipc.open_file(source).read_all() for source in maps))


def read_split(view: View, split: str) -> SplitTables:
    """The clips of one split, as `read_splits`."""
    return read_splits(view, (split,))[0]


def read_splits(view: View, splits: Sequence[str], needs_text: bool = True) -> list[SplitTables]:
    """For each split its clips that have key-frames and, unless `needs_text` is False, a text in a language of the view.

    Raises M2raapError naming a file that is absent, damaged or differs from its manifest; of the parts of `frames` only the
    columns beside the pictures are read.
    """
    by_split: list[list[tuple[pa.Table, pa.Table]]] = [[] for _ in splits]
    for part in range(view.num_parts):
        clips, texts = _read_part(view, part)
        for split, parts in zip(splits, by_split, strict=True):
            parts.append(_of_split(clips, texts, split, needs_text))
    return [_joined_parts(parts) for parts in by_split]


def _joined_parts(parts: list[tuple[pa.Table, pa.Table]]) -> SplitTables:
    counts = [len(clips) for clips, _ in parts]
    starts = np.concatenate([[0], np.cumsum(counts)])[: len(counts)].astype(np.int32)
    texts = [
        table.set_column(0, "clip", pa.array(table["clip"].to_numpy() + start))
        for (_, table), start in zip(parts, starts, strict=True)
    ]
    return SplitTables(
        pa.concat_tables([clips for clips, _ in parts]).combine_chunks(), pa.concat_tables(texts).combine_chunks()
    )


def _of_split(clips: pa.Table, texts: pa.Table, split: str, needs_text: bool) -> tuple[pa.Table, pa.Table]:
    """The clips of a split (that have a text), and their texts, whose column `clip` is the row in the first table."""
    kept = clips["split"].to_numpy(zero_copy_only=False) == split
    clip_N = texts["clip"].to_numpy()
    has_text = np.full(len(clips), not needs_text)
    has_text[clip_N] = True
    kept &= has_text
    numbers = np.cumsum(kept, dtype=np.int32) - 1
    texts = texts.filter(pa.array(kept[clip_N]))
    texts = texts.set_column(0, "clip", pa.array(numbers[texts["clip"].to_numpy()], pa.int32()))
    return clips.filter(pa.array(kept)).drop_columns(["split"]), texts


def _read_part(view: View, part: int) -> tuple[pa.Table, pa.Table]:
    """The clips of a part that have key-frames, and their texts, whose column `clip` is the row in the first table."""
    dropped = _dropped_ids(view, part)
    clips = read_columns(view.corpus_path, "clips", part, _CLIP_COLUMNS)
    if view.cutoff is not None:
        within = [id_hash(clip_id) <= view.cutoff for clip_id in clips["clip_id"].to_pylist()]
        clips = clips.filter(pa.array(within, pa.bool_()))
    clips = clips.filter(pc.invert(pc.is_in(clips["clip_id"], dropped)))
    clips = _joined(clips, _frames(view, part)).sort_by("clip_id")
    clips = clips.append_column("part", pa.array(np.full(len(clips), part, np.int32)))

    texts = _texts(view, part)
    clip = pc.index_in(texts["clip_id"], clips["clip_id"].combine_chunks())
    lang = pc.index_in(texts["lang"], pa.array(view.langs, pa.string()))
    keep = pc.and_(pc.is_valid(clip), pc.is_valid(lang))
    keep = pc.and_(keep, pc.invert(pc.is_in(texts["text_id"], dropped)))
    keep = keep if view.with_inactive else pc.and_(keep, texts["active"])
    columns: dict[str, Any] = {
        "clip": clip.cast(pa.int32()),
        "lang": lang.cast(pa.int8()),
        "origin": pc.index_in(texts["origin"], pa.array(ORIGINS, pa.string())).cast(pa.int8()),
        "frame_index": texts["frame_index"],
        "text": texts["text"],
        "raw_id": _raw_ids(view, part, texts),
        "text_id": texts["text_id"],
    }
    texts = pa.table(columns).filter(keep).sort_by([("clip", "ascending"), ("text_id", "ascending")])
    return clips, texts.drop_columns(["text_id"])


def _raw_ids(view: View, part: int, texts: pa.Table) -> pa.Array:
    """Of every text the id of the text of the corpus that it is, or that its parent is; else empty."""
    of_corpus = read_columns(view.corpus_path, "texts", part, ["text_id"])["text_id"].combine_chunks()
    raw_ids = pc.coalesce(texts["parent_text_id"], texts["text_id"])
    return pc.if_else(pc.is_in(raw_ids, of_corpus), raw_ids, "")


def _dropped_ids(view: View, part: int) -> pa.Array:
    """Ids of the clips and texts of a part that a stage has dropped."""
    if view.is_benchmark:
        return pa.array([], pa.string())
    tables = [read_columns(folder, "dropped", part, ["clip_id", "text_id"]) for folder in view.folders]
    table = pa.concat_tables(tables) if tables else pa.table({"clip_id": pa.array([], pa.string()), "text_id": []})
    return pc.coalesce(table["text_id"].cast(pa.string()), table["clip_id"]).combine_chunks()


def _frames(view: View, part: int) -> pa.Table:
    """clip_id, folder, group, row and num_frames of the key-frames of a part, from the last folder that has them."""
    tables = []
    for number, folder in enumerate(view.folders):
        table = read_columns(folder, "frames", part, ["clip_id", "times_s"], verify=False)
        if not len(table):
            continue
        # A part under the name of another is sound in itself, and its clips would only be missed.
        if any(part_of(clip_id, view.num_parts) != part for clip_id in table["clip_id"].to_pylist()):
            raise M2raapError(
                f"{folder}: its part {part} of frames holds clips of another part: files were exchanged; restore them, or make "
                "the stage again with --force"
            )
        group_N, row_N = _places(row_group_sizes(folder, "frames", part))
        columns: dict[str, Any] = {
            "clip_id": table["clip_id"],
            "folder": np.full(len(table), number, np.int32),
            "group": group_N,
            "row": row_N,
            "num_frames": pc.list_value_length(table["times_s"]).combine_chunks().cast(pa.int32()),
        }
        tables.append(pa.table(columns))
    if not tables:
        names = ("folder", "group", "row", "num_frames")
        empty = {"clip_id": pa.array([], pa.string())} | {name: pa.array([], pa.int32()) for name in names}
        return pa.table(empty)
    return _last_of_each(pa.concat_tables(tables), "clip_id")


def _places(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The row group of every row of a file whose groups have these sizes, and the row within the group."""
    group_N = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    starts = np.cumsum([0, *sizes])[:-1]
    return group_N, (np.arange(len(group_N)) - starts[group_N]).astype(np.int32)


def _texts(view: View, part: int) -> pa.Table:
    """Every text of a part in its last version: a text that a later stage has replaced is the inactive one."""
    folders: list[tuple[Path, str]] = [
        (folder, table) for table in ("texts", "superseded") for folder in (view.corpus_path, *view.folders)
    ]
    tables = [read_columns(folder, table, part, _TEXT_COLUMNS) for folder, table in folders]
    return _last_of_each(pa.concat_tables(tables), "text_id")


def _last_of_each(table: pa.Table, key: str) -> pa.Table:
    """The rows of a table without those that a later row of the same key replaces."""
    numbered = table.append_column("_number", pa.array(np.arange(len(table))))
    last = numbered.group_by(key, use_threads=False).aggregate([("_number", "max")])["_number_max"]
    return table.take(last) if len(last) < len(table) else table


def _joined(clips: pa.Table, frames: pa.Table) -> pa.Table:
    """The clips that have key-frames, with the columns of these."""
    place = pc.index_in(clips["clip_id"], frames["clip_id"].combine_chunks())
    has_frames = pc.is_valid(place)
    frames = frames.take(place.filter(has_frames))
    clips = clips.filter(has_frames)
    for name in ("folder", "group", "row", "num_frames"):
        clips = clips.append_column(name, frames[name])
    return clips
