"""Seeded damage to a video file, and every call of the decoder's process: what the tests and bench/fuzz_media.py try on it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

from m2raap.video.extract import KeyframeConfig
from m2raap.video.worker import VideoWorker

FILES = (
    "plain.mp4", "fragments.mp4", "dash.mp4", "edit_list.mp4", "sound.mp4", "plain.mkv", "live.mkv", "vp9.webm", "av1.mp4",
    "h264.avi", "plain.avi", "mjpeg.avi", "busy.ts", "plain.m2ts", "sound.mpg", "sound.ogv", "plain.flv", "plain.wmv",
)  # fmt: skip
_HEAD_BYTES = 600
_EXTREMES = (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\1\0\0\0", b"\xff\xff\xff\x7f")
# Names of the parts of MP4, AVI and Matroska files whose fields hold times, rates, sizes, counts and offsets.
_FIELDS = (
    b"mvhd", b"tkhd", b"mdhd", b"stts", b"ctts", b"stsz", b"stsc", b"stco", b"stss", b"elst", b"mehd", b"trex", b"tfhd",
    b"tfdt", b"trun", b"sidx", b"mfro", b"tfra", b"avc1", b"avcC", b"pasp", b"avih", b"strh", b"strf", b"idx1",
    b"\x2a\xd7\xb1", b"\x44\x89", b"\x23\xe3\x83", b"\xe0", b"\xe7", b"\x1c\x53\xbb\x6b", b"\x1f\x43\xb6\x75",
)  # fmt: skip

Call = Callable[[VideoWorker, Path], object]
_FULL = KeyframeConfig(k=3)
_SPARSE = KeyframeConfig(k=3, reading="sparse")
_IFRAMES = KeyframeConfig(k=3, reading="sparse", strategy="iframe")
_PLACES = (0.1, 0.5, 0.9)
CALLS: dict[str, Call] = {
    "probe": lambda worker, path: worker.probe(path),
    "examine": lambda worker, path: worker.examine(path),
    "extract": lambda worker, path: worker.extract(path, 0.0, None, _FULL),
    "extract from 0.7 s": lambda worker, path: worker.extract(path, 0.7, None, _FULL),
    "extract from 0.4 s to 1.1 s": lambda worker, path: worker.extract(path, 0.4, 1.1, _FULL),
    "extract with cuts": lambda worker, path: worker.extract(path, 0.0, 1.5, _FULL, [0.5, 1.0]),
    "extract sparsely": lambda worker, path: worker.extract(path, 0.0, None, _SPARSE),
    "extract sparsely from 0.7 s": lambda worker, path: worker.extract(path, 0.7, 1.6, _SPARSE),
    "extract I-frames": lambda worker, path: worker.extract(path, 0.2, None, _IFRAMES),
    "sample": lambda worker, path: worker.sample(path, 0.0, None, _PLACES, 32),
    "sample from 0.7 s": lambda worker, path: worker.sample(path, 0.7, 1.9, _PLACES, 32),
    "scenes": lambda worker, path: worker.scenes(path, "adaptive", 0.3),
    "scenes without detector": lambda worker, path: worker.scenes(path, "none", 0.3),
    "thumbnails": lambda worker, path: list(worker.thumbnails(path, 0.0, None)),
    "thumbnails from 0.7 s": lambda worker, path: list(worker.thumbnails(path, 0.7, 1.4)),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with bytes overwritten, cut out and put in, half of the time in the fields of headers and tables."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 10, 100))):
        how = rng.random()
        if how < 0.5:
            _change_field(out, rng)
            continue
        at = rng.randrange(len(out) if rng.random() < 0.5 else min(len(out), _HEAD_BYTES))
        if how < 0.7:
            out[at] = rng.randrange(256)
        elif how < 0.85:
            out[at : at + 4] = rng.choice(_EXTREMES)
        elif how < 0.95:
            del out[at : at + rng.randrange(1, 200)]
        else:
            out[at:at] = out[at : at + rng.randrange(1, 100)]
        if len(out) < 16:
            break
    return bytes(out)


def _change_field(out: bytearray, rng: random.Random) -> None:
    """Overwrites a number of 4 or 8 bytes within 64 bytes of the name of a header or table."""
    present = [name for name in _FIELDS if name in out]
    name = rng.choice(present) if present else b""
    places, at = [], out.find(name)
    while at >= 0 and len(places) < 50:
        places.append(at)
        at = out.find(name, at + 1)
    at = rng.choice(places) + len(name) + rng.randrange(0, 64, rng.choice((1, 4, 4)))
    value = rng.choice(_EXTREMES)
    if rng.random() < 0.4:
        value = struct.pack(rng.choice(("<I", ">I")), rng.choice((2, 3, 7, 1000, 90_000, 1 << 24, 0xFFFFFFFE)))
    value *= rng.choice((1, 1, 2))
    if at + len(value) <= len(out):
        out[at : at + len(value)] = value
