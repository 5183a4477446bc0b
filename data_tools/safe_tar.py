"""Reads untrusted tar archives in order: regular members only, and no name in an archive becomes a path on disk.

Python's `tarfile` is not used because it lets an archive decide how much memory its long names take. Formats: v7, ustar, GNU
long names, pax (path and size). Links, devices, pipes, sparse members, absolute paths and '..' are refused; so are more
members or bytes than `TarLimits`, and packed archives that unpack to far more than their size.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from data_tools.listing import BoundedGzip
from m2raap.core.errors import M2raapError

BLOCK = 512
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "sparse",
}
_OTHER_PACKING = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}


@dataclass(frozen=True)
class TarLimits:
    """How much one archive may hold."""

    max_members: int = 2_000_000
    max_member_bytes: int = 8 * 1024**3
    max_total_bytes: int = 512 * 1024**3
    max_name_bytes: int = 64 * 1024  # of a long name or a pax header
    max_ratio: int = 20  # unpacked bytes for each byte of a .tar.gz: videos hardly shrink


@dataclass(frozen=True)
class Member:
    """A regular file of an archive. It can be read until the next member is requested."""

    name: str
    size: int
    _stream: _Stream

    def chunks(self, size: int = 1024**2) -> Iterator[bytes]:
        """The bytes that are not read yet, at most `size` at a time."""
        while data := self._stream.read_data(size):
            yield data

    def read(self, limit: int) -> bytes:
        """The whole file. Raises M2raapError if it has more than `limit` bytes."""
        if self.size > limit:
            raise M2raapError(f"{self._stream.path}: '{self.name}' has {self.size:,} bytes, at most {limit:,} are read")
        return b"".join(self.chunks())


def read_members(path: Path, limits: TarLimits | None = None) -> Iterator[Member]:
    """The regular members of a .tar or .tar.gz, in order. Raises M2raapError naming archive and member."""
    limits = limits or TarLimits()
    if not path.is_file():
        raise M2raapError(f"{path}: no such file")
    with _opened(path, limits) as source:
        yield from _members(_Stream(path, source), limits)


@contextmanager
def _opened(path: Path, limits: TarLimits) -> Iterator[IO[bytes]]:
    with open(path, "rb") as raw:
        head = raw.read(8)
        raw.seek(0)
        packed = next((name for magic, name in _OTHER_PACKING.items() if head.startswith(magic)), None)
        if packed:
            raise M2raapError(f"{path}: is packed with {packed}; m2raap reads .tar and .tar.gz")
        if not head.startswith(b"\x1f\x8b"):
            yield raw
            return
        try:
            limit = path.stat().st_size * limits.max_ratio + 2**20
            with io.BufferedReader(BoundedGzip(raw, path, limit), 1024**2) as unzipped:
                yield unzipped
        except EOFError:
            raise M2raapError(f"{path}: the gzip file is cut short; download it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise M2raapError(f"{path}: a damaged gzip file, or none ({error}); download it again") from None


class _Stream:
    """Blocks of an archive, and how many bytes of the current member are not read yet."""

    def __init__(self, path: Path, source: IO[bytes]) -> None:
        self.path, self._source = path, source
        self._left = self._padding = 0
        self._begun = False

    def header(self) -> bytes:
        """The next header block, after the rest of the current member is skipped; b'' at the end of the file."""
        while self.read_data(1024**2):
            pass
        block = self._source.read(BLOCK)
        if block and len(block) < BLOCK:
            raise self.cut_short() if self._begun else M2raapError(f"{self.path}: is no tar archive")
        self._begun = True
        return block

    def begin(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def read_data(self, size: int) -> bytes:
        if not self._left:
            if self._padding:
                if len(self._source.read(self._padding)) < self._padding:
                    raise self.cut_short()
                self._padding = 0
            return b""
        data = self._source.read(min(size, self._left))
        if not data:
            raise self.cut_short()
        self._left -= len(data)
        return data

    def cut_short(self) -> M2raapError:
        return M2raapError(f"{self.path}: the archive is cut short; download it again")


def _members(stream: _Stream, limits: TarLimits) -> Iterator[Member]:
    path, total, number = stream.path, 0, 0
    long_name: str | None = None
    long_size: int | None = None
    while block := stream.header():
        if not any(block):
            while block := stream.header():  # an end is two empty blocks and padding
                if any(block):
                    raise M2raapError(
                        f"{path}: has data after its end (were archives joined?); unpack it and pack it again"
                    )
            return
        number += 1
        if number > limits.max_members:
            raise M2raapError(f"{path}: more than {limits.max_members:,} members")
        raw_name, size, kind = _header(path, number, block)
        if kind in (b"L", b"K", b"x", b"g"):
            if size > limits.max_name_bytes:
                raise M2raapError(
                    f"{path}: member {number}: a name of {size:,} bytes; at most {limits.max_name_bytes:,} are read"
                )
            stream.begin(size)
            data = b"".join(iter(lambda: stream.read_data(BLOCK), b""))
            if kind == b"L":
                long_name = _text(path, number, data.rstrip(b"\0"))
            elif kind == b"x":
                long_name, long_size = _pax(path, number, data, long_name)
            continue
        name = _text(path, number, raw_name) if long_name is None else long_name
        size = size if long_size is None else long_size
        long_name = long_size = None
        if kind == b"5" or (kind in (b"0", b"\0") and name.endswith("/")):
            stream.begin(size)
            continue
        if kind not in (b"0", b"\0", b"7"):
            what = _KINDS.get(kind, f"of the unknown kind {kind!r}")
            raise M2raapError(f"{path}: '{name[:100]}' is {what}; only regular files are read")
        _check_name(path, name)
        total += size
        if size > limits.max_member_bytes or total > limits.max_total_bytes:
            raise M2raapError(
                f"{path}: '{name[:100]}' announces {size:,} bytes ({total:,} with those before it), at most "
                f"{limits.max_member_bytes:,} ({limits.max_total_bytes:,}) are read"
            )
        stream.begin(size)
        yield Member(name, size, stream)


def _check_name(path: Path, name: str) -> None:
    for pure in (PurePosixPath(name), PureWindowsPath(name)):
        if pure.anchor or ".." in pure.parts:
            raise M2raapError(f"{path}: '{name[:100]}' is absolute or holds '..'; do not trust this archive")
    if not name or any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        raise M2raapError(f"{path}: {name[:100]!r} cannot be a member's name")


def _header(path: Path, number: int, block: bytes) -> tuple[bytes, int, bytes]:
    """Name, size and kind. Raises M2raapError if the block is no header."""
    stated = _octal(block[148:156])
    if stated is None or stated != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        what = "is no tar archive" if number == 1 else f"is damaged at member {number} (its checksum is wrong)"
        raise M2raapError(f"{path}: {what}")
    size = int.from_bytes(block[125:136], "big") if block[124] == 0x80 else _octal(block[124:136])
    if size is None:
        raise M2raapError(f"{path}: member {number}: its header holds no valid size; download the archive again")
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name, size, block[156:157]


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    if not text:
        return 0
    return int(text, 8) if all(48 <= byte < 56 for byte in text) else None


def _text(path: Path, number: int, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise M2raapError(f"{path}: member {number}: its name {name[:100]!r} is not UTF-8") from None


def _pax(path: Path, number: int, data: bytes, name: str | None) -> tuple[str | None, int | None]:
    """Path and size of a pax header ('LENGTH KEY=VALUE\\n' records)."""
    size: int | None = None
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        record, data = data[:length], data[length:]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if length <= len(digits) + 2 or len(record) < length or not equals or record[-1:] != b"\n":
            raise M2raapError(f"{path}: member {number}: its extended header is damaged")
        if key == b"path":
            name = _text(path, number, value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 15:
                raise M2raapError(f"{path}: member {number}: its extended header is damaged")
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise M2raapError(f"{path}: member {number} is sparse; only regular files are read")
    return name, size
