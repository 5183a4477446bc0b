"""Digests of videos: a file is read once by a process, although the clips of a video lie in many parts."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from m2raap.core.videos import VideoDigests

MAX_BYTES = 1000


def test_many_clips_of_a_video_ask_once(tmp_path: Path) -> None:
    videos, answers = VideoDigests(tmp_path / "cache.json"), iter(["first", "second"])
    assert [videos.once(name, lambda: next(answers)) for name in ("a", "a", "b", "a")] == [
        "first",
        "first",
        "second",
        "first",
    ]


def test_a_file_is_read_once_for_all_parts_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    first, other = (VideoDigests(tmp_path / f"{part}.json") for part in range(2))
    digest = first.of("a.mp4", path, MAX_BYTES)
    with monkeypatch.context() as unread:
        unread.setattr(hashlib, "file_digest", None)
        assert other.of("a.mp4", path, MAX_BYTES) == digest
    for videos in (first, other):
        videos.save()
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert VideoDigests(tmp_path / "2.json").of("a.mp4", path, MAX_BYTES) != digest
