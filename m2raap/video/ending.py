"""How a copy of a stranger's video is called: by the container that is found in it, never by the name that it came with."""

from __future__ import annotations

from pathlib import Path

from m2raap.video.limits import Refused
from m2raap.video.paths import open_regular, read_at
from m2raap.video.sniff import refuse_by_head
from m2raap.video.worker import VideoWorker

# By FFmpeg's first name of a container of the whitelist (limits.FORMATS).
ENDINGS = {
    "mov": ".mp4",
    "matroska": ".mkv",
    "webm": ".webm",  # FFmpeg says matroska
    "avi": ".avi",
    "mpegts": ".ts",
    "mpeg": ".mpg",
    "flv": ".flv",
    "ogg": ".ogv",
    "asf": ".wmv",
}
_MATROSKA, _WEBM = b"\x1a\x45\xdf\xa3", b"\x42\x82\x84webm"  # the magic, and the element that states the kind


def ending_of(path: Path, worker: VideoWorker) -> str:
    """One of ENDINGS. Raises Refused for what is no video that we would open.

    A beginning that leaves no doubt of the container is enough; `worker` looks into all else, which takes some milliseconds.
    """
    file, _ = open_regular(path, worker.cfg)
    with file:
        refuse_by_head(file)
        head = read_at(file, 0, 64)
    container = _container(head) or worker.probe(path).container
    if container not in ENDINGS:
        raise Refused("refused_format", f"a container that we do not open: {container[:20]!r}")
    return ENDINGS[container]


def _container(head: bytes) -> str | None:
    """None where text, or what else begins as it likes, could begin so, too, or where it may well be sound alone."""
    if head[:2] == b"\0\0" and head[4:8] == b"ftyp":
        return "mov"
    if head.startswith(_MATROSKA):
        return "webm" if _WEBM in head else "matroska"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None
