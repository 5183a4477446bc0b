"""Importers of corpora without a protocol, on a few rows as their publishers write them and on what is something else; and the
table of formats."""

from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_tools.formats import FORMATS
from data_tools.openvid import import_openvid
from data_tools.panda70m import import_panda70m
from data_tools.videofolder import import_videofolder
from data_tools.webvid import import_webvid
from m2raap.core.corpus import SCORES
from m2raap.core.errors import M2raapError
from m2raap.core.replace import replacing
from tests.conftest import m2raap
from tests.data_tools.lists import clips, missing, put, texts

# --- the table of formats ---


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_an_importer_and_names_its_protocols(name: str):
    found = FORMATS[name]
    assert callable(found.load())
    module = import_module(found.importer.partition(":")[0])
    assert tuple(getattr(module, "PROTOCOLS", ())) == found.protocols
    assert ("protocol" in found.options) == bool(found.protocols)


def test_the_command_says_what_a_format_takes(tmp_path: Path):
    def fails(*words: object) -> str:
        return m2raap("data", "import", *words, "--out", tmp_path / "C", check=2).stderr

    assert "give --protocol, one of train, val, test" in fails("vatex", tmp_path)
    assert "--holdout; its options are --video-dir, --protocol" in fails("msvd", tmp_path, "--holdout", 3)
    assert "results_2M_train.csv" in fails("webvid")


# --- free corpora ---

WEBVID = "videoid,contentUrl,duration,page_dir,name\n"


def test_webvid(tmp_path: Path):
    listing = put(
        tmp_path, "results_2M_val.csv",
        "videoid,name,page_idx,page_dir,duration,contentUrl\n"
        '21,"A red ball, rolling",1,000001_000050,PT00H00M12S,https://ak.example/21.mp4\n'
        "22,Cube,1,000001_000050,PT00H00M09S,https://ak.example/22.mp4\n"
        "21,The same ball crawled again,2,000001_000050,PT00H00M12S,https://ak.example/21.mp4\n",
    )  # fmt: skip
    put(tmp_path / "v", "000001_000050/21.mp4", b"video")
    (corpus,) = import_webvid(listing, tmp_path / "C", video_dir=tmp_path / "v")
    assert texts(corpus)["21"] == [("en", "A red ball, rolling"), ("en", "The same ball crawled again")]
    assert missing(corpus) == {"22": ("missing_file", "https://ak.example/22.mp4")}
    assert corpus.source["note"] == "results_2M_val.csv as published has 5,000 rows; this list has 3"
    assert {row["source"] for row in clips(corpus).values()} == {"WebVid"}


OPENVID = "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds\n"


def test_openvid_keeps_its_scores(tmp_path: Path):
    listing = put(
        tmp_path, "OpenVid-1M.csv",
        OPENVID + "a_1_0.mp4,A ball rolls.,5.2,12.5,0.99,static,100,25.0,4.0\nb.mp4,A cube.,,1,,pan_left,50,25,2\n",
    )  # fmt: skip
    (corpus, held) = import_openvid(listing, tmp_path / "C", num_holdout=1)
    assert "OpenVid-1M.csv has 1,019,957 clips; this list has 2 clips" in corpus.source["note"]
    rows = {row["clip_id"]: row for made in (corpus, held) for row in pq.read_table(made.path / SCORES).to_pylist()}
    assert rows["a_1_0"]["motion_score"] == 12.5 and rows["b"].get("aesthetic_score") is None
    assert {row["category"] for made in (corpus, held) for row in clips(made).values()} == {"static", "pan_left"}


PANDA = "videoID,url,timestamp,caption,matching_score\n"
SPANS = "[['0:00:12.579', '0:00:15.582'], ['1:00:20.0', '1:00:25']]"


def test_panda70m_cuts_videos_into_clips(tmp_path: Path):
    row = (
        f"""x-y,https://www.youtube.com/watch?v=x-y,"{SPANS}","['A ball, ""red""', ""It's [a] cube""]","[0.4, 0.5]"\n"""
    )
    put(tmp_path / "v", "x-y.mp4", b"whole")
    (corpus,) = import_panda70m(put(tmp_path, "p.csv", PANDA + row), tmp_path / "C", video_dir=tmp_path / "v")
    rows = clips(corpus)
    assert (rows["x-y.0"]["start_s"], rows["x-y.0"]["end_s"]) == (12.579, 15.582)
    assert (rows["x-y.1"]["start_s"], rows["x-y.1"]["end_s"]) == (3620.0, 3625.0)
    assert {row["video"] for row in rows.values()} == {"x-y.mp4"} and not missing(corpus)
    assert texts(corpus) == {"x-y.0": [("en", 'A ball, "red"')], "x-y.1": [("en", "It's [a] cube")]}
    assert {r["clip_id"]: r["matching_score"] for r in pq.read_table(corpus.path / SCORES).to_pylist()} == {
        "x-y.0": 0.4,
        "x-y.1": 0.5,
    }
    put(tmp_path / "v", "x-y.1.mp4", b"cut already")
    with replacing(True):
        (corpus,) = import_panda70m(tmp_path / "p.csv", tmp_path / "C", video_dir=tmp_path / "v")
    assert (clips(corpus)["x-y.1"]["video"], clips(corpus)["x-y.1"]["start_s"]) == ("x-y.1.mp4", None)


@pytest.mark.parametrize(
    ("timestamp", "caption", "score", "message"),
    [
        ("[['0:00:01', '0:00:02']]", "['a', 'b']", "[1]", "row 2, column 'caption': 2 values for 1 timestamps"),
        ("[['0:00:01', '0:00:02']]", "['a']", "[1, 2]", "column 'matching_score': 2 values for 1 timestamps"),
        ("[['0:00:02', '0:00:01']]", "['a']", "[1]", "column 'timestamp': expected"),
        ("[[1, 2]]", "['a']", "[1]", "column 'timestamp': expected"),
        ("soon", "['a']", "[1]", "column 'timestamp': not a Python list"),
        ("__import__('os').system('true')", "['a']", "[1]", "column 'timestamp': not a Python list"),
        ("{'a': 1}", "['a']", "[1]", "expected a list, found dict"),
        ("[" * 90 + "]" * 90, "['a']", "[1]", "brackets in more than 4 levels"),
        ("-" * 100_000 + "1", "['a']", "[1]", "not a Python list"),
        ("[" + "1+" * 50_000 + "1]", "['a']", "[1]", "not a Python list"),
        ("[" + "1," * 1_100_000 + "1]", "['a']", "[1]", "at most 2,097,152 characters"),
        ("[['0:00:01', '0:00:02']]", "['a']", "['high']", "expected numbers, found 'high'"),
        ("[['0:00:01', '0:00:02']]", "[b'a']", "[1]", "expected a list of texts"),
    ],
)
def test_panda_cells_are_literals_or_refused(tmp_path: Path, timestamp: str, caption: str, score: str, message: str):
    listing = put(tmp_path, "p.csv", f'{PANDA}x,u,"{timestamp}","{caption}","{score}"\n')
    with pytest.raises(M2raapError, match=message):
        import_panda70m(listing, tmp_path / "C")


def test_videofolder_with_one_list_or_one_a_split(tmp_path: Path):
    for split, name in (("train", "a.mp4"), ("validation", "b.mp4")):
        put(tmp_path / "F", f"{split}/{name}", b"video")
        put(tmp_path / "F", f"{split}/metadata.jsonl", [{"file_name": name, "caption_zh": "一个球", "license": "CC0"}])
    (corpus,) = import_videofolder(tmp_path / "F", tmp_path / "C")
    found = {row["video"]: (row["split"], row["licence"]) for row in clips(corpus).values()}
    assert found == {"train/a.mp4": ("train", "CC0"), "validation/b.mp4": ("val", "CC0")} and not missing(corpus)
    put(tmp_path / "G", "metadata.csv", "file_name,text\nx/a.mp4,a ball\n")
    (corpus,) = import_videofolder(tmp_path / "G", tmp_path / "D")
    assert texts(corpus) == {"x/a": [("en", "a ball")]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "video,text\na.mp4,a ball\n", r"row 1: expected a video column \(file_name, "),
        ("metadata.csv", "file_name,label\na.mp4,3\n", "expected a caption column"),
        ("readme.txt", "hello", "no metadata.csv, metadata.jsonl, metadata.parquet in it or in a folder below"),
    ],
)
def test_videofolder_that_is_none(tmp_path: Path, name: str, content: str, message: str):
    put(tmp_path / "F", name, content)
    with pytest.raises(M2raapError, match=message):
        import_videofolder(tmp_path / "F", tmp_path / "C")


@pytest.mark.parametrize(
    ("importer", "content", "message"),
    [
        (
            import_webvid,
            "videoid,name,page_dir\n1,a,b\n",
            "row 2: no column 'contentUrl'; expected the columns videoid, name",
        ),
        (import_webvid, WEBVID + "1,u,d,p\n", "row 2: has another number of columns"),
        (import_webvid, WEBVID + ",u,d,p,n\n", "row 2, column 'videoid': expected a text, found nothing"),
        (import_webvid, "<html>gone</html>", "is a web page"),
        (import_openvid, "video,caption\na,b\n", "no column 'aesthetic score', 'motion score'"),
        (
            import_openvid,
            OPENVID + "a.mp4,b,high,1,,,,,\n",
            "row 2, column 'aesthetic score': expected a number, found 'high'",
        ),
        (import_panda70m, "videoID,caption\na,b\n", "row 2: no column 'url', 'timestamp', 'matching_score'"),
    ],
)
def test_lists_that_are_not_what_they_say(tmp_path: Path, importer, content: str, message: str):
    with pytest.raises(M2raapError, match=message):
        importer(put(tmp_path, "l.csv", content), tmp_path / "C")
    assert not (tmp_path / "C").exists()
