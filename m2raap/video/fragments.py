"""Counts the frames that the fragments of an MP4 state (ISO 14496-12), whose header states none. Decodes nothing.

FFmpeg drops the frames of a fragment that states the decoding time of another one, so that only this count shows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from m2raap.video.paths import read_at

_MAX_BOXES = 1_000_000  # a file with more is not counted
_MAX_MOOF_BYTES = 16 * 1024**2


def num_fragment_frames(file: BinaryIO, num_bytes: int, track_id: int) -> int | None:
    """Number of frames of a track in all fragments; None for a file without fragments, or with damaged ones."""
    offset, total = 0, None
    for _ in range(_MAX_BOXES):
        header = read_at(file, offset, 16)
        if len(header) < 8:
            return total
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8 or (kind == b"moof" and size > _MAX_MOOF_BYTES):
            return total if size == 0 else None
        if kind == b"moof":
            total = (total or 0) + _frames_of(read_at(file, offset + 8, size - 8), track_id)
        offset += size
        if offset > num_bytes:
            return total
    return None


def _frames_of(moof: bytes, track_id: int) -> int:
    total = 0
    for kind, traf in _boxes(moof):
        if kind != b"traf":
            continue
        boxes = list(_boxes(traf))
        if any(kind == b"tfhd" and int.from_bytes(box[4:8], "big") == track_id for kind, box in boxes):
            total += sum(int.from_bytes(box[4:8], "big") for kind, box in boxes if kind == b"trun")
    return total


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of each whole box."""
    offset = 0
    while offset + 8 <= len(data):
        size = int.from_bytes(data[offset : offset + 4], "big")
        if size < 8 or offset + size > len(data):
            return
        yield data[offset + 4 : offset + 8], data[offset + 8 : offset + size]
        offset += size
