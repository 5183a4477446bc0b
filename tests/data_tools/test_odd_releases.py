"""Published lists and shards as they circulate: other keys, ids with endings, numbers as ids, members that are not read."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_tools.activitynet import import_activitynet
from data_tools.didemo import import_didemo
from data_tools.msrvtt import import_msrvtt
from data_tools.openvid import import_openvid
from data_tools.panda70m import import_panda70m
from data_tools.vatex import import_vatex
from data_tools.videofolder import import_videofolder
from data_tools.webdataset_tar import import_webdataset
from m2raap.core.errors import M2raapError
from tests.data_tools.lists import clips, missing, put, texts, texts_of
from tests.data_tools.test_safe_tar import tar_of


def test_endings_of_members_that_are_not_read_are_named(tmp_path: Path, capsys):
    members = [
        ("1.mp4", b"v"),
        ("1.caption", b"a ball"),
        ("1.txt", b"a cube"),
        ("2.mp4", b"w"),
        ("2.caption", b"a cone"),
    ]
    (corpus,) = import_webdataset(put(tmp_path, "s.tar", tar_of(*members)), tmp_path / "C")
    assert texts_of(corpus) == {"1": ["a cube"]}
    assert corpus.source["columns_not_read"] == {"the shards": [".caption"]}
    assert "members of the shards: .caption" in capsys.readouterr().err


def test_shards_with_languages_splits_and_tables_beside_them(tmp_path: Path):
    def sample(key: str, **meta: object):
        return (f"{key}.mp4", key.encode()), (f"{key}.json", json.dumps(meta).encode())

    members = [
        *sample("1", caption="ein Ball", language="de", subset="test"),
        *sample("2", caption="OK 好", lang="en", clip_id=7.0),
        ("3.mp4", b"v"),
        ("3.txt", b"eine Kugel"),
        ("3.json", b'{"language": "de"}'),
    ]
    put(tmp_path / "in", "a.TAR", tar_of(*members))
    put(tmp_path / "in", "a.parquet", b"")
    put(tmp_path / "in", "below/b.tar", b"")
    (corpus,) = import_webdataset(tmp_path / "in", tmp_path / "C")
    assert texts(corpus) == {"7": [("en", "OK 好")]} and corpus.source["texts_in_other_languages"] == 2
    assert {clip: row["split"] for clip, row in clips(corpus).items()} == {"1": "test", "3": "train", "7": "train"}
    assert corpus.source["lists_not_read"] == ["a.parquet", "below/b.tar"]


@pytest.mark.parametrize(
    ("meta", "message"),
    [({"clip_id": ["x"]}, "key '2', 'clip_id'"), ({"subset": "A"}, "key '2', column 'subset'")],
)
def test_shards_that_would_be_misread_are_refused(tmp_path: Path, meta: dict, message: str):
    members = [
        ("1.mp4", b"v"),
        ("1.json", b'{"subset": "test"}'),
        ("2.mp4", b"w"),
        ("2.json", json.dumps(meta).encode()),
    ]
    with pytest.raises(M2raapError, match=message):
        import_webdataset(put(tmp_path, "s.tar", tar_of(*members)), tmp_path / "C")


def test_a_list_without_entries_is_refused(tmp_path: Path):
    with pytest.raises(M2raapError, match="train.json: holds no entries"):
        import_activitynet(put(tmp_path, "train.json", {}), tmp_path / "C", protocol="train")


def test_numbers_as_ids_of_msrvtt(tmp_path: Path):
    sentences = [{"video_id": 1, "caption": "a ball"}]
    release = {"videos": [{"video_id": 1, "split": "train"}], "sentences": sentences}
    put(tmp_path, "MSRVTT_data.json", release)
    put(tmp_path, "MSRVTT_train.9k.csv", "video_id\n1\n")
    (tmp_path / "videos").mkdir()
    (corpus,) = import_msrvtt(tmp_path, tmp_path / "C", protocol="train-9k")
    assert texts_of(corpus) == {"1": ["a ball"]}


def msrvtt(folder: Path, videos: list[dict], sentences: list[dict]):
    put(folder, "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    put(folder, "MSRVTT_train.9k.csv", "video_id\nvideo0\n")
    (folder / "videos").mkdir()
    return import_msrvtt(folder, folder / "C", protocol="train-9k")[0]


VIDEO0 = {"video_id": "video0.mp4", "split": "train", "category": 9, "url": "https://x.test"}


def test_the_release_of_msrvtt_with_endings_lists_and_more_keys(tmp_path: Path):
    sentences = [
        {"video_id": "video0.mp4", "caption": ["a ball", None], "caption_zh": "球"},
        {"video_id": "video0", "caption": "a cube"},
    ]
    corpus = msrvtt(tmp_path, [VIDEO0], sentences)
    assert texts_of(corpus) == {"video0": ["a ball", "a cube"]}
    assert clips(corpus)["video0"]["category"] == "9"
    assert corpus.source["columns_not_read"] == {"MSRVTT_data.json": ["caption_zh"]}


@pytest.mark.parametrize(
    ("videos", "caption", "message"),
    [
        ([VIDEO0], {"en": "a"}, "'caption'"),
        ([VIDEO0, VIDEO0 | {"split": "test"}], "a", r"videos\[1\].*test and for train"),
    ],
)
def test_a_release_of_msrvtt_that_would_be_misread_is_refused(tmp_path: Path, videos, caption, message: str):
    with pytest.raises(M2raapError, match=message):
        msrvtt(tmp_path, videos, [{"video_id": "video0", "caption": caption}])


def test_ids_with_the_endings_of_their_files(tmp_path: Path):
    put(tmp_path, "v_a.mp4", b"some bytes")
    paragraphs = [{"clip_id": "v_a.mp4", "text": ["a", "b"], "text_zh": ["c"]}]
    (corpus,) = import_activitynet(put(tmp_path, "l.jsonl", paragraphs), tmp_path / "A", protocol="train")
    assert clips(corpus)["v_a"]["url"].endswith("v=a") and not missing(corpus)
    assert corpus.source["columns_not_read"] == {"l.jsonl": ["text_zh"]}
    tree = {"v_a.mkv": {"sentences": ["a"], "timestamps": [[0, 1]], "sentences_zh": ["c"]}}
    (corpus,) = import_activitynet(put(tmp_path, "train.json", tree), tmp_path / "B", protocol="train")
    assert not missing(corpus) and corpus.source["columns_not_read"] == {"train.json": ["sentences_zh"]}
    for split in ("train", "val"):
        put(tmp_path, f"didemo_data_{split}.jsonl", [{"clip_id": f"{split}.mov", "text": ["a"]}])
    assert set(clips(import_didemo(tmp_path, tmp_path / "D", protocol="train")[0])) == {"train", "val"}
    row = "v_a.mp4,u,\"[['0:00:01.0', '0:00:02.0']]\",[None],[1]\n"
    header = "videoID,url,timestamp,caption,matching_score\n"
    (corpus,) = import_panda70m(put(tmp_path, "p.csv", header + row), tmp_path / "P")
    assert not missing(corpus) and corpus.source["empty_texts"] == 1


def test_scores_of_two_rows_of_one_video(tmp_path: Path):
    rows = "video,caption,aesthetic score,motion score\nv.mp4,a,4,2\nv.mp4,b,5,2\nv.mp4,c,4,2\n"
    (corpus,) = import_openvid(put(tmp_path, "o.csv", rows), tmp_path / "C")
    assert corpus.source["rows_with_other_scores"] == 1 and len(corpus.all_rows("texts")) == 3
    assert [row["aesthetic_score"] for row in pq.read_table(tmp_path / "C/scores.parquet").to_pylist()] == [4.0]


def test_a_videofolder_may_name_its_videos_as_the_hub_does(tmp_path: Path):
    put(tmp_path / "F", "eval/v.mp4", b"some bytes")
    put(tmp_path / "F", "eval/metadata.jsonl", [{"video_file_name": "v.mp4", "text": "a"}])
    clip = clips(import_videofolder(tmp_path / "F", tmp_path / "C")[0])["eval/v"]
    assert clip["split"] == "test"


def test_keys_of_vatex_in_other_spellings_and_without_chinese(tmp_path: Path):
    entry = {"videoID": "x_000010_000020.mp4", "encap": ["a"], "chCap": None, "zhCap": ["b"]}
    (corpus,) = import_vatex(put(tmp_path, "v.json", [entry]), tmp_path / "C", protocol="train")
    assert texts_of(corpus) == {"x_000010_000020": ["a"]}
    assert corpus.source["columns_not_read"] == {"v.json": ["zhCap"]}
