import gzip
import json
import pickle
from pathlib import Path

import pytest

from data_tools.export_webdataset import WebDataset
from data_tools.webdataset_tar import import_webdataset
from m2raap.core.corpus import open_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.exports import Item
from m2raap.core.replace import replacing
from tests.data_tools.test_safe_tar import special, tar_of


def shard(folder: Path, *parts, name: str = "00000.tar") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    data = tar_of(
        *((n, c.encode() if isinstance(c, str) else c) if isinstance(c, str | bytes) else c for n, c in parts)
    )
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return path


def clips(corpus) -> dict[str, dict]:
    return {row["clip_id"]: row for row in corpus.all_rows("clips")}


def texts(corpus) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for row in corpus.all_rows("texts"):
        found.setdefault(row["clip_id"], set()).add((row["lang"], row["text"]))
    return found


def test_videos_are_copied_under_names_of_ours(tmp_path: Path):
    path = shard(
        tmp_path / "in",
        ("a/0001.mp4", b"video one"), ("a/0001.txt", "a red ball"),
        ("a/0001.json", json.dumps({"caption": "a red ball", "url": "https://example.org/1", "license": "CC0"})),
        ("0002.webm", b"video two"), ("0002.json", json.dumps({"caption_en": "a cube", "caption_zh": ["一个方块"]})),
        ("0003.json", json.dumps({"caption": "gone", "url": "https://example.org/3", "status": "failed_to_download"})),
        ("0004.jpg", b"picture"), ("._0005.mp4", b"resource fork"),
    )  # fmt: skip
    (corpus,) = import_webdataset(path, tmp_path / "C")
    rows = clips(corpus)
    assert set(rows) == {"a/0001", "0002", "0003"}
    assert (corpus.video_root / rows["a/0001"]["video"]).read_bytes() == b"video one"
    assert rows["0002"]["video"].endswith(".webm") and "0002" not in rows["0002"]["video"]
    assert (rows["a/0001"]["licence"], rows["a/0001"]["url"]) == ("CC0", "https://example.org/1")
    assert texts(corpus) == {
        "a/0001": {("en", "a red ball")},
        "0002": {("en", "a cube"), ("zh", "一个方块")},
        "0003": {("en", "gone")},
    }
    assert corpus.counts["missing_file"] == 1
    assert corpus.all_rows("missing")[0]["detail"] == "https://example.org/3"
    assert (corpus.source["skipped_members"], corpus.source["skipped_samples"]) == (2, 1)


def test_an_import_that_failed_after_its_videos_were_copied_can_be_given_again(tmp_path: Path):
    path = shard(tmp_path / "in", ("1.mp4", b"one"), ("1.txt", "a"), ("2.mp4", b"two"), ("2.txt", "b"))
    with pytest.raises(M2raapError, match="--holdout 9: must be between 1 and 1"):
        import_webdataset(path, tmp_path / "C", num_holdout=9)
    assert len(import_webdataset(path, tmp_path / "C", num_holdout=1)) == 2
    assert sorted(path.name for path in (tmp_path / "C").iterdir()) == ["clips", "manifest.json", "texts", "videos"]


def test_folders_of_shards_packed_ones_and_imports_over_older_ones(tmp_path: Path):
    shard(tmp_path / "in", ("1.mp4", b"one"), ("1.txt", "a"))
    shard(tmp_path / "in", ("2.mp4", b"two"), ("2.txt", "b"), name="00001.tar.gz")
    (corpus,) = import_webdataset(tmp_path / "in", tmp_path / "C")
    assert set(clips(corpus)) == {"1", "2"} and corpus.source["shards"] == 2
    with pytest.raises(M2raapError, match="2 clips and 2 texts .* 1 clips and 1 texts .* --force"):
        import_webdataset(tmp_path / "in" / "00000.tar", tmp_path / "C")
    assert open_corpus(tmp_path / "C").digest == corpus.digest and len(list(corpus.video_root.glob("*/*"))) == 2
    more = shard(tmp_path / "more", ("1.mp4", b"one"), ("1.txt", "a"), ("3.mp4", b"three"), ("3.txt", "c"))
    with pytest.raises(M2raapError, match="--force"):
        import_webdataset(more, tmp_path / "C")
    assert {path.read_bytes() for path in corpus.video_root.glob("*/*")} == {b"one", b"two"}
    assert len(list(corpus.video_root.iterdir())) == 2
    shard(tmp_path / "changed", ("1.mp4", b"new"), ("1.txt", "a"))
    with pytest.raises(M2raapError, match=r"1 of its files have other bytes .*videos/\w+/\w+.mp4"):
        import_webdataset(tmp_path / "changed", tmp_path / "C")
    assert {path.read_bytes() for path in corpus.video_root.glob("*/*")} == {b"one", b"two"}
    with replacing(True):
        (again,) = import_webdataset(tmp_path / "in" / "00000.tar", tmp_path / "C")
    assert set(clips(again)) == {"1"}
    assert [path.read_bytes() for path in again.video_root.glob("*/*")] == [b"one"]
    shard(tmp_path / "bad", ("1.mp4", b"other"), ("2.pyd", b""))
    with pytest.raises(M2raapError, match="is a pickle"):
        import_webdataset(tmp_path / "bad", tmp_path / "C")
    assert open_corpus(tmp_path / "C").digest == again.digest
    assert [path.read_bytes() for path in again.video_root.glob("*/*")] == [b"one"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("1.mp4", b"v"), ("1.pyd", pickle.dumps({}))], "'1.pyd' is a pickle, and m2raap never unpickles"),
        ([("1.mp4", b"v"), ("1.pickle", b"")], "is a pickle"),
        ([("1.mp4", b"v"), ("1.MP4", b"w")], "'1.MP4' is the second video of the key '1'"),
        ([("1.mp4", b"v"), ("1.left.mp4", b"w")], "is the second video of the key '1'"),
        ([("1.mp4", b"v"), ("2.mp4", b"w"), ("1.txt", "late")], "the key '1' comes twice"),
        ([("1.mp4", b"v"), ("1.json", "[1]")], "expected an object, found list"),
        ([("1.mp4", b"v"), ("1.json", "{oops")], "'1.json': not JSON"),
        ([("1.mp4", b"v"), ("1.txt", b"\xff")], "'1.txt': not UTF-8 at byte 0"),
        ([("1.mp4", b"v"), ("1.txt", b"a" * (5 * 1024**2))], "'1.txt' has 5,242,880 bytes, at most 4,194,304 are read"),
        ([("1.mp4", b"v"), ("1.json", '{"start_s": 5, "end_s": 2}')], "ends at 2 s, before it starts at 5 s"),
        ([("1.mp4", b"v"), ("1.json", '{"texts": [{"text": "a", "lang": "fr"}]}')], "key '1', 'texts': expected text, lang"),
        ([("1.mp4", b"v"), ("x", special("x", b"2", "/etc/passwd"))], "is a symbolic link"),
        ([("1.jpg", b"v")], "holds no sample"),
    ],
)  # fmt: skip
def test_a_bad_shard_is_refused_and_leaves_nothing(tmp_path: Path, parts, message: str):
    with pytest.raises(M2raapError, match=message):
        import_webdataset(shard(tmp_path / "in", *parts), tmp_path / "C")
    assert not [path for path in (tmp_path / "C").rglob("*") if path.is_file()]


def test_one_key_in_two_shards_is_refused(tmp_path: Path):
    shard(tmp_path / "in", ("1.mp4", b"one"))
    shard(tmp_path / "in", ("1.mp4", b"two"), name="00001.tar")
    with pytest.raises(M2raapError, match="00001.tar: the key '1' comes twice"):
        import_webdataset(tmp_path / "in", tmp_path / "C")


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path):
    (tmp_path / "C").mkdir()
    (tmp_path / "C" / "thesis.tex").write_text("dear to somebody")
    with pytest.raises(M2raapError, match="is not empty and holds no m2raap corpus"):
        import_webdataset(shard(tmp_path / "in", ("1.mp4", b"one")), tmp_path / "C")
    assert [path.name for path in (tmp_path / "C").iterdir()] == ["thesis.tex"]
    with pytest.raises(M2raapError, match="no such archive, and no folder that holds .tar"):
        import_webdataset(tmp_path / "nothing", tmp_path / "D")


def test_what_was_exported_comes_back(tmp_path: Path):
    video = tmp_path / "v.mp4"
    video.write_bytes(b"a video")
    clip = {"clip_id": "a/b.c", "start_s": 1.5, "end_s": 3.0, "split": "val", "source": "there", "licence": "CC0"}
    old = {"clip_id": "a/b.c", "producer": "someone"}
    rows = [
        old | {"text_id": "x1", "lang": "en", "text": "a ball", "origin": "raw"},
        old | {"text_id": "x2", "lang": "zh", "text": "一个球", "origin": "translation", "parent_text_id": "x1"},
    ]
    (tmp_path / "E").mkdir()
    WebDataset().write([Item(clip, rows, [], video, ".mp4")], tmp_path / "E", "videos")
    (corpus,) = import_webdataset(tmp_path / "E", tmp_path / "C")
    (back,) = corpus.all_rows("clips")
    assert {name: back[name] for name in clip} == clip
    found = {row["lang"]: row for row in corpus.all_rows("texts")}
    assert (found["zh"]["origin"], found["zh"]["parent_text_id"]) == ("translation", found["en"]["text_id"])
    assert {row["producer"] for row in found.values()} == {"someone"}
