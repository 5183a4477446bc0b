from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from m2raap.cli.main import app
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.frames import FrameReader
from m2raap.core.runner import run_data_stage
from m2raap.core.tables import FRAMES_A_GROUP
from m2raap.core.view import View, open_view
from m2raap.search.backend import ClipFilter, NotThere
from m2raap.search.clip_vectors import ClipEncoder
from m2raap.search.index import make_index
from m2raap.search.search import Search
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.video.picture import DecodedPicture, decode_picture
from tests.conftest import sign_again
from tests.search.world import TINY, index_of, rows, view_of, write_video
from tests.stages.pictures import COLOURS, draw


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return index_of(tmp_path_factory.mktemp("search"), rows(8))


@pytest.fixture(scope="module")
def search(folder: Path) -> Search:
    return Search(folder)


def colour(hit: dict) -> str:
    return list(COLOURS)[int(hit["clip_id"][1:]) % 4]


@pytest.mark.parametrize(
    ("query", "expected_colour"), [("a red circle", "red"), ("绿色的圆形", "green"), ("  a yellow circle\n", "yellow")]
)
def test_text_in_either_language(search: Search, query: str, expected_colour: str) -> None:
    hits = search.by_text(query, 2)
    assert [(colour(hit), hit["rank"]) for hit in hits] == [(expected_colour, 1), (expected_colour, 2)]
    assert hits[0]["score"] >= hits[1]["score"]
    assert {caption["lang"] for caption in hits[0]["captions"]} == {"en", "zh"}


def test_frames_come_best_first_at_the_videos_times(search: Search) -> None:
    (hit,) = [hit for hit in search.by_text("a blue circle", 8) if hit["clip_id"] == "c1"]
    scores = [frame["score"] for frame in hit["frames"]]
    assert scores == sorted(scores, reverse=True) and {frame["n"] for frame in hit["frames"]} == {0, 1, 2}
    assert {frame["n"]: frame["time_s"] for frame in hit["frames"]} == {0: 0.5, 1: 1.5, 2: 2.5}
    row = search.gallery.row_of["c1"]
    encoder = ClipEncoder(search.gallery.sources.model)
    query_E = encoder.texts(["a blue circle"])[0]
    vector_E, frames_KE = encoder.clips([search.jpegs("c1")])[0]
    assert np.allclose(sorted(frames_KE @ query_E, reverse=True), scores, atol=2e-3)
    assert np.array_equal(vector_E, search.gallery.vectors_NE[row])


def test_a_text_does_not_wait_for_a_picture(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, answered = threading.Event(), threading.Event()

    class SlowWorker:
        def picture(self, data: bytes, name: str) -> DecodedPicture:
            begun.set()
            assert answered.wait(60)
            return decode_picture(data)

    monkeypatch.setattr("m2raap.search.search.video_worker", lambda limits: SlowWorker())
    with ThreadPoolExecutor(1) as pool:
        by_picture = pool.submit(search.by_picture, draw("blue"), "blue.jpg", 1)
        assert begun.wait(60)
        assert colour(search.by_text("a blue circle", 1)[0]) == "blue"
        answered.set()
        assert colour(by_picture.result()[0]) == "blue"


def test_a_picture_that_takes_long_is_refused(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """A progressive JPEG of 150 kB with 2,000 empty scans decodes for 40 s; the size of a picture is in its header."""
    sound = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(sound, "JPEG", progressive=True)
    data = sound.getvalue()
    last_scan = data.rindex(b"\xff\xda")
    hostile = data[:-2] + data[last_scan:-2] * 2000 + data[-2:]
    monkeypatch.setattr("m2raap.search.search.PICTURE_S", 0.5)
    with pytest.raises(M2raapError, match=r"scans\.jpg.*0\.5 s"):
        search.by_picture(hostile, "scans.jpg", 1)
    too_large = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(too_large, "PNG")
    with pytest.raises(M2raapError, match="10000 x 6000"):
        search.by_picture(too_large.getvalue(), "wide.png", 1)


def test_one_request_for_key_frames_reads_one_group_of_them(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a large corpus has hundreds of megabytes."""
    read = []
    monkeypatch.setattr(
        FrameReader, "_read", lambda *args, _read=FrameReader._read: read.append(args[1:3]) or _read(*args)
    )
    fresh = Search(search.gallery.path)
    for _ in range(3):
        assert len(fresh.jpegs("c1")) == 3
    assert len(read) == 1
    assert pq.ParquetFile(read[0][0]).metadata.row_group(read[0][1]).num_rows <= FRAMES_A_GROUP


def test_pictures_and_likeness(search: Search) -> None:
    assert colour(search.by_picture(draw("blue"), "blue.jpg", 1)[0]) == "blue"
    with pytest.raises(M2raapError, match="note.txt: .*JPEG, PNG, WEBP"):
        search.by_picture(b"GIF89a no picture", "note.txt", 1)
    hits = search.like("c2", 7)
    assert hits[0]["clip_id"] == "c6" and len(hits) == 7 and "c2" not in {hit["clip_id"] for hit in hits}
    with pytest.raises(NotThere, match="'c99'"):
        search.like("c99", 3)


def test_filters(search: Search) -> None:
    hits = search.by_text("a red circle", 8, ClipFilter(source="b"))
    assert {hit["clip_id"] for hit in hits} == {"c1", "c3", "c5", "c7"}
    assert [hit["clip_id"] for hit in search.by_text("red", 8, ClipFilter(min_s=1.4, max_s=1.6))] == ["c5"]
    assert {hit["clip_id"] for hit in search.like("c5", 8, ClipFilter(max_s=1.75))} == {"c1", "c3", "c7"}
    assert search.by_text("red", 8, ClipFilter(min_s=60)) == []
    with pytest.raises(M2raapError, match="--source c: .* a, b"):
        search.by_text("red", 8, ClipFilter(source="c"))


def test_bad_queries(search: Search) -> None:
    for query, message in (("  ", "the query is empty"), ("x" * 501, "501 .* 500")):
        with pytest.raises(M2raapError, match=message):
            search.by_text(query, 5)
    for too_many in (lambda: search.by_text("red", 201), lambda: search.like("c0", 201)):
        with pytest.raises(M2raapError, match="--top 201: .* 200"):
            too_many()
    assert len(search.like("c0", 200)) == 7


def test_files_that_left(search: Search, folder: Path) -> None:
    with pytest.raises(NotThere, match=r"'c0': .*missing_file"):
        search.video("c0")
    part = next((folder.parent / "keyframes" / "frames").iterdir())
    kept = part.read_bytes()
    part.unlink()
    fresh = Search(folder)
    try:
        without_frames = [row["clip_id"] for row in rows(8) if not _has_frames(fresh, row["clip_id"])]
        assert without_frames
    finally:
        part.write_bytes(kept)


def _has_frames(search: Search, clip_id: str) -> bool:
    try:
        return bool(search.jpegs(clip_id))
    except NotThere:
        return False


def test_another_model_is_refused(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(2))
    sign_again(folder, models={"model": "0" * 32})
    with pytest.raises(M2raapError, match="index: .*000000000000"):
        Search(folder).by_text("red", 1)
    assert Search(folder).like("c0", 1)[0]["clip_id"] == "c1", "likeness needs no model"


def test_a_video_is_too_many_with_through_the_decoders_process(tmp_path: Path) -> None:
    clips = [row | {"start_s": None, "end_s": None} for row in rows(4)]
    view_of(tmp_path, clips)
    for name in COLOURS:
        write_video(tmp_path / "videos" / f"{name}.mp4", name)
    stage = KeyframesStage(KeyframesConfig(k=2, short_side_px=96))
    assert run_data_stage(stage, View(tmp_path / "corpus"), tmp_path / "real", LocalEngine(1))
    make_index(tmp_path / "index", open_view(tmp_path / "real"), TINY)
    search = Search(tmp_path / "index")
    assert search.clip("c0")["duration_s"] == pytest.approx(3.0)
    assert search.by_video(tmp_path / "videos" / "blue.mp4", 1)[0]["clip_id"] == "c1"
    (tmp_path / "list.mp4").write_text("#EXTM3U\nhttp://127.0.0.1/secret\n")
    with pytest.raises(M2raapError, match="list.mp4: "):
        search.by_video(tmp_path / "list.mp4", 1)


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    words = ["search", "query", str(folder), "红色的圆形", "--top", "2", "--frames", str(tmp_path / "f"), "--json"]
    tree = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert [colour(hit) for hit in tree["hits"]] == ["red", "red"] and len(tree["model"]) == 32
    assert all(Path(frame["path"]).read_bytes()[:2] == b"\xff\xd8" for hit in tree["hits"] for frame in hit["frames"])
    assert tree["hits"][0]["video_path"] is None, "the videos are not there"
    part = Path(tree["hits"][0]["frames_part"])
    (row,) = [row for row in pq.read_table(part).to_pylist() if row["clip_id"] == tree["hits"][0]["clip_id"]]
    (best, *_) = tree["hits"][0]["frames"]
    assert Path(best["path"]).read_bytes() == row["jpegs"][best["n"]] and tree["hits"][0]["width"] == row["width"]
    words = ["search", "query", str(folder), "--like", "c0", "--top", "1"]
    (folder.parent / "videos" / "red.mp4").write_bytes(b"no video, but there")
    try:
        printed = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    finally:
        (folder.parent / "videos" / "red.mp4").unlink()
    assert f"video: {folder.parent / 'videos' / 'red.mp4'}, 0.00 s to its end, best frame at " in printed
    assert " s; in " in printed and "keyframes/frames/part-0000" in printed and "zh: 红色的圆形" in printed
    with_files = CliRunner().invoke(app, [*words, "--frames", str(tmp_path / "g")], catch_exceptions=False).stdout
    assert f"key-frames, best first: {tmp_path}/g/001-" in with_files and "part-0000" not in with_files
    assert CliRunner().invoke(app, ["search", "query", str(folder), "red", "--like", "c0"]).exit_code != 0
