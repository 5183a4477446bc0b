"""Bytes of containers: where their parts lie, and how to break them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """(kind, start, end) of the MP4 boxes in data[start:end]."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        size = struct.unpack(">Q", data[start + 8 : start + 16])[0] if size == 1 else size
        assert size >= 8
        yield kind.decode("latin-1"), start, start + size
        start += size


def box(data: bytes, *path: str) -> tuple[int, int]:
    """(start, end) of the first box at `path`, such as 'moov', 'mvhd'."""
    start, end = 0, len(data)
    for kind in path:
        start, end = next((a, b) for k, a, b in boxes(data, start, end) if k == kind)
        found = start, end
        start += {"stsd": 16, "dref": 16}.get(kind, 8)
    return found


def renamed(data: bytes, kind: bytes, new: bytes) -> bytes:
    assert len(kind) == len(new) and kind in data
    return data.replace(kind, new)


def patched(data: bytes, at: int, new: bytes) -> bytes:
    assert at >= 0 and at + len(new) <= len(data)
    return data[:at] + new + data[at + len(new) :]


def flipped(data: bytes, start: int, end: int, every: int, seed: int = 0) -> bytes:
    """One bit flipped in about one of `every` bytes of data[start:end]."""
    rng, out = random.Random(seed), bytearray(data)
    for _ in range(max(1, (end - start) // every)):
        out[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(out)


def flipped_samples(mp4: bytes, every: int) -> bytes:
    start, end = box(mp4, "mdat")
    return flipped(mp4, start + 8, end, every)


def ebml(data: bytes, ident: bytes) -> int:
    """Offset of the first Matroska element with this id."""
    return data.index(ident)


CLUSTER, TRACKS, DURATION = b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\x44\x89\x88"


def clusters(mkv: bytes) -> list[int]:
    found, at = [], mkv.find(CLUSTER)
    while at >= 0:
        found.append(at)
        at = mkv.find(CLUSTER, at + 4)
    return found


def ts_packets(data: bytes) -> list[bytes]:
    assert len(data) % 188 == 0
    return [data[i : i + 188] for i in range(0, len(data), 188)]


def ts_pid(packet: bytes) -> int:
    return (packet[1] & 0x1F) << 8 | packet[2]


def h264_of_size(data: bytes, sps_at: int, macroblocks_wide: int, macroblocks_high: int) -> bytes:
    """A file whose H.264 sequence headers, all equal to that at `sps_at`, state another size. No byte moves."""
    end = min(at for at in (data.find(b"\0\0\1", sps_at), data.find(b"\1\0", sps_at + 4)) if at > 0)
    old = data[sps_at:end]

    def golomb(value: int) -> str:
        code = bin(value + 1)[2:]
        return "0" * (len(code) - 1) + code

    # sps id, log2 frame num - 4, order type 2, references, no gaps, width, height, frames only, direct 8x8, no cropping, no vui
    fields = (
        "".join(golomb(v) for v in (0, 0, 2, 1)) + "0" + golomb(macroblocks_wide - 1) + golomb(macroblocks_high - 1)
    )
    bits = fields + "1" + "1" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    new = bytes([0x67, 66, 0xC0, 62]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
    assert len(new) <= len(old)
    return data.replace(old, new.ljust(len(old), b"\0"))
