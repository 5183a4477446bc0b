"""The headers of video files are read once by a process, and again where the file changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from m2raap.core.view import View
from m2raap.stages.videos import Headers
from m2raap.video.limits import Refused, VideoConfig


@pytest.fixture
def videos(small_world: Path) -> list[Path]:
    """Two videos of different lengths."""
    rows = View(small_world / "test").corpus.all_rows("clips", ["video"])
    root = View(small_world / "test").corpus.video_root
    of_length = {path.stat().st_size: path for row in rows if (path := root / row["video"]).is_file()}
    return [path for _, path in sorted(of_length.items())][:2]


def test_a_file_is_probed_once_until_it_changes(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, headers = tmp_path / "a.mp4", Headers(VideoConfig())
    shutil.copy(videos[0], path)
    first = headers.of(path)
    with monkeypatch.context() as unread:
        unread.setattr(headers._worker, "probe", None)
        assert headers.of(path) == first
    path.unlink()
    shutil.copy(videos[1], path)
    assert headers.of(path).num_bytes == videos[1].stat().st_size != first.num_bytes
    path.unlink()
    with pytest.raises(Refused) as refused:
        headers.of(path)
    assert refused.value.reason == "missing_file"


def test_a_file_that_is_no_video_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, headers = tmp_path / "a.mp4", Headers(VideoConfig())
    path.write_bytes(b"no video at all")
    with pytest.raises(Refused) as first:
        headers.of(path)
    with monkeypatch.context() as unread:
        unread.setattr(headers._worker, "probe", None)
        with pytest.raises(Refused) as again:
            headers.of(path)
    assert (again.value.reason, again.value.detail) == (first.value.reason, first.value.detail)
