"""Files that were cut off at any place, in each container."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import FileHealth, examine
from m2raap.video.tails import find_tail
from tests.video.bad_media.case import Sources
from tests.video.bad_media.sources import FRAMES

LIMITS = VideoConfig()
# The length is in the header.
STATED = ["busy_fast.mp4", "busy.mp4", "busy.mkv", "busy.webm", "busy.avi", "plain.flv", "plain.wmv"]
FORMATS = {
    "busy.mp4": "mov", "fragments.mp4": "mov", "busy.mkv": "matroska", "vp9.webm": "matroska", "busy.avi": "avi",
    "plain.wmv": "asf", "sound.ogv": "ogg", "plain.flv": "flv",
}  # fmt: skip


def judged(path: Path) -> str | FileHealth:
    try:
        found = examine(path, LIMITS)
    except Refused as refusal:
        return refusal.reason
    return found.fault or found


@pytest.mark.parametrize(
    "name", [*STATED, "dash.mp4", "live.mkv", "live.flv", "busy.ts", "sound.ts", "sound.mpg", "sound.ogv"]
)
def test_a_cut_anywhere_gives_a_class_or_a_video(media_sources: Sources, tmp_path: Path, name: str) -> None:
    data = media_sources(name)
    for twentieth in range(1, 20):
        path = tmp_path / name
        path.write_bytes(data[: len(data) * twentieth // 20])
        found = judged(path)
        if isinstance(found, str):
            assert found in ("truncated", "header_missing"), twentieth
        elif name in STATED:
            assert found.frames_decoded >= 0.9 * FRAMES, twentieth


@pytest.mark.parametrize("name", FORMATS)
def test_whole_or_cut(media_sources: Sources, tmp_path: Path, name: str) -> None:
    """In containers whose elements state their sizes every cut is recognised."""
    data = media_sources(name)
    for num_bytes in {*range(len(data) // 2, len(data) - 2, max(1, len(data) // 40)), len(data) - 2}:
        path = tmp_path / name
        path.write_bytes(data[:num_bytes])
        with open(path, "rb") as file:
            tail = find_tail(file, num_bytes, FORMATS[name])
        assert tail == "cut" or (name == "fragments.mp4" and tail == "unknown"), num_bytes
    with open(media_sources.folder / name, "rb") as file:
        assert find_tail(file, len(data), FORMATS[name]) == "whole"


@pytest.mark.parametrize(
    ("name", "kind"), [("plain.ts", "mpegts"), ("plain.m2ts", "mpegts"), ("sound.mpg", "mpeg"), ("live.flv", "flv")]
)
def test_containers_that_state_no_length_are_never_whole(
    media_sources: Sources, tmp_path: Path, name: str, kind: str
) -> None:
    data = media_sources(name)
    with open(media_sources.folder / name, "rb") as file:
        assert find_tail(file, len(data), kind) == "unknown"
    path = tmp_path / name
    path.write_bytes(data[:-50])
    with open(path, "rb") as file:
        assert find_tail(file, len(data) - 50, kind) == "cut"


@pytest.mark.parametrize("kind", ["mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "another"])
def test_any_bytes(tmp_path: Path, kind: str) -> None:
    for data in (b"\0", bytes(5000), b"\xff" * 5000, b"\x1a\x45\xdf\xa3", b"RIFF", b"OggS\0", bytes(range(256)) * 40):
        (tmp_path / "x").write_bytes(data)
        with open(tmp_path / "x", "rb") as file:
            assert find_tail(file, len(data), kind) in ("whole", "cut", "unknown")
