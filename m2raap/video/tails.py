"""Recognises files that were cut off: whether a file ends where its container says. Reads a few bytes and decodes nothing.

Some cuts cannot be recognised: those of an MPEG-TS or MPEG-PS between two packets, of a fragmented MP4 without `mfra` box
between two fragments, of a live Matroska (without a size in its header) between two blocks, and of an FLV without `filesize`
between two tags. The result is then `unknown`; the length in the header, or a damaged last frame, may still show the cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO, Literal

from m2raap.video.paths import read_at

Tail = Literal["whole", "cut", "unknown"]

_WINDOW_BYTES = 256 * 1024
_MAX_STEPS = 1_000_000  # elements that are read; a file with more is unknown
_UNKNOWN_RIFF_SIZE = 0xFFFFFFFF  # of a file written to a pipe
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def find_tail(file: BinaryIO, num_bytes: int, format_name: str) -> Tail:
    """Whether the file of `num_bytes` bytes is whole or cut off. `format_name`: FFmpeg's name, such as `mov,mp4,m4a`."""
    check = _CHECKS.get(format_name.split(",")[0])
    return check(file, num_bytes) if check else "unknown"


def _mp4(file: BinaryIO, num_bytes: int) -> Tail:
    """Reads the top-level boxes; in a fragmented file the `mfra` box, if any, is the last one."""
    offset, last, fragmented = 0, b"", False
    for _ in range(_MAX_STEPS):
        header = read_at(file, offset, 16)
        if len(header) < 8:
            if fragmented and (header or last == b"moof"):
                return "cut"
            return "whole" if not header and (not fragmented or last == b"mfra") else "unknown"
        size, last = int.from_bytes(header[:4], "big"), header[4:8]
        fragmented |= last == b"moof"
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8 or not last.isalnum():
            return "unknown"
        offset += size
        if offset > num_bytes:
            return "cut"
    return "unknown"


_EBML_SEGMENT, _EBML_CLUSTER = 0x18538067, 0x1F43B675


def _matroska(file: BinaryIO, num_bytes: int) -> Tail:
    """Compares the segment's size; a live recording states none, so the sizes of its clusters and blocks are read."""
    offset = 0
    for _ in range(_MAX_STEPS):
        if offset == num_bytes:
            return "unknown"  # a live recording that ends after a block, which more blocks may have followed
        header = read_at(file, offset, 12)
        id_bytes = 9 - header[0].bit_length() if header and header[0] else 9
        size_at = header[id_bytes] if len(header) > id_bytes else 0
        size_bytes = 9 - size_at.bit_length() if size_at else 9
        end = id_bytes + size_bytes
        if id_bytes > 4 or size_bytes > 8 or len(header) < end:
            return "cut" if num_bytes - offset < 12 else "unknown"
        element = int.from_bytes(header[:id_bytes], "big")
        size = int.from_bytes(header[id_bytes:end], "big") - (1 << 7 * size_bytes)
        size &= (1 << 7 * size_bytes) - 1
        if size == (1 << 7 * size_bytes) - 1:
            if element not in (_EBML_SEGMENT, _EBML_CLUSTER):
                return "unknown"
            offset += end  # the size is not stated: continue with the elements inside
            continue
        offset += end + size
        if offset > num_bytes:
            return "cut"
        if element == _EBML_SEGMENT:
            return "whole"
    return "unknown"


def _avi(file: BinaryIO, num_bytes: int) -> Tail:
    """Compares the sizes of the RIFF chunks; files over a gigabyte have several."""
    offset = 0
    while offset < num_bytes:
        header = read_at(file, offset, 12)
        size = struct.unpack("<I", header[4:8])[0] if len(header) == 12 else 0
        if header[:4] == b"RIFF" and size == _UNKNOWN_RIFF_SIZE:
            return _piped_avi(file, num_bytes, offset + 12)
        if header[:4] != b"RIFF" or size == 0:
            return "unknown"  # other bytes were appended, or the recorder did not write the size at the end
        offset += 8 + size
    return "whole" if offset == num_bytes else "cut" if offset > num_bytes + 1 else "unknown"


def _piped_avi(file: BinaryIO, num_bytes: int, offset: int) -> Tail:
    """Reads the chunks from `offset` on, of a file whose outer chunks state no size."""
    for _ in range(_MAX_STEPS):
        if offset >= num_bytes:
            return "unknown" if offset <= num_bytes + 1 else "cut"  # more chunks may have followed
        header = read_at(file, offset, 8)
        size = struct.unpack("<I", header[4:8])[0] if len(header) == 8 else 0
        is_open = header[:4] in (b"RIFF", b"LIST") and size == _UNKNOWN_RIFF_SIZE
        offset += 12 if is_open else 8 + size + size % 2
    return "unknown"


def _mpegts(file: BinaryIO, num_bytes: int) -> Tail:
    """Checks that the last packet is complete; packets have 188 bytes (192 with time code, 204 with check bytes)."""
    head = read_at(file, 0, 1024)
    for size, first in ((188, 0), (192, 4), (204, 0)):
        if all(head[i : i + 1] == b"G" for i in range(first, min(len(head), 5 * size), size)):
            return "cut" if num_bytes % size else "unknown"
    return "unknown"


def _mpeg_ps(file: BinaryIO, num_bytes: int) -> Tail:
    """Reads the packets after the last pack header; each states its length, and an end code may close the file."""
    window = read_at(file, max(0, num_bytes - _WINDOW_BYTES), _WINDOW_BYTES)
    at = window.rfind(b"\0\0\1\xba")
    if at < 0:
        return "unknown"
    while at < len(window):
        code = window[at : at + 4]
        if len(code) < 4:
            return "cut" if window[at:].strip(b"\0") else "unknown"
        if code[:3] != b"\0\0\1" or code[3] < 0xB9:
            return "unknown"  # padding or other bytes follow the last packet
        if code[3] == 0xB9:
            return "whole"
        rest = window[at + 4 : at + 14]
        if code[3] == 0xBA:
            mpeg2 = bool(rest) and rest[0] >> 6 == 1
            if len(rest) < (10 if mpeg2 else 8):
                return "cut"
            at += 14 + (rest[9] & 7) if mpeg2 else 12
        elif len(rest) < 2:
            return "cut"
        else:
            at += 6 + int.from_bytes(rest[:2], "big")
    return "cut" if at > len(window) else "unknown"


def _flv(file: BinaryIO, num_bytes: int) -> Tail:
    """Compares the size of the file in the metadata, if any, or the size that follows the last tag."""
    head = read_at(file, 0, 4096)
    at = head.find(b"filesize\0")
    if at >= 0 and len(head) >= at + 17:
        stated = struct.unpack(">d", head[at + 9 : at + 17])[0]
        if stated > num_bytes:
            return "cut"
        if stated == num_bytes:
            return "whole"
    size = int.from_bytes(read_at(file, max(0, num_bytes - 4), 4), "big")
    if not 11 <= size <= num_bytes - 13:
        return "cut"
    tag = read_at(file, num_bytes - 4 - size, 4)
    return "unknown" if tag[0] & 0x1F in (8, 9, 18) and int.from_bytes(tag[1:], "big") == size - 11 else "cut"


def _ogg(file: BinaryIO, num_bytes: int) -> Tail:
    """Checks that the last page is complete and has the end-of-stream flag."""
    window = read_at(file, max(0, num_bytes - _WINDOW_BYTES), _WINDOW_BYTES)
    at = window.rfind(b"OggS\0")
    page = window[at:] if at >= 0 else b""
    if len(page) < 27:
        return "cut"
    size = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if size != len(page):
        return "cut" if size > len(page) else "unknown"
    return "whole" if page[5] & 4 else "cut"


def _asf(file: BinaryIO, num_bytes: int) -> Tail:
    """Compares the size of the file in the header, which is 0 in a broadcast."""
    head = read_at(file, 0, 64 * 1024)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 48:
        return "cut"
    stated = int.from_bytes(head[at + 40 : at + 48], "little")
    return "unknown" if stated == 0 else "cut" if stated > num_bytes else "whole"


_CHECKS: dict[str, Callable[[BinaryIO, int], Tail]] = {
    "mov": _mp4,
    "matroska": _matroska,
    "avi": _avi,
    "mpegts": _mpegts,
    "mpeg": _mpeg_ps,
    "flv": _flv,
    "ogg": _ogg,
    "asf": _asf,
}
