from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from m2raap.cli.main import app
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_json
from m2raap.core.lock import locked
from m2raap.core.tables import write_table
from m2raap.core.view import open_view
from m2raap.export.forget import forget
from m2raap.export.leftovers import forgotten_hashes, leftovers
from m2raap.models.config import BackboneConfig
from m2raap.pipeline.inspect import check
from m2raap.search import index as index_stage
from m2raap.search import index_parts
from m2raap.search.gallery import CLIPS, Gallery, Sources
from m2raap.search.index import make_index
from m2raap.search.index_rows import refuse_bad_rows
from tests.conftest import as_another_command, digests, sign_again
from tests.search.world import TINY, index_of, rows, view_of


def files(folder: Path) -> dict[str, str]:
    return digests(folder)


def ids(folder: Path) -> set[str]:
    return set(Gallery.open(folder).row_of)


def test_an_index_that_was_added_to_equals_one_made_at_once(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(6))
    assert [row["state"] for row in check(folder)] == ["ok"]
    once = files(folder)
    assert make_index(folder, view_of(tmp_path, rows(6)), TINY)["kept"] == 6 and files(folder) == once
    view = view_of(tmp_path, rows(8))
    with pytest.raises(M2raapError, match="--add"):
        make_index(folder, view, TINY)
    counts = make_index(folder, view, None, add=True)
    assert (counts["clips"], counts["embedded"], counts["kept"]) == (8, 2, 6)
    grown = files(folder)
    make_index(tmp_path / "index2", view, TINY)
    assert grown == files(tmp_path / "index2")
    gallery = Gallery.open(folder)
    assert gallery.langs == ("en", "zh") and gallery.vectors_NE.shape == (8, 128)
    clip = gallery.clip(gallery.row_of["c1"])
    assert clip["duration_s"] == pytest.approx(1.1) and (clip["width"], clip["height"]) == (96, 96)


def test_changed_frames_are_embedded_again_and_clips_that_left_the_view_are_removed(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(4))
    changed = rows(4)[1:]
    changed[0]["colour"] = "yellow"
    counts = make_index(folder, view_of(tmp_path, changed), None, add=True)
    assert (counts["clips"], counts["embedded"], counts["kept"]) == (3, 1, 2) and ids(folder) == {"c1", "c2", "c3"}


def test_removed_clips_stay_out(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(6))
    with pytest.raises(M2raapError, match="1 of 2 .*'nobody'"):
        make_index(folder, None, None, remove={"c1", "nobody"})
    assert make_index(folder, None, None, remove={"c1", "c4"})["removed"] == 2
    assert ids(folder) == {"c0", "c2", "c3", "c5"} and [row["state"] for row in check(folder)] == ["ok"]
    without = view_of(tmp_path / "b", [row for row in rows(6) if row["clip_id"] not in ("c1", "c4")])
    make_index(tmp_path / "b" / "index", without, TINY)
    for name in ("vectors.npy", "frames.npy", "index.faiss"):
        assert files(folder)[name] == files(tmp_path / "b" / "index")[name]
    counts = make_index(folder, view_of(tmp_path, rows(7)), None, add=True)
    assert (counts["clips"], counts["embedded"], counts["removed_before"]) == (5, 1, 2)
    with pytest.raises(M2raapError, match=f"{folder}: "):
        make_index(folder, None, None, remove=ids(folder))
    assert len(ids(folder)) == 5, "a refused command changes nothing"


def test_ids_of_a_view_that_is_being_added_can_be_removed(tmp_path: Path) -> None:
    folder, view = index_of(tmp_path, rows(3)), view_of(tmp_path, rows(6))
    with pytest.raises(M2raapError, match="1 of 3 .*'c9'"):
        make_index(folder, view, None, add=True, remove={"c0", "c5", "c9"})
    counts = make_index(folder, view, None, add=True, remove={"c0", "c5"})
    assert ids(folder) == {"c1", "c2", "c3", "c4"}
    assert [counts[name] for name in ("removed", "removed_before", "kept", "embedded")] == [2, 0, 2, 2]
    again = make_index(folder, view, None, add=True, remove={"c5", "c4"})
    assert ids(folder) == {"c1", "c2", "c3"} and (again["removed"], again["removed_before"]) == (1, 2)


def test_two_corpora_in_one_index(tmp_path: Path) -> None:
    folder = index_of(tmp_path / "a", rows(3))
    counts = make_index(folder, view_of(tmp_path / "b", rows(4, first=2)), None, add=True)
    assert (counts["clips"], counts["embedded"], counts["elsewhere"]) == (6, 3, 1)
    gallery = Gallery.open(folder)
    assert [gallery.clip(gallery.row_of[f"c{n}"])["view"] for n in range(6)] == [0, 0, 0, 1, 1, 1]
    assert gallery.sources.views[1].corpus.video_root == tmp_path / "b" / "videos"


def test_killed_anywhere_it_resumes(tmp_path: Path, monkeypatch) -> None:
    whole = files(index_of(tmp_path, rows(6)))
    folder, view = tmp_path / "index", view_of(tmp_path, rows(6))
    shutil.rmtree(folder)
    real = index_parts.vectors_of_rows
    calls: list[int] = []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(index_parts, "vectors_of_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_index(folder, view, TINY)
    with pytest.raises(M2raapError, match=f"{folder}: .*unfinished"):
        Gallery.open(folder)

    def is_killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_stage, "finish", is_killed)
        with pytest.raises(KeyboardInterrupt):
            make_index(folder, view, TINY)
    assert len(calls) == 3, "the part that was finished is not embedded again"
    assert make_index(folder, view, TINY)["kept"] == 6
    calls[:] = [1] * 8  # it is not interrupted again
    more = view_of(tmp_path, rows(9))
    with monkeypatch.context() as patch:
        patch.setattr(index_stage, "assemble", is_killed)
        with pytest.raises(KeyboardInterrupt):
            make_index(folder, more, None, add=True)
    resumed = make_index(folder, more, None, add=True)
    assert (resumed["kept"], resumed["embedded"], len(calls)) == (6, 3, 10), "the counts of the killed run are kept"
    make_index(folder, view_of(tmp_path, rows(6)), None, add=True)
    assert files(folder) == whole and not (folder / "next").exists() and not (folder / "scratch").exists()


def test_another_model_or_a_changed_file_is_refused(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(2))
    for name in ("vectors.npy", "frames.npy", "sources.json", "clips/part-00000.parquet"):
        sound = (folder / name).read_bytes()
        flipped = bytearray(sound)
        flipped[-20] ^= 4
        for data in (flipped, b"no array", None):
            (folder / name).unlink()
            if data is not None:
                (folder / name).write_bytes(data)
            with pytest.raises(M2raapError, match=name):
                Gallery.open(folder)
        (folder / name).write_bytes(sound)
    vectors = np.load(folder / "vectors.npy")
    for header in (b"(1000000000000000000, 512)", b"(-15, 512), ", b"(1, 512", b"\x00"):  # signed by whoever made it
        data = (folder / "vectors.npy").read_bytes()
        start = data.index(b"(")
        (folder / "vectors.npy").write_bytes(data[:start] + header + data[start + len(header) :])
        sign_again(folder)
        with pytest.raises(M2raapError, match="vectors.npy"):
            Gallery.open(folder)
        (folder / "vectors.npy").write_bytes(data)
    np.save(folder / "vectors.npy", np.full_like(vectors, np.nan))
    sign_again(folder)
    with pytest.raises(M2raapError, match="vectors.npy: holds NaN"):
        Gallery.open(folder)
    (folder / "clips" / "part-00000.parquet").write_bytes(b"x")
    with pytest.raises(M2raapError, match="part-00000.parquet"):
        Gallery.open(folder)
    with pytest.raises(M2raapError, match="nowhere: "):
        Gallery.open(tmp_path / "nowhere")
    with pytest.raises(M2raapError, match="'keyframes'"):
        Gallery.open(tmp_path / "keyframes")
    with pytest.raises(M2raapError, match="nowhere: .*--remove"):
        make_index(tmp_path / "nowhere", None, None, remove={"c0"})
    with pytest.raises(M2raapError, match="holds 'corpus'"):
        make_index(tmp_path, view_of(tmp_path, rows(2)), TINY)


def test_an_index_without_the_size_of_its_frames_is_read(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(2))
    table = Gallery.open(folder).clips.drop_columns(["width", "height"])
    write_table(folder / "clips" / "part-00000.parquet", table)
    sign_again(folder)
    gallery = Gallery.open(folder)
    assert gallery.clip(0)["width"] is None and len(gallery.clips) == 2
    make_index(folder, open_view(tmp_path / "keyframes"), None, add=True)
    assert Gallery.open(folder).clip(0)["width"] == 96


def test_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "index"), pytest.raises(M2raapError, match=r"another m2raap \(process \d+"):
        as_another_command(lambda: make_index(tmp_path / "index", None, BackboneConfig()))
    assert not (tmp_path / "index").exists(), "nothing was made, nothing is left"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", "[]"), ("manifest.json", '{"stage": "index"}'), ("sources.json", "{}"), ("sources.json", "[]"),
        ("sources.json", '{"model": {"backbone": {"x": 1}}, "views": []}'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    write_json(tmp_path / "manifest.json", {"stage": "index"})
    (tmp_path / name).write_text(text)
    with pytest.raises(M2raapError, match=name):
        (Gallery.open if name == "manifest.json" else Sources.read)(tmp_path)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("view", [-1, 0, 0]), ("view", [0, 0, 1]), ("view", [0, None, 0]), ("clip_id", ["c0", "c1", "c1"]),
        ("clip_id", ["c0", None, "c2"]), ("times_s", [None, [1.0], [1.0]]), ("times_s", [[float("nan")] * 2] * 3),
        ("langs", [["en"] * 9] * 3), ("texts", [[None, None]] * 3), ("tags", [[None]] * 3), ("tags_p", [[0.5, 0.5]] * 3),
        ("tags_p", [[0.5], [-0.5], [0.5]]), ("tags_p", [[1.5]] * 3), ("tags_p", [[float("nan")]] * 3),
    ],
)  # fmt: skip
def test_rows_that_no_index_can_have_are_refused_whoever_signed_them(column: str, values: list[Any]) -> None:
    good = {"clip_id": ["c0", "c1", "c2"], "view": [0, 0, 0], "times_s": [[0.5, 1.0]] * 3, "video": ["v"] * 3}
    good |= {"langs": [["en", "zh"]] * 3, "texts": [["a", "b"]] * 3, "origins": [["raw", "raw"]] * 3}
    good |= {"tags": [["red"]] * 3, "tags_p": [[0.9]] * 3}
    rest = {name: [None] * 3 for name in CLIPS.names}
    refuse_bad_rows(Path("I"), pa.table(rest | good, CLIPS), 1)
    refuse_bad_rows(Path("I"), CLIPS.empty_table(), 1)
    with pytest.raises(M2raapError, match=f"^I: .*{'texts' if column == 'langs' else column}: "):
        refuse_bad_rows(Path("I"), pa.table(rest | good | {column: values}, CLIPS), 1)


def test_an_index_of_a_stranger_with_other_bytes_for_faiss_or_other_rows_is_refused(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(3))
    (folder / "index.faiss").write_bytes(b"no index" * 9)
    sign_again(folder)
    with pytest.raises(M2raapError, match=r"index\.faiss: "):
        Gallery.open(folder).faiss()
    clips = folder / "clips" / "part-00000.parquet"
    table = pq.read_table(clips)
    write_table(clips, table.set_column(1, CLIPS.field("view"), pa.array([7] * 3, pa.int32())))
    sign_again(folder)
    with pytest.raises(M2raapError, match="view: "):
        Gallery.open(folder)


def test_forget_names_an_index_and_bringing_it_up_to_date_takes_the_clips_out(tmp_path: Path) -> None:
    folder = index_of(tmp_path, rows(4))
    summary = forget([tmp_path / "corpus"], ["c1"], [tmp_path])
    assert summary["left_in"]["indexes"] == [str(folder)]
    hashes = forgotten_hashes(tmp_path / "corpus")
    assert [row.path.name for row in leftovers(folder, hashes)]
    view = view_of(tmp_path, [row for row in rows(4) if row["clip_id"] != "c1"])
    again = make_index(folder, view, None, add=True)
    assert (again["clips"], again["embedded"]) == (3, 0) and ids(folder) == {"c0", "c2", "c3"}
    assert not list(leftovers(folder, hashes)) and [row["state"] for row in check(folder)] == ["ok"]


def test_the_command_line(tmp_path: Path) -> None:
    view_of(tmp_path, rows(3))
    words = [
        "-q",
        "search",
        "index",
        str(tmp_path / "keyframes"),
        "--model",
        "builtin:tiny",
        "--out",
        str(tmp_path / "index"),
    ]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["clips"] == 3
    (tmp_path / "ids.txt").write_text("c0\n")
    remove = ["search", "index", "--out", str(tmp_path / "index"), "--remove", str(tmp_path / "ids.txt")]
    assert "2 clips, flat" in CliRunner().invoke(app, remove, catch_exceptions=False).stdout
    assert CliRunner().invoke(app, ["search", "index", "--out", str(tmp_path / "index")]).exit_code != 0
