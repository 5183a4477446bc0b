"""The pictures of single clips in any order, for training, without reading their whole part.

A part of `frames` is written in groups of rows (`tables.FRAMES_A_GROUP` clips). A group is read when one of its clips is
needed and kept up to a limit of memory; where all groups fit, each is read once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m2raap.core.files import inside
from m2raap.core.tables import damaged, part_name


@dataclass(frozen=True)
class _RowPlace:
    path: Path
    group: int
    row: int


@dataclass(frozen=True)
class _PartIndex:
    metadata: dict[Path, Any]
    clips: dict[str, _RowPlace]


class FrameReader:
    """Reads key-frames for many threads at once. It keeps up to `held_bytes` bytes of groups, the most recently used ones."""

    def __init__(self, folders: Sequence[Path], held_bytes: int) -> None:
        self._folders, self._limit = folders, held_bytes
        self._parts: dict[int, _PartIndex] = {}
        self._held: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the groups that are kept now: at most `held_bytes`, unless a single group is larger."""
        return self._held_bytes

    def path(self, part: int, clip_id: str) -> Path | None:
        """The file with the clip's key-frames; None where there is none. Raises M2raapError for a file that is no parquet."""
        place = self._index_of(part).clips.get(clip_id)
        return place and place.path

    def jpegs(self, part: int, clip_id: str) -> list[bytes]:
        """The clip's key-frames in order of time. Raises M2raapError for a file that is no parquet."""
        index = self._index_of(part)
        place = index.clips[clip_id]
        key = (place.path, place.group)
        with self._lock:
            group = self._held.get(key)
            if group is not None:
                self._held.move_to_end(key)
        if group is None:
            group = self._hold(key, self._read(place.path, place.group, index.metadata[place.path]))
        return group.column("jpegs")[place.row].as_py()

    def _hold(self, key: tuple[Path, int], group: pa.Table) -> pa.Table:
        with self._lock:
            if key not in self._held:  # another thread may have read it meanwhile
                self._held[key] = group
                self._held_bytes += group.nbytes
                while self._held_bytes > self._limit and len(self._held) > 1:
                    self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return group

    def _read(self, path: Path, group: int, metadata: Any) -> pa.Table:
        try:  # every call opens a reader, because two threads may not share one
            with pq.ParquetFile(path, metadata=metadata) as file:
                return file.read_row_group(group, columns=["jpegs"], use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise damaged(path, error) from None

    def _index_of(self, part: int) -> _PartIndex:
        index = self._parts.get(part)
        return self._parts.setdefault(part, self._index(part)) if index is None else index

    def _index(self, part: int) -> _PartIndex:
        """The place of each clip's frames: in the last of the folders that has them, as in a view."""
        index = _PartIndex({}, {})
        for folder in self._folders:
            path = inside(folder, f"frames/{part_name(part)}")
            if not path.exists():
                continue
            try:
                with pq.ParquetFile(path) as file:
                    index.metadata[path] = file.metadata
                    for group in range(file.metadata.num_row_groups):
                        names = file.read_row_group(group, columns=["clip_id"], use_threads=False)[
                            "clip_id"
                        ].to_pylist()
                        index.clips.update({name: _RowPlace(path, group, row) for row, name in enumerate(names)})
            except (pa.ArrowInvalid, OSError) as error:
                raise damaged(path, error) from None
        return index
