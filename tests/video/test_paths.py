from __future__ import annotations

import os
from pathlib import Path

import pytest

from m2raap.video.health import find_files
from m2raap.video.limits import Refused
from m2raap.video.paths import resolve_video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.mp4").write_bytes(b"x")
    (root / "-x 视频.mp4").write_bytes(b"x")
    (root / "empty.mp4").write_bytes(b"")
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "out_dir").symlink_to(tmp_path)
    (root / "in.mp4").symlink_to(root / "sub" / "a.mp4")
    (root / "gone_out.mp4").symlink_to(tmp_path / "not_there.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    os.mkfifo(root / "pipe.mp4")
    return root


@pytest.mark.parametrize("video", ["sub/a.mp4", "./sub/a.mp4", "in.mp4", "-x 视频.mp4"])
def test_files_below_the_root(root: Path, video: str) -> None:
    path = resolve_video(root, video)
    assert path.is_absolute() and path.read_bytes() == b"x"


def test_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert resolve_video(tmp_path / "link", "sub/a.mp4") == (root / "sub/a.mp4").resolve()


@pytest.mark.parametrize(
    ("video", "reason"),
    [
        ("../../etc/passwd", "outside_root"),
        ("sub/../../secret.mp4", "outside_root"),
        ("sub/../sub/a.mp4", "outside_root"),
        ("/etc/passwd", "outside_root"),
        ("C:\\a.mp4", "outside_root"),
        ("..\\secret.mp4", "outside_root"),
        ("\\\\host\\share\\a.mp4", "outside_root"),
        ("http://localhost/a.mp4", "outside_root"),
        ("file:///etc/passwd", "outside_root"),
        ("a\0.mp4", "outside_root"),
        ("out.mp4", "outside_root"),
        ("out_dir/secret.mp4", "outside_root"),
        ("gone_out.mp4", "outside_root"),
        ("loop.mp4", "missing_file"),
        ("nothing.mp4", "missing_file"),
        ("sub/a.mp4/b.mp4", "missing_file"),
        ("", "missing_file"),
        ("sub", "not_media"),
        ("pipe.mp4", "not_media"),
        ("empty.mp4", "empty"),
    ],
)
def test_refused(root: Path, video: str, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        resolve_video(root, video)
    assert refusal.value.reason == reason


def test_the_probe_of_a_folder_refuses_the_links_that_the_decoder_refuses(root: Path) -> None:
    files, left_out = find_files([root])
    for name in ("in.mp4", "out.mp4", "out_dir", "gone_out.mp4", "loop.mp4"):
        try:
            resolve_video(root, name)
            reason = None
        except Refused as refusal:
            reason = refusal.reason
        lines = [line for line in left_out if line.startswith(f"{root / name}: ")]
        assert (root / name in [file.path for file in files]) == (reason is None) and len(lines) == (reason is not None)
        assert [("leaves" in line) for line in lines] == [reason == "outside_root" for _ in lines]
