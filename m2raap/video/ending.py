"""The file extension for a copy of an untrusted video: it follows from the container's bytes, never from the file's name."""

from __future__ import annotations

from pathlib import Path

from m2raap.video.limits import Refused
from m2raap.video.paths import open_regular, read_at
from m2raap.video.sniff import refuse_by_head
from m2raap.video.worker import VideoWorker

# FFmpeg's first name for a container of the whitelist (limits.FORMATS) -> file extension.
ENDINGS = {
    "mov": ".mp4",
    "matroska": ".mkv",
    "webm": ".webm",  # FFmpeg calls it matroska
    "avi": ".avi",
    "mpegts": ".ts",
    "mpeg": ".mpg",
    "flv": ".flv",
    "ogg": ".ogv",
    "asf": ".wmv",
}
_MATROSKA, _WEBM = b"\x1a\x45\xdf\xa3", b"\x42\x82\x84webm"  # the first bytes, and the element DocType


def ending_of(path: Path, worker: VideoWorker) -> str:
    """The extension of the file at `path`, one of the values of ENDINGS. Raises Refused for a file that m2raap does not open.

    Most containers are recognised by their first bytes; `worker` probes all other files, which takes some milliseconds.
    """
    file, _ = open_regular(path, worker.cfg)
    with file:
        refuse_by_head(file)
        head = read_at(file, 0, 64)
    container = _container(head) or worker.probe(path).container
    if container not in ENDINGS:
        raise Refused("refused_format", f"m2raap does not open the container {container[:20]!r}")
    return ENDINGS[container]


def _container(head: bytes) -> str | None:
    """The container by the first bytes of a file; None where these may also begin another kind of file, or audio."""
    if head[:2] == b"\0\0" and head[4:8] == b"ftyp":
        return "mov"
    if head.startswith(_MATROSKA):
        return "webm" if _WEBM in head else "matroska"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None
