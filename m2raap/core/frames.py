"""The pictures of single clips in any order, for training and search, without reading their whole part.

A part of `frames` is written in groups of rows (`tables.FRAMES_A_GROUP` clips). A group is read when one of its clips is
needed and kept up to a limit of memory; where all groups fit, each is read once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from m2raap.core.signed import named_path, part_key, verified_path
from m2raap.core.tables import damaged

OPEN_FILES = 256  # parts whose footers are kept; a footer of a part of 1,024 clips takes about 0.4 MB


class FramePlace(NamedTuple):
    """The place of a clip's key-frames: a row of a row group of a part in a stage folder."""

    folder: Path
    part: int
    group: int
    row: int


@dataclass(frozen=True)
class _PartFile:
    path: Path
    metadata: Any


class FrameReader:
    """Reads key-frames for many threads at once. It keeps up to `held_bytes` bytes of groups, the most recently used ones.

    `verify`: whether a part is compared with its manifest, which reads all of it, before one of its groups is read; without, the
    checksums of the pages that are read tell damaged pictures.
    """

    def __init__(self, folders: Sequence[Path], held_bytes: int, verify: bool = True) -> None:
        self._folders, self._limit, self._verify = folders, held_bytes, verify
        self._files: OrderedDict[tuple[Path, int], _PartFile | None] = OrderedDict()
        self._clips: dict[int, dict[str, FramePlace]] = {}  # part -> clip_id -> place
        self._held: OrderedDict[tuple[Path, int, int], pa.Table] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()
        self.read_bytes = 0  # of row groups that were read from files so far

    @property
    def kept_bytes(self) -> int:
        """Bytes of the groups that are kept now: at most `held_bytes`, unless a single group is larger."""
        return self._held_bytes

    def path(self, part: int, clip_id: str) -> Path | None:
        """The file with the clip's key-frames; None where there is none. Raises M2raapError for a file that is no parquet."""
        place = self._places(part).get(clip_id)
        file = place and self._file(place.folder, part)
        return file.path if file else None

    def jpegs(self, part: int, clip_id: str) -> list[bytes]:
        """The clip's key-frames in order of time. Raises M2raapError for a file that is no parquet."""
        return self.at(self._places(part)[clip_id])

    def at(self, place: FramePlace) -> list[bytes]:
        """The key-frames in a place, in order of time. Raises M2raapError for a file that is absent, damaged or no parquet."""
        key = place[:3]
        with self._lock:
            group = self._held.get(key)
            if group is not None:
                self._held.move_to_end(key)
        if group is None:
            file = self._file(place.folder, place.part)
            assert file is not None, f"part {place.part} of {place.folder} has no frames"
            group = self._hold(key, self._read(file.path, place.group, file.metadata))
        return group.column("jpegs")[place.row].as_py()

    def _hold(self, key: tuple[Path, int, int], group: pa.Table) -> pa.Table:
        with self._lock:
            if key not in self._held:  # another thread may have read it meanwhile
                self._held[key] = group
                self._held_bytes += group.nbytes
                while self._held_bytes > self._limit and len(self._held) > 1:
                    self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return group

    def _read(self, path: Path, group: int, metadata: Any) -> pa.Table:
        try:  # every call opens a reader, because two threads may not share one
            with pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True) as file:
                table = file.read_row_group(group, columns=["jpegs"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from None
        with self._lock:
            self.read_bytes += table.nbytes
        return table

    def _file(self, folder: Path, part: int) -> _PartFile | None:
        """The file with a part of a folder's frames, and its footer; None where the folder has none."""
        key = (folder, part)
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        path = (verified_path if self._verify else named_path)(folder, part_key("frames", part))
        try:
            file = _PartFile(path, pq.read_metadata(path)) if path else None
        except (pa.ArrowException, OSError) as error:
            raise damaged(path or folder, error) from None
        with self._lock:
            self._files[key] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        return file

    def _places(self, part: int) -> dict[str, FramePlace]:
        """The place of each clip's frames: in the last of the folders that has them, as in a view."""
        places = self._clips.get(part)
        if places is None:
            places = self._clips.setdefault(part, self._find_places(part))
        return places

    def _find_places(self, part: int) -> dict[str, FramePlace]:
        places: dict[str, FramePlace] = {}
        for folder in self._folders:
            file = self._file(folder, part)
            if file is None:
                continue
            try:
                with pq.ParquetFile(file.path, metadata=file.metadata) as parquet:
                    names = parquet.read(columns=["clip_id"], use_threads=False)["clip_id"].to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise damaged(file.path, error) from None
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            rows = ((group, row) for group, size in enumerate(sizes) for row in range(size))
            places |= {name: FramePlace(folder, part, *at) for name, at in zip(names, rows, strict=True)}
        return places
