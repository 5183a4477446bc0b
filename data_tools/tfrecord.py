"""TFRecord files of strangers: a record is its length (uint64, little-endian), a checksum of these 8 bytes, the data, and a
checksum of the data. A checksum is CRC-32C, turned by 15 bits and moved by a constant, as TensorFlow masks it.

A length that is not what was written, or that is longer than the file or a limit, is refused before anything is read.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from m2raap.core.errors import M2raapError, UsageError

MAX_RECORD = 64 * 1024**2  # bytes of one record
_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
_MASK = 0xA282EAD8


class Record(NamedTuple):
    """`number`: from 1; `offset`: where the record begins in its file, in bytes."""

    number: int
    offset: int
    data: bytes


def masked_crc(data: bytes) -> int:
    """The checksum of bytes as TensorFlow writes it. Raises UsageError where the library for it is not installed."""
    try:
        import google_crc32c
    except ModuleNotFoundError:
        raise not_installed("google-crc32c") from None
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def not_installed(library: str) -> UsageError:
    """The error to raise where a library of the extra `youtube8m` is missing."""
    return UsageError(f"TFRecord files: {library} is not installed; pip install 'm2raap[youtube8m]'")


def write_record(sink: IO[bytes], data: bytes) -> None:
    """Appends a record."""
    length = struct.pack("<Q", len(data))
    sink.write(length + _TAIL.pack(masked_crc(length)) + data + _TAIL.pack(masked_crc(data)))


class Records:
    """The records of one file, in a `with` block: in their order, or one at an offset. Only one of them is in memory.

    Raises M2raapError naming file, number and offset of the record, for a file that is no regular file or cut, a checksum that
    is wrong, and a record of more than `max_bytes`.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_RECORD) -> None:
        self.path, self._max_bytes = path, max_bytes
        try:
            # Without O_NONBLOCK a named pipe would block here for ever; on a regular file it changes nothing.
            self._source: IO[bytes] = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        except OSError as error:  # also for a folder
            raise M2raapError(f"{path}: cannot be read ({error.strerror or error})") from None
        info = os.fstat(self._source.fileno())
        self._size = info.st_size
        if not stat.S_ISREG(info.st_mode):
            self._source.close()
            raise M2raapError(f"{path}: is no regular file; give a .tfrecord file")

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[Record]:
        offset, number = 0, 1
        self._source.seek(0)
        while offset < self._size:
            data = self._read(offset, f"record {number}")
            yield Record(number, offset, data)
            offset, number = offset + _HEAD.size + len(data) + _TAIL.size, number + 1

    def at(self, offset: int) -> bytes:
        """The data of the record that begins at `offset`."""
        self._source.seek(offset)
        return self._read(offset, "the record")

    def _read(self, offset: int, which: str) -> bytes:
        """The data of the record at `offset`, where the file has been sought to."""
        where = f"{self.path}: {which} at byte {offset:,}"
        left = self._size - offset
        if left < _HEAD.size + _TAIL.size:
            raise M2raapError(f"{where}: only {left:,} bytes are left, too few for a record; download the file again")
        head = self._bytes(_HEAD.size, where)
        length, length_crc = _HEAD.unpack(head)
        if masked_crc(head[:8]) != length_crc:
            what = "the file is no TFRecord file, or" if offset == 0 else "the file"
            raise M2raapError(f"{where}: the checksum of its length is wrong; {what} is damaged: download it again")
        if length > self._max_bytes:
            raise M2raapError(f"{where}: states {length:,} bytes, and at most {self._max_bytes:,} are read of a record")
        if length > left - _HEAD.size - _TAIL.size:
            raise M2raapError(f"{where}: states {length:,} bytes, but the file ends before; download it again")
        data = self._bytes(length, where)
        if masked_crc(data) != _TAIL.unpack(self._bytes(_TAIL.size, where))[0]:
            raise M2raapError(f"{where}: the checksum of its data is wrong; the file is damaged: download it again")
        return data

    def _bytes(self, count: int, where: str) -> bytes:
        data = self._source.read(count)
        if len(data) != count:
            raise M2raapError(f"{where}: the file has become shorter while it was read; run the command again")
        return data
