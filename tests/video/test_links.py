"""A link that is put into a path after it was judged is followed by nobody: the file that is judged is the file that is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_tools.export_csv import Csv
from data_tools.export_jsonl import DataJuicer
from data_tools.export_videofolder import VideoFolder
from data_tools.export_webdataset import WebDataset
from m2raap.core.errors import M2raapError
from m2raap.core.exports import Item
from m2raap.core.videos import VideoDigests
from m2raap.export import stills
from m2raap.video.cut import cut
from m2raap.video.ending import ending_of
from m2raap.video.health import examine_files, find_files
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import open_regular, resolve_video
from m2raap.video.worker import VideoWorker
from tests.video.bad_media.damage import CALLS

LIMITS = VideoConfig()


@pytest.fixture(scope="module")
def worker() -> Iterator[VideoWorker]:
    with VideoWorker() as worker:
        yield worker


@pytest.fixture(params=["file", "folder"])
def swapped(clips: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A path that was judged, of whose parts one has become a link to a file outside of the root since."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "a.mp4").write_bytes((clips / "plain.mp4").read_bytes())
    path = resolve_video(root, "sub/a.mp4")
    if request.param == "file":
        path.unlink()
        path.symlink_to(outside / "a.mp4")
    else:
        (root / "sub").rename(root / "before")
        (root / "sub").symlink_to(outside)
    assert path.is_file()
    return path


def test_the_decoder_does_not_follow_it(swapped: Path, worker: VideoWorker) -> None:
    for name in CALLS:
        with pytest.raises(Refused) as refusal:
            CALLS[name](worker, swapped)
        assert refusal.value.reason == "outside_root", name


@pytest.mark.parametrize(
    "read",
    [
        lambda path, out: open_regular(path, LIMITS),
        lambda path, out: ending_of(path, VideoWorker()),
        lambda path, out: cut(path, 0.0, 1.0, 0.0, out, LIMITS),
    ],
    ids=["open", "ending", "cut"],
)
def test_no_other_reader_does(swapped: Path, tmp_path: Path, read: Callable[[Path, Path], object]) -> None:
    with pytest.raises(Refused) as refusal:
        read(swapped, tmp_path / "out.mp4")
    assert refusal.value.reason == "outside_root" and not (tmp_path / "out.mp4").exists()


def test_a_file_of_a_folder_that_becomes_one_is_not_examined(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes((clips / "plain.mp4").read_bytes())
    (folder / "c.mp4").symlink_to("b.mp4")
    files, _ = find_files([folder])
    (folder / "a.mp4").unlink()
    (folder / "a.mp4").symlink_to(clips / "plain.mp4")
    rows = {Path(row["path"]).name: row["class"] for row in examine_files(files, LIMITS, 1)}
    assert rows == {"a.mp4": "outside_root", "b.mp4": "ok", "c.mp4": "ok"}


def test_it_has_no_digest(swapped: Path, tmp_path: Path) -> None:
    assert VideoDigests(tmp_path / "cache.json").of("a", swapped, LIMITS.max_bytes) == "absent"


def test_a_picture_behind_it_is_not_read(swapped: Path) -> None:
    with pytest.raises(M2raapError, match=r"a\.mp4"):
        stills._bytes(swapped)


@pytest.mark.parametrize("exporter", [Csv, DataJuicer, VideoFolder, WebDataset])
def test_no_export_copies_it(swapped: Path, tmp_path: Path, exporter: type) -> None:
    none = dict.fromkeys(("start_s", "end_s", "source", "licence", "category", "url"))
    clip = {"clip_id": "a", "video": "sub/a.mp4", "split": "train"} | none
    text = {"text_id": "a.0", "clip_id": "a", "lang": "en", "text": "x", "origin": "raw", "active": True}
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(M2raapError, match="clip 'a'"):
        exporter().write(iter([Item(clip, [text], [], swapped, ".mp4")]), out, "videos")
    assert sum(path.stat().st_size for path in out.rglob("*.mp4")) == 0


def test_a_root_below_a_link_of_the_user_works(clips: Path, tmp_path: Path, worker: VideoWorker) -> None:
    (tmp_path / "link").symlink_to(clips)
    assert worker.probe(resolve_video(tmp_path / "link", "plain.mp4")).width == 160


def test_a_file_that_is_too_large_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    path = tmp_path / "sparse.mp4"
    with open(path, "wb") as file:
        file.truncate(LIMITS.max_bytes + 1)
    monkeypatch.setattr(hashlib, "file_digest", None)
    digests = VideoDigests(tmp_path / "cache.json")
    assert digests.of("a", path, LIMITS.max_bytes) == f"too_large:{LIMITS.max_bytes + 1}"
