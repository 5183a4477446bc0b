"""Exports: what was curated comes out, whole and tame; the importers read it back."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tarfile
from pathlib import Path

import ffmpeg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.rooted import SUFFIXES
from data_tools.table import import_table
from data_tools.videofolder import import_videofolder
from data_tools.webdataset_tar import import_webdataset
from m2raap.cli.data_export import FORMATS, exporters
from m2raap.core.corpus import write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.exports import ids_digest, neutral, read_export, safe_key, unguarded
from m2raap.core.folder import finish
from m2raap.core.tables import write_part
from m2raap.core.tombstones import sha256
from m2raap.core.view import View
from m2raap.export.corpus import curated_view, export
from m2raap.export.leftovers import leftovers
from m2raap.video import limits
from m2raap.video.ending import ENDINGS
from tests.conftest import digests
from tests.video.conftest import encode

HOSTILE = '=HYPERLINK("http://x.test","a")'
IDS = ["plain", "../../etc/passwd", "a/b.c", "一只猫", "-rf", "=1+1", "'=1+1", "NA", "no video"]
# Captions that an importer reads as several, or refuses, where no export wrote them.
CAPTIONS = {"=1+1": HOSTILE, "a/b.c": "['a dog', 'a cat']", "NA": '{"a": 1}'}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A short video in each of some containers: x.mp4, x.mkv, ..."""
    folder = tmp_path_factory.mktemp("sound")
    source = ffmpeg.input("testsrc2=s=64x48:r=25:d=0.4", f="lavfi")
    first = encode(source, folder / "x.mp4")
    for name in ("x.mkv", "x.ts", "x.flv"):
        encode(ffmpeg.input(str(first)), folder / name, vcodec="copy", preset=None, pix_fmt=None)
    encode(source, folder / "x.avi", vcodec="mpeg4", preset=None)
    encode(source, folder / "x.wmv", vcodec="wmv2", preset=None)
    encode(source, folder / "x.mpg", vcodec="mpeg2video", preset=None)
    encode(source, folder / "x.ogv", vcodec="libtheora", preset=None)
    encode(source, folder / "x.webm", vcodec="libvpx", preset=None)
    tone = ffmpeg.input("sine=d=0.4", f="lavfi")
    encode(tone, folder / "x.ogg", vcodec=None, acodec="flac", preset=None, pix_fmt=None)
    return folder


@pytest.fixture(scope="module")
def view(tmp_path_factory, sound: Path) -> View:
    """Nine clips with awkward ids, the last without a file, and some awkward captions. The Chinese texts are translations."""
    home = tmp_path_factory.mktemp("exports")
    (home / "videos").mkdir()
    clips, texts = [], []
    for number, clip_id in enumerate(IDS):
        if clip_id != "no video":
            mark = b"\0\0\0\x09free%d" % number  # a box without a meaning, so that no two files are one
            (home / "videos" / f"{number}.mp4").write_bytes((sound / "x.mp4").read_bytes() + mark)
        more = {"source": "test", "licence": "CC-BY-4.0", "url": f"https://x.test/{number}", "category": "cat"}
        times = {"start_s": 1.5, "end_s": 4.0} if number == 2 else {}
        split = ("train", "val")[number % 2]
        clips.append({"clip_id": clip_id, "video": f"{number}.mp4", "split": split} | more | times)
        for lang, said in (
            ("en", CAPTIONS.get(clip_id, f'caption, "{number}"\nnext line')),
            ("zh", f"第{number}个 <__dj__video>"),
        ):
            origin, producer, parent = (
                ("translation", "=a model", f"{clip_id}.en0") if lang == "zh" else ("raw", "list", None)
            )
            texts.append(
                {"text_id": f"{clip_id}.{lang}0", "clip_id": clip_id, "lang": lang, "text": said, "origin": origin,
                 "parent_text_id": parent, "producer": producer, "active": True}
            )  # fmt: skip
    write_corpus(home / "c", clips, texts, video_root=home / "videos", source={}, num_parts=2)
    return View(home / "c")


def written(view: View, kind: str, out: Path, media=None) -> dict:
    return export(view, exporters()[kind], kind, out, media)


OF_MEDIA = [kind for kind in FORMATS if not exporters()[kind].signals]


@pytest.mark.parametrize("kind", OF_MEDIA)
def test_the_same_view_gives_the_same_bytes_and_a_signature(view: View, tmp_path: Path, kind: str):
    signed = written(view, kind, tmp_path / "a" / "x")
    written(view, kind, tmp_path / "b" / "x")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    with_all = kind == "csv"
    ids = set(IDS) if with_all else set(IDS) - {"no video"}
    assert exporters()[kind].clip_ids(tmp_path / "a" / "x") == ids
    assert signed["ids"] == ids_digest(ids) and signed["counts"]["clips"] == len(ids)
    assert signed["counts"].get("left_out:no video file", 0) == (0 if with_all else 1)
    assert signed == read_export(tmp_path / "a" / "x") and signed["view"] == view.digest
    names = [path.name for path in (tmp_path / "a" / "x").rglob("*")]
    assert not any(name.startswith("-") or ".." in name for name in names)


def test_tar_members_are_plain_files_of_one_key(view: View, tmp_path: Path):
    written(view, "webdataset", tmp_path / "x")
    with tarfile.open(tmp_path / "x" / "00000.tar") as shard:
        members = shard.getmembers()
        assert all(m.isreg() and m.mtime == 0 and m.uid == m.gid == 0 and not m.uname for m in members)
        keys = [m.name.partition(".")[0] for m in members]
        assert len(members) == 3 * len(set(keys)) == 3 * (len(IDS) - 1)
        about = {m.name: json.loads(shard.extractfile(m).read()) for m in members if m.name.endswith(".json")}
    cut = next(tree for tree in about.values() if tree["clip_id"] == "a/b.c")
    assert (cut["start_s"], cut["end_s"], cut["licence"]) == (1.5, 4.0, "CC-BY-4.0")
    assert {t["lang"]: t["origin"] for t in cut["texts"]} == {"en": "raw", "zh": "translation"}


def test_cells_that_a_spreadsheet_would_run_are_neutral(view: View, tmp_path: Path):
    written(view, "csv", tmp_path / "x")
    text = (tmp_path / "x" / "clips.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    hostile = next(row for row in rows if row["caption_en"].endswith(HOSTILE))
    assert hostile["caption_en"] == "'" + HOSTILE and hostile["clip_id"] == "'=1+1"
    cells = [cell for row in rows for cell in row.values()]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells if cell)


@settings(deadline=None)
@given(st.text())
def test_a_neutral_cell_is_harmless_and_comes_back(text: str):
    cell = neutral(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert unguarded(cell) == text


def test_what_is_left_in_an_exported_csv_is_told_apart_by_its_apostrophes(view: View, tmp_path: Path):
    for kept, sought in (("=1+1", "'=1+1"), ("'=1+1", "=1+1")):
        out = tmp_path / f"x{len(kept)}"
        written(view, "csv", out)
        lines = (out / "clips.csv").read_text(encoding="utf-8")
        assert list(leftovers(out / "clips.csv", frozenset({sha256(sought)})))
        rows = [row for row in csv.reader(lines.splitlines(keepends=True)) if neutral(sought) not in row]
        with open(out / "clips.csv", "w", encoding="utf-8", newline="") as listing:
            csv.writer(listing).writerows(rows)
        assert not list(leftovers(out / "clips.csv", frozenset({sha256(sought)})))
        assert list(leftovers(out / "clips.csv", frozenset({sha256(kept)})))


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), unique=True))
def test_keys_are_tame_and_tell_ids_apart(ids: list[str]):
    keys = [safe_key(i) for i in ids]
    assert len(set(keys)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", key) and len(key) <= 80 for key in keys)


def test_captions_bring_no_token_of_data_juicer(view: View, tmp_path: Path):
    written(view, "data-juicer", tmp_path / "x", "videos")
    rows = [json.loads(line) for line in (tmp_path / "x" / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2 * (len(IDS) - 1)
    assert all(row["text"].count("<__dj__video>") == len(row["videos"]) == 1 for row in rows)
    assert all((tmp_path / "x" / row["videos"][0]).is_file() for row in rows)


@pytest.mark.parametrize(
    ("kind", "read"), [("webdataset", import_webdataset), ("videofolder", import_videofolder), ("csv", import_table)]
)
def test_the_importer_reads_it_back(view: View, tmp_path: Path, kind: str, read, capsys: pytest.CaptureFixture[str]):
    written(view, kind, tmp_path / "x", "videos")
    back = read(tmp_path / "x" / "clips.csv" if kind == "csv" else tmp_path / "x", tmp_path / "c")[0]
    assert "not read" not in capsys.readouterr().err
    ids = {i for i in IDS if i != "no video"}
    clips = {row["clip_id"]: row for row in back.all_rows("clips")}
    assert set(clips) == ids
    old = {row["clip_id"]: row for row in view.corpus.all_rows("clips")}
    for clip_id, row in clips.items():
        for name in ("start_s", "end_s", "licence", "url", "category", "split"):
            assert row[name] == old[clip_id][name], (clip_id, name)
    columns = ("clip_id", "lang", "text", "origin", "producer")
    rows = back.all_rows("texts")
    said = [row for row in view.corpus.all_rows("texts") if row["clip_id"] in ids]
    assert {tuple(row[name] for name in columns) for row in rows} == {
        tuple(row[name] for name in columns) for row in said
    }
    ids_of = {(row["clip_id"], row["lang"]): row["text_id"] for row in rows}
    assert all(row["parent_text_id"] == ids_of[row["clip_id"], "en"] for row in rows if row["lang"] == "zh")


def test_an_exported_csv_comes_back_from_another_place(view: View, tmp_path: Path):
    written(view, "csv", tmp_path / "x", "none")
    shutil.move(tmp_path / "x" / "clips.csv", tmp_path / "mine.csv")
    (back,) = import_table(tmp_path / "mine.csv", tmp_path / "c", video_dir=view.corpus.video_root)
    for table, name in (("clips", "clip_id"), ("texts", "text")):
        assert {row[name] for row in back.all_rows(table)} == {row[name] for row in view.corpus.all_rows(table)}


# What a list calls a file -> what it is. A pickle ends at its '.', an MPEG-TS begins wherever its packets do.
PICKLE = b"cos\nsystem\n(S'echo'\ntR."
CALLED = {
    "e.pyd": ".ts", "a.txt": ".mp4", "b.json": ".mkv", "c": ".avi", "D.MP4": ".mp4", "e.mp4": ".webm", "f.tar": ".flv",
    "g.0.jpg": ".wmv", "h.mpeg": ".mpg", "i.pt": ".ogv",
}  # fmt: skip
NO_VIDEO = {
    "secret.txt": b"my password is 123\n",
    "free.mp4": b"The free world, and my password\n",  # a box of an MP4 could be called so
    "song.mp4": None,
}


@pytest.fixture(scope="module")
def misnamed(tmp_path_factory, sound: Path) -> View:
    """A corpus whose list calls its files what it likes."""
    home = tmp_path_factory.mktemp("misnamed")
    for name, ending in CALLED.items():
        shutil.copyfile(sound / f"x{ending}", home / name)
    (home / "e.pyd").write_bytes(PICKLE + (sound / "x.ts").read_bytes())
    for name, said in NO_VIDEO.items():
        (home / name).write_bytes(said or (sound / "x.ogg").read_bytes())
    names = [*CALLED, *NO_VIDEO]
    clips = [{"clip_id": f"id-{name}", "video": name, "split": "train"} for name in names]
    texts = [
        {"text_id": f"{name}.en0", "clip_id": f"id-{name}", "lang": "en", "text": "a cat", "origin": "raw",
         "producer": "list", "active": True} for name in names
    ]  # fmt: skip
    write_corpus(home / "C", clips, texts, video_root=home, source={})
    return View(home / "C")


@pytest.mark.parametrize("kind", OF_MEDIA)
def test_a_copy_is_called_by_what_it_is(misnamed: View, tmp_path: Path, kind: str):
    signed = written(misnamed, kind, tmp_path / "x", "videos")
    left_out = {"left_out:not_media": 1, "left_out:header_missing": 1, "left_out:no_video_stream": 1}
    assert {name: n for name, n in signed["counts"].items() if name.startswith("left_out")} == left_out
    names = {path.name for path in (tmp_path / "x").rglob("id-*")}
    wanted = {f"{safe_key(f'id-{name}')}{ending}" for name, ending in CALLED.items()}
    if kind == "webdataset":
        with tarfile.open(tmp_path / "x" / "00000.tar") as shard:
            names = set(shard.getnames())
        wanted |= {f"{safe_key(f'id-{name}')}{ending}" for name in CALLED for ending in (".txt", ".json")}
    assert names == wanted


@pytest.mark.parametrize(
    ("kind", "read"), [("webdataset", import_webdataset), ("videofolder", import_videofolder), ("csv", import_table)]
)
def test_misnamed_videos_come_back(misnamed: View, tmp_path: Path, kind: str, read):
    written(misnamed, kind, tmp_path / "x", "videos")
    back = read(tmp_path / "x" / "clips.csv" if kind == "csv" else tmp_path / "x", tmp_path / "c")[0]
    assert back.counts.get("missing_file", 0) == 0
    found = {row["clip_id"]: (back.video_root / row["video"]).read_bytes() for row in back.all_rows("clips")}
    assert found == {f"id-{name}": (misnamed.corpus.video_root / name).read_bytes() for name in CALLED}


def test_every_container_that_we_open_has_an_ending_that_the_importers_know():
    assert set(ENDINGS) == {
        name for name in limits.FORMATS.split(",") if name not in ("mp4", "m4a", "3gp", "3g2", "mj2")
    }
    assert set(ENDINGS.values()) <= set(SUFFIXES)


def test_a_list_that_copies_nothing_looks_into_no_file(misnamed: View, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("m2raap.export.corpus.ending_of", lambda *_: pytest.fail("it looked"))
    for kind in ("csv", "data-juicer"):
        assert written(misnamed, kind, tmp_path / kind)["counts"]["clips"] == len(CALLED) + len(NO_VIDEO)


def test_frames_go_out_as_they_are_stored(view: View, tmp_path: Path):
    stage = tmp_path / "k"
    files = {}
    for index in range(2):
        rows = [
            {"clip_id": row["clip_id"], "jpegs": [b"\xff\xd8one", b"\xff\xd8two"]} for row in view.part(index).clips
        ]
        files[f"frames/{index:05d}"] = write_part(stage, "frames", index, [r for r in rows if r["clip_id"] != "plain"])
    finish(stage, "keyframes", 1, view, {}, files, {})
    signed = written(view.over(stage), "webdataset", tmp_path / "x", "frames")
    assert signed["counts"]["left_out:no frames"] == 1
    with tarfile.open(tmp_path / "x" / "00000.tar") as shard:
        names = [m.name for m in shard.getmembers() if m.name.endswith(".jpg")]
        assert len(names) == 2 * (len(IDS) - 1)
        assert shard.extractfile(names[1]).read() == b"\xff\xd8two"


def test_wrong_orders_are_one_sentence(view: View, tmp_path: Path):
    with pytest.raises(M2raapError, match="data export videofolder: carries videos, not frames"):
        written(view, "videofolder", tmp_path / "x", "frames")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("x")
    with pytest.raises(M2raapError, match="is there already; give a new folder"):
        written(view, "csv", tmp_path / "x")
    with pytest.raises(M2raapError, match="nothing to export"):
        written(View(view.corpus_path, langs=()), "csv", tmp_path / "y")
    assert not (tmp_path / "y").exists() and not list(tmp_path.glob(".*exporting"))
    with pytest.raises(M2raapError, match="nowhere: no such folder"):
        curated_view(tmp_path / "nowhere")
