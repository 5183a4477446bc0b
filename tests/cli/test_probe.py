"""`m2raap data probe`: files and folders of strangers' media, as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from m2raap.video.health import examine_files, find_files, printable
from m2raap.video.limits import VideoConfig
from tests.conftest import SHARED_DATA, m2raap
from tests.video.bad_media.case import Sources
from tests.video.bad_media.corpus import CASES, UNDECODABLE
from tests.video.bad_media.watch import Watch

FIGURES = {
    "frames_decoded": int, "frames_expected": int, "share_corrupt": float, "duration_frames_s": float, "rotation_deg": int,
    "variable_frame_rate": bool, "width": int, "height": int, "codec": str, "format": str,
}  # fmt: skip
# Links that leave the folder, that lead nowhere and that lead to folders are no files of it.
LEFT_OUT = {case.name for case in CASES if case.reason in ("outside_root", "missing_file")} | {"link_to_folder.mp4"}
LIMITED = {case.name for case in CASES if case.limits}


@pytest.fixture(scope="module")
def probed(bad_media: Path, media_sources: Sources) -> Iterator[tuple[list[dict[str, Any]], str, set[str]]]:
    """(rows, talk, canary files that were touched) of one run over the corpus of bad media."""
    watch = Watch(media_sources.canary) if Watch.supported else None
    done = m2raap("data", "probe", bad_media, "--json", "--timeout-s", 3, "--workers", 2)
    rows = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    yield rows, done.stderr, watch.touched() if watch else set()
    if watch:
        watch.close()


def name_of(row: dict[str, Any], folder: Path) -> str:
    path = os.fsdecode(bytes.fromhex(row["path_bytes"])) if "path_bytes" in row else row["path"]
    return os.path.relpath(path, folder)


def test_every_file_has_its_class(probed, bad_media: Path) -> None:
    rows, talk, touched = probed
    found = {name_of(row, bad_media): row["class"] for row in rows}
    wanted = {case.name: case.reason for case in CASES if case.name not in LEFT_OUT | LIMITED | {"folder.mp4"}}
    wanted[os.fsdecode(UNDECODABLE)] = "ok"
    assert {name: found[name] for name in wanted} == wanted
    assert found["endless.ts"] == "timeout"
    assert set(found) == set(wanted) | LIMITED
    assert touched == set()
    for name in LEFT_OUT:
        assert f"left out: {bad_media / name}: a link" in talk
    assert f"{len(rows)} files: " in talk


def test_rows_are_sorted_and_hold_the_figures(probed, bad_media: Path) -> None:
    rows, _, _ = probed
    names = [os.fsencode(name_of(row, bad_media)) for row in rows]
    assert names == sorted(names)
    for row in rows:
        assert row["class"] != "ok" or row["codec"]
        if row["codec"] is not None:
            assert all(type(row[name]) is kind for name, kind in FIGURES.items()), row
            assert 0 <= row["share_corrupt"] <= 1 and row["frames_decoded"] >= 0
        else:
            assert all(row[name] is None for name in FIGURES), row
    by_name = {name_of(row, bad_media): row for row in rows}
    turned = by_name["turned_90.mp4"]
    assert (turned["rotation_deg"], turned["width"], turned["height"]) == (90, 48, 64)
    cut = by_name["mdat_cut_50.mp4"]
    assert 10 < cut["frames_decoded"] < 40 and cut["frames_expected"] == 50 and cut["duration_header_s"] == 2.0
    assert by_name["flip_1_in_40.mp4"]["share_corrupt"] > 0.2
    assert by_name["variable.mp4"]["variable_frame_rate"] and not by_name["plain.mp4"]["variable_frame_rate"]
    assert by_name["live.mkv"]["duration_header_s"] is None
    assert by_name[os.fsdecode(UNDECODABLE)]["path"].endswith(r"not \xff\xfe utf-8.mp4")


def test_the_table_is_one_line_a_file(media_sources: Sources, tmp_path: Path) -> None:
    for name in ("new\nline.mp4", "\x1b[31mred.mp4"):
        (tmp_path / name).write_bytes(media_sources("one_frame.mp4"))
    (tmp_path / "cut.mkv").write_bytes(media_sources("plain.mkv")[:2500])
    done = m2raap("data", "probe", tmp_path, tmp_path / "cut.mkv")
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and "\x1b" not in done.stdout
    assert lines[0].startswith(
        f"ok                {tmp_path}/\ufffd[31mred.mp4  (1/1 frames, 0.04 s, 64x48 h264 in mov)"
    )
    assert lines[1].startswith("truncated") and lines[1] == lines[3]
    assert "new\ufffdline.mp4" in lines[2]


def test_exit_codes(media_sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "-i.mp4").write_bytes(media_sources("one_frame.mp4"))
    (tmp_path / "bad.mp4").write_bytes(b"{}")
    (tmp_path / "nothing").mkdir()
    (row,) = json.loads(m2raap("data", "probe", "--json", "--", "-i.mp4", cwd=tmp_path).stdout)
    assert (row["path"], row["class"]) == ("-i.mp4", "ok")
    done = m2raap("data", "probe", ".", "--allow-refused", "40%", cwd=tmp_path, check=3)
    assert "1 of 2 files are not ok, more than --allow-refused 40%" in done.stderr and "not_media" in done.stdout
    assert m2raap("data", "probe", "nothing", "--json", cwd=tmp_path).stdout.strip() == "[]"
    for path in ("gone.mp4", "gone\n\udcff.mp4"):
        done = m2raap("data", "probe", "nothing", path, cwd=tmp_path, check=1)
        assert "No such file or directory; name a file or a folder" in done.stderr and not done.stdout
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_walk_stays_in_the_folder_and_ends(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for path in (root / "b" / "1.mp4", root / "a.mp4", root / "a" / "2.mp4", other / "3.mp4"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "loop").symlink_to(root / "b" / "loop")
    (root / "b" / "other").symlink_to(other)
    (root / "b" / "other.mp4").symlink_to(other / "3.mp4")
    (root / "b" / "same.mp4").symlink_to("../a.mp4")
    found, left_out = find_files([root])
    assert [str(path.relative_to(root)) for path, _ in found] == ["a/2.mp4", "a.mp4", "b/1.mp4", "b/same.mp4"]
    assert len(left_out) == 4
    # What the user names is followed.
    (tmp_path / "link").symlink_to(other)
    real = other / "3.mp4"
    assert find_files([tmp_path / "link", root / "b" / "other.mp4"])[0] == [
        (tmp_path / "link" / "3.mp4", real),
        (root / "b" / "other.mp4", real),
    ]


def test_the_same_rows_from_one_worker_or_three(media_sources: Sources, tmp_path: Path) -> None:
    for name in ("plain.mp4", "busy.ts", "x.png", "vp9.webm", "tone.mkv", "busy.mkv", "odd.mp4"):
        shutil.copy(media_sources.folder / name, tmp_path / name)
    files, _ = find_files([tmp_path])
    assert list(examine_files(files, VideoConfig(), 1)) == list(examine_files(files, VideoConfig(), 3))


def test_printable() -> None:
    assert printable(Path("视频 a.mp4")) == "视频 a.mp4"
    assert printable(Path(os.fsdecode(b"\xff.mp4"))) == r"\xff.mp4"


def test_real_clips_are_all_sound() -> None:
    videos = SHARED_DATA / "panda70m" / "videos"
    if not videos.is_dir():
        pytest.skip(f"the real clips are not at {videos}")
    files = find_files([videos])[0][::40]
    for row in examine_files(files, VideoConfig(), 2):
        assert row["class"] == "ok" and row["frames_decoded"] == row["frames_expected"] and not row["share_corrupt"], (
            row
        )
