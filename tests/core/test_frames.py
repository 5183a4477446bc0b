"""Pictures of single clips, read by many threads with little memory, are those of their part; where all fit into memory, each
is read once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2raap.core.errors import M2raapError
from m2raap.core.frames import FrameReader
from m2raap.core.tables import FRAMES_A_GROUP, part_name, read_part, write_part

NUM = 5 * FRAMES_A_GROUP + 3


def jpegs(clip: int, salt: bytes = b"") -> list[bytes]:
    return [salt + bytes([clip, frame]) * 500 for frame in range(3)]


def row(clip: int, salt: bytes = b"") -> dict:
    return {"clip_id": f"c{clip:03d}", "times_s": [0.0, 1.0, 2.0], "jpegs": jpegs(clip, salt)}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for part in range(2):
        write_part(tmp_path / "a", "frames", part, [row(clip) for clip in range(part, NUM, 2)])
    write_part(tmp_path / "b", "frames", 0, [row(4, b"new")])
    return [tmp_path / "a", tmp_path / "none", tmp_path / "b"]


@pytest.mark.parametrize("held_bytes", [1, 20_000, 10**9])
def test_many_threads_read_what_the_parts_hold(folders: list[Path], held_bytes: int) -> None:
    reader = FrameReader(folders, held_bytes)
    clips = np.random.default_rng(0).integers(0, NUM, 600)
    with ThreadPoolExecutor(8) as pool:
        jpegs_read = list(pool.map(lambda clip: reader.jpegs(clip % 2, f"c{clip:03d}"), clips.tolist()))
    assert all(
        one == jpegs(clip, b"new" if clip == 4 else b"") for clip, one in zip(clips.tolist(), jpegs_read, strict=True)
    )
    largest_group = FRAMES_A_GROUP * 3 * 1010  # bytes; a picture has 1,000
    assert 0 < reader.kept_bytes <= max(held_bytes, largest_group)


def test_what_fits_is_read_once_and_a_group_at_a_time(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, read = FrameReader(folders, 10**9), []
    read_row_group = pq.ParquetFile.read_row_group

    def record(file: pq.ParquetFile, group: int, columns: list[str], **options: bool) -> pa.Table:
        if "jpegs" in columns:
            read.append((file.metadata.num_rows, group))  # the three parts hold 22, 21 and 1 clips
        return read_row_group(file, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", record)
    for _ in range(2):
        for clip in range(NUM):
            reader.jpegs(clip % 2, f"c{clip:03d}")
    assert len(read) == len(set(read)) == 7  # 22 and 21 clips in groups of 8, and the one that came later
    assert len(read_part(folders[0], "frames", 0)) == 22


def test_a_damaged_picture_is_named_without_reading_the_whole_part(folders: list[Path]) -> None:
    path = folders[0] / "frames" / part_name(1)
    data = bytearray(path.read_bytes())
    data[data.index(bytes([17, 0]) * 500) + 77] ^= 1  # a picture of clip 17
    path.write_bytes(data)
    reader = FrameReader(folders, 10**6, verify=False)
    assert reader.jpegs(1, "c001") == jpegs(1), "another group"
    with pytest.raises(M2raapError, match=r"part-00001"):
        reader.jpegs(1, "c017")


def test_a_damaged_part_is_named(folders: list[Path]) -> None:
    path = folders[0] / "frames" / part_name(1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(M2raapError, match=r"part-00001.*cannot be read as parquet"):
        FrameReader(folders, 1).jpegs(1, "c001")
