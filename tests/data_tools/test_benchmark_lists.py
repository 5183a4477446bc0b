"""Importers of benchmarks and their training sets: on a few rows, on what is something else, and on the published lists."""

import pickle
from pathlib import Path

import pytest

from data_tools import activitynet, didemo, lsmdc, msvd, vatex
from data_tools.activitynet import import_activitynet
from data_tools.corpora import Declared
from data_tools.didemo import consensus, import_didemo, paragraph
from data_tools.lsmdc import import_lsmdc
from data_tools.msrvtt import import_msrvtt
from data_tools.msvd import import_msvd
from data_tools.vatex import import_vatex
from data_tools.youku import import_youku
from m2raap.core.corpus import Corpus, open_corpus
from m2raap.core.errors import M2raapError
from tests.conftest import m2raap
from tests.data_tools.lists import clips, missing, put, texts


@pytest.fixture
def small(monkeypatch):
    """Benchmarks of a few rows: what is declared becomes what the test says."""

    def declare(module, protocol: str, num_clips: int | None, num_texts: dict[str, int]) -> None:
        protocols = dict(module.PROTOCOLS)
        known = protocols[protocol]
        if isinstance(known, tuple):
            protocols[protocol] = (known[0], Declared(known[1].name, num_clips, num_texts))
        else:
            protocols[protocol] = Declared(known.name, num_clips, num_texts)
        monkeypatch.setattr(module, "PROTOCOLS", protocols)

    return declare


def msvd_folder(folder: Path) -> Path:
    put(folder, "captions_msvd.json", {"a_1_5": ["a ball", "one ball"], "b_-x_0_9": ["a cube"], "c_2_4": ["a cone"]})
    for split, video in (("train", "a_1_5"), ("val", "b_-x_0_9"), ("test", "c_2_4")):
        put(folder, f"{split}_list.txt", f"{video}\n")
    put(folder, "msvd_cn/youtube_mapping.txt", "a_1_5 vid1\nb_-x_0_9 vid2\nc_2_4 vid3\n")
    put(
        folder,
        "msvd_cn/msvd_cn_captions_release_utf8.csv",
        "id,video_id,sentence\n1,vid3.mp4,一个圆锥\n2,vid1.mp4,一个球\n",
    )
    put(folder, "videos/c_2_4.avi", b"video")
    return folder


def test_msvd_in_two_languages(tmp_path: Path, small, monkeypatch):
    monkeypatch.setattr(msvd, "SPLIT_SIZES", {"train": 1, "val": 1, "test": 1})
    small(msvd, "test", 1, {"en": 1, "zh": 1})
    folder = msvd_folder(tmp_path / "M")
    (test,) = import_msvd(folder, tmp_path / "C")
    assert test.benchmark == "msvd" and texts(test) == {"c_2_4": [("en", "a cone"), ("zh", "一个圆锥")]}
    assert clips(test)["c_2_4"]["url"] == "https://www.youtube.com/watch?v=c" and not missing(test)
    (train,) = import_msvd(folder, tmp_path / "D", protocol="train")
    assert {i: row["split"] for i, row in clips(train).items()} == {"a_1_5": "train", "b_-x_0_9": "val"}
    assert "MSVD train and val has 1,300 clips" in train.source["note"]
    (folder / "msvd_cn" / "msvd_cn_captions_release_utf8.csv").unlink()
    (english,) = import_msvd(folder, tmp_path / "E")
    assert english.counts["texts"] == 1 and english.source["chinese"].startswith("none")


def test_msvd_that_is_none(tmp_path: Path, monkeypatch):
    with pytest.raises(M2raapError, match="MSVD's test split has 670 videos, this list has 1"):
        folder = msvd_folder(tmp_path / "M")
        import_msvd(folder, tmp_path / "C")
    monkeypatch.setattr(msvd, "SPLIT_SIZES", {"train": 1, "val": 1, "test": 1})
    with pytest.raises(
        M2raapError, match="msvd has 670 clips, 27,763 en texts and 3,980 zh texts; this list has 1 clips"
    ):
        import_msvd(folder, tmp_path / "C")
    put(folder, "train_list.txt", "c_2_4\n")
    with pytest.raises(M2raapError, match="test_list.txt: 'c_2_4' is also in train_list.txt"):
        import_msvd(folder, tmp_path / "C", protocol="all")
    put(folder, "msvd_cn/youtube_mapping.txt", "c_2_4 vid9\n")
    with pytest.raises(M2raapError, match="row 2, column 'video_id': 'vid3.mp4' is not in youtube_mapping.txt"):
        import_msvd(folder, tmp_path / "C")
    (folder / "captions_msvd.json").unlink()
    put(folder, "raw-captions.pkl", pickle.dumps({"c_2_4": [["a"]]}))
    with pytest.raises(M2raapError, match="raw-captions.pkl: is a pickle, and m2raap never unpickles"):
        import_msvd(folder, tmp_path / "C")


VATEX = [
    {"videoID": "x_y_000010_000020", "enCap": ["A ball."], "chCap": ["一个球。"]},
    {"videoID": "z_000000_000010", "enCap": ["A cube."], "chCap": ["一个方块。"]},
]


def test_vatex_files_cut_or_whole(tmp_path: Path, small):
    small(vatex, "val", 2, {"en": 2, "zh": 2})
    put(tmp_path / "v", "z_000000_000010.mkv", b"cut")
    listing = put(tmp_path, "val.json", VATEX)
    (corpus,) = import_vatex(listing, tmp_path / "C", protocol="val", video_dir=tmp_path / "v")
    rows = clips(corpus)
    whole, cut = rows["x_y_000010_000020"], rows["z_000000_000010"]
    assert (whole["video"], whole["start_s"], whole["end_s"]) == ("x_y.mp4", 10.0, 20.0)
    assert (cut["video"], cut["start_s"], cut["end_s"]) == ("z_000000_000010.mkv", None, None)
    assert missing(corpus) == {"x_y_000010_000020": ("missing_file", "https://www.youtube.com/watch?v=x_y")}
    (train,) = import_vatex(listing, tmp_path / "D", protocol="train")
    assert train.benchmark is None and "VATEX training v1.0 has 25,991 clips" in train.source["note"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VATEX, "vatex-val has 3,000 clips, 30,000 en texts and 30,000 zh texts; this list has 2 clips"),
        ([VATEX[0] | {"videoID": "short"}], "entry 1, key 'videoID': expected ID_000010_000020, found 'short'"),
        ([VATEX[0], VATEX[0]], "entry 2: 'x_y_000010_000020' is listed twice"),
        ([{"videoID": "x_y_000010_000020"}], "entry 1: no column 'enCap'"),
        ([VATEX[0] | {"chCap": "一个球"}], "row 1, column 'chCap': expected a list of texts"),
        ({"videos": []}, "expected a list of objects, found dict"),
    ],
)
def test_vatex_that_is_none(tmp_path: Path, content, message: str):
    with pytest.raises(M2raapError, match=message):
        import_vatex(put(tmp_path, "v.json", content), tmp_path / "C", protocol="val")


def test_moments_of_didemo_that_no_video_has(tmp_path: Path):
    row = {"video": "a.mp4", "description": "a ball", "times": [[0, 10**399]], "num_segments": 10**400}
    put(tmp_path, "test_data.json", [row])
    with pytest.raises(M2raapError, match="entry 1, key 'num_segments'"):
        import_didemo(tmp_path, tmp_path / "C", protocol="moments")


def test_didemo_paragraphs_and_moments(tmp_path: Path, small):
    small(didemo, "paragraph", 1, {"en": 1})
    small(didemo, "moments", 2, {"en": 3})
    put(
        tmp_path,
        "didemo_data_test.jsonl",
        [{"clip_id": "u_1", "text": ["a ball ", "  it rolls"], "timestamps": [[0, 1]]}],
    )
    row = {"num_segments": 6, "dl_link": "https://flickr.example/1", "annotation_id": 1}
    put(tmp_path, "test_data.json", [
        row | {"video": "u_1.mov", "description": "a ball", "times": [[4, 4], [4, 4], [0, 0], [4, 4]]},
        row | {"video": "u_1.mp4", "description": "one ball", "times": [[0, 0], [3, 5], [4, 4], [4, 4]]},
        row | {"video": "u_1.mov", "description": "the end", "times": [[5, 5]]},
    ])  # fmt: skip
    (paragraphs,) = import_didemo(tmp_path, tmp_path / "C")
    assert texts(paragraphs) == {"u_1": [("en", "a ball it rolls")]}
    (moments,) = import_didemo(tmp_path, tmp_path / "D", protocol="moments")
    found = {i: (row["video"], row["start_s"], row["end_s"]) for i, row in clips(moments).items()}
    assert found == {"u_1_4_4": ("u_1.mov", 20.0, 25.0), "u_1_5_5": ("u_1.mov", 25.0, None)}
    assert texts(moments)["u_1_4_4"] == [("en", "a ball"), ("en", "one ball")]
    assert missing(moments)["u_1_4_4"] == ("missing_file", "https://flickr.example/1")


def test_the_agreed_moment_and_the_paragraph():
    assert consensus([(4, 4), (4, 4), (0, 0), (4, 4)]) == (4, 4)
    assert consensus([(2, 2), (1, 2), (1, 1), (2, 2)]) == (2, 2)
    assert consensus([(0, 0), (3, 5), (4, 4)]) == (3, 5)  # the others overlap it most, and it comes first
    assert paragraph(["One.", "", "  Two\n three. "]) == "One. Two three."


def test_activitynet_in_both_spellings(tmp_path: Path, small):
    small(activitynet, "paragraph", 1, {"en": 1})
    first = put(tmp_path, "a.jsonl", [{"clip_id": "v_x", "text": ["One.", "  Two."], "timestamps": []}])
    second = put(
        tmp_path, "val_1.json", {"v_x": {"duration": 9, "timestamps": [[0, 1]], "sentences": ["One.", " Two."]}}
    )
    for number, listing in enumerate((first, second)):
        (corpus,) = import_activitynet(listing, tmp_path / f"C{number}")
        assert texts(corpus) == {"v_x": [("en", "One. Two.")]}
        assert missing(corpus) == {"v_x": ("missing_file", "https://www.youtube.com/watch?v=x")}
    bad = put(tmp_path, "b.json", {"v_x": {"timestamps": []}})
    with pytest.raises(M2raapError, match="entry 'v_x': no column 'sentences'"):
        import_activitynet(bad, tmp_path / "D")


LSMDC_ROW = (
    '1_Film_00.00.51.926-00.00.54.129\t00.00.51.926\t00.00.54.129\t00.00.51.426\t00.00.54.629\tSOMEONE says "hi.\n'
)


def test_lsmdc(tmp_path: Path, small):
    small(lsmdc, "test", 2, {"en": 2})
    put(tmp_path, lsmdc.TEST, LSMDC_ROW + LSMDC_ROW.replace("1_Film", "2_Film"))
    put(tmp_path, "videos/1_Film/1_Film_00.00.51.926-00.00.54.129.avi", b"video")
    (corpus,) = import_lsmdc(tmp_path, tmp_path / "C")
    assert texts(corpus)["1_Film_00.00.51.926-00.00.54.129"] == [("en", 'SOMEONE says "hi.')]
    assert set(missing(corpus)) == {"2_Film_00.00.51.926-00.00.54.129"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LSMDC_ROW, "lsmdc-1k has 1,000 clips and 1,000 en texts; this list has 1 clips and 1 en texts"),
        ("a\tb\n", "row 1: 2 fields between tabs, expected 6: clip name, start_aligned"),
        ("clip\tstart\tend\tx\ty\tsentence\n", "row 1, column 'clip name': expected MOVIE_HH.MM.SS.mmm"),
        (LSMDC_ROW.replace("00.00.51.426", "soon"), "row 1, column 'start_extracted': .*'soon'"),
    ],
)
def test_lsmdc_that_is_none(tmp_path: Path, content: str, message: str):
    put(tmp_path, lsmdc.TEST, content)
    with pytest.raises(M2raapError, match=message):
        import_lsmdc(tmp_path, tmp_path / "C")


YOUKU = "clip_name:FILE,caption\nvideos/a1.mp4,一只猫在跑\nvideos/b2.mp4,两个人在说话\nvideos/a1.mp4,猫跑过草地\n"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_youku(tmp_path: Path, mark: str):
    listing = put(tmp_path, "retrieval_test.csv", mark + YOUKU)
    put(tmp_path, "videos/a1.mp4", b"video")
    (corpus,) = import_youku(listing, tmp_path / "C", protocol="test")
    assert corpus.benchmark == "youku" and corpus.counts["clips"] == 2 and corpus.counts["texts"] == 3
    assert texts(corpus) == {"a1": [("zh", "一只猫在跑"), ("zh", "猫跑过草地")], "b2": [("zh", "两个人在说话")]}
    assert clips(corpus)["a1"]["video"] == "videos/a1.mp4"
    assert missing(corpus) == {"b2": ("missing_file", "no such file")}, "it stays, and counts as a miss"
    (corpus,) = import_youku(listing, tmp_path / "D", protocol="val")
    assert corpus.benchmark == "youku-val"
    (corpus,) = import_youku(listing, tmp_path / "E", protocol="train")
    assert corpus.benchmark is None and {row["split"] for row in clips(corpus).values()} <= {"train", "val"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "video,caption\na.mp4,一只猫\n",
            "row 2: no column 'clip_name:FILE'; expected the columns clip_name:FILE, caption",
        ),
        ("video_id:FILE,golden_caption\na.mp4,一只猫\n", "row 2: no column 'clip_name:FILE', 'caption'"),
        ("clip_name:FILE,caption\n,一只猫\n", "row 2, column 'clip_name:FILE': expected a text"),
        ("clip_name:FILE,caption\na/x.mp4,一\nb/x.mp4,二\n", "row 3: clip_id 'x' is used for two videos"),
        ("clip_name:FILE,caption\na.mp4,\nb.mp4,\n", "holds no captions; give a list whose captions are published"),
        ("clip_name:FILE,caption\n", "holds no captions"),
    ],
)
def test_youku_that_is_none(tmp_path: Path, content: str, message: str):
    listing = put(tmp_path, "retrieval_test.csv", content)
    with pytest.raises(M2raapError, match=message):
        import_youku(listing, tmp_path / "C", protocol="test")


def test_youku_on_the_command_line(tmp_path: Path):
    listing = put(tmp_path, "retrieval_test.csv", YOUKU)
    refused = m2raap("data", "import", "youku", listing, "--out", tmp_path / "C", check=2)
    assert "give --protocol, one of train, val, test" in refused.stderr
    m2raap("data", "import", "youku", listing, "--protocol", "test", "--out", tmp_path / "C", check=0)
    assert open_corpus(tmp_path / "C").benchmark == "youku"


def test_msrvtt_training_sets(tmp_path: Path):
    videos = [{"video_id": f"video{i}", "split": s, "url": "https://y.example/w", "start time": 1, "end time": 2.5}
              for i, s in enumerate(("train", "validate", "test"))]  # fmt: skip
    sentences = [{"video_id": f"video{i}", "caption": f"ball {i}", "sen_id": i} for i in range(3)]
    put(tmp_path, "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    for name, ids in (("train.7k", "01"), ("train.full", "0"), ("train.9k", "012")):
        put(tmp_path, f"MSRVTT_{name}.csv", "video_id\n" + "".join(f"video{i}\n" for i in ids))
    (tmp_path / "videos").mkdir()
    (official,) = import_msrvtt(tmp_path, tmp_path / "C", protocol="train-7k")
    assert {i: row["split"] for i, row in clips(official).items()} == {"video0": "train", "video1": "val"}
    assert missing(official)["video0"] == ("missing_file", "https://y.example/w#t=1,2.5")
    (larger,) = import_msrvtt(tmp_path, tmp_path / "D", protocol="train-9k")
    assert larger.counts["clips"] == 3 and larger.source["captions"] == "MSRVTT_data.json"
    put(tmp_path, "MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\nret0,msr2,video2,a ball\n")
    with pytest.raises(M2raapError, match="1 of its videos .* MSRVTT_JSFUSION_test.csv.* video2"):
        import_msrvtt(tmp_path, tmp_path / "E", protocol="train-9k")
    with pytest.raises(M2raapError, match="1 test videos .* MSRVTT_train.9k.csv.* video2"):
        import_msrvtt(tmp_path, tmp_path / "E", protocol="1ka")


@pytest.mark.parametrize(
    ("name", "content", "protocol", "message"),
    [
        ("MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\nret0,msr1,video1,a man\n", "1ka",
         "msrvtt-1ka-jsfusion has 1,000 clips and 1,000 en texts; this list has 1 clips and 1 en texts"),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo1,a\n", "1ka", "row 2: no column 'key', 'vid_key'"),
        ("MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\na,b,v,c\na,b,v,d\n", "1ka", "row 3: 'v' is listed twice"),
        ("msrvtt_caption_test.json", [{"video": "v.mp4", "caption": "a"}], "full", "column 'caption': expected a list"),
        ("MSRVTT_data.json", {"videos": []}, "full", "expected the keys 'videos' and 'sentences', each a list"),
        ("MSRVTT_data.json", {"videos": [], "sentences": [{"video_id": "v", "caption": "c"}]}, "full",
         "'v' is not among the videos"),
        ("MSRVTT_train.7k.csv", "video_id\nvideo0\n", "train-7k", "holds no captions of training videos"),
    ],
)  # fmt: skip
def test_msrvtt_that_is_none(tmp_path: Path, name: str, content, protocol: str, message: str):
    (tmp_path / "videos").mkdir()
    put(tmp_path, name, content)
    with pytest.raises(M2raapError, match=message):
        import_msrvtt(tmp_path, tmp_path / "C", protocol=protocol)


# --- the published lists ---


def langs(corpus: Corpus) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in corpus.all_rows("texts", ["lang"]):
        found[row["lang"]] = found.get(row["lang"], 0) + 1
    return found


def test_real_msrvtt_lists(shared_data: Path, tmp_path: Path):
    folder = shared_data / "msrvtt"
    (one_ka,) = import_msrvtt(folder, tmp_path / "1ka")
    assert one_ka.counts == {"clips": 1000, "texts": 1000, "missing_file": 998}
    assert one_ka.benchmark == "msrvtt-1ka-jsfusion" and one_ka.source["overlap_with_train_9k"] == 0
    (full,) = import_msrvtt(folder, tmp_path / "full", protocol="full")
    assert (full.counts["clips"], full.counts["texts"]) == (2990, 59800) and full.source[
        "overlap_with_train_9k"
    ] == 1990
    (train,) = import_msrvtt(folder, tmp_path / "7k", protocol="train-7k")
    splits = [row["split"] for row in train.all_rows("clips", ["split"])]
    assert (splits.count("train"), splits.count("val")) == (6513, 497)
    assert train.source["captions"] == "train_one_caption, one a video"


def test_real_msvd_lists(shared_data: Path, tmp_path: Path):
    (test,) = import_msvd(shared_data / "msvd", tmp_path / "test")
    assert test.counts["clips"] == 670 and langs(test) == {"en": 27_763, "zh": 3_980}
    (whole,) = import_msvd(shared_data / "msvd", tmp_path / "all", protocol="all")
    assert whole.counts["clips"] == 1970 and langs(whole) == {"en": 80_827, "zh": 11_758} and "note" not in whole.source


def test_real_didemo_lists(shared_data: Path, tmp_path: Path):
    (paragraphs,) = import_didemo(shared_data / "didemo", tmp_path / "p")
    assert (paragraphs.counts["clips"], paragraphs.counts["texts"]) == (1002, 1002)
    (moments,) = import_didemo(shared_data / "didemo", tmp_path / "m", protocol="moments")
    assert (moments.counts["clips"], moments.counts["texts"], moments.source["videos"]) == (2635, 4021, 1004)


def test_real_activitynet_list(shared_data: Path, tmp_path: Path):
    (corpus,) = import_activitynet(shared_data / "activitynet" / "actnet_data_val1.jsonl", tmp_path / "C")
    assert (corpus.counts["clips"], corpus.counts["texts"]) == (4917, 4917)
