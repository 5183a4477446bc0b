"""Lists are read whole: columns of every row and spelling, ids of clips, files by stem; and what is not read is named."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.openvid import import_openvid
from data_tools.panda70m import import_panda70m
from data_tools.table import import_table
from data_tools.videofolder import import_videofolder
from data_tools.webdataset_tar import import_webdataset
from data_tools.webvid import import_webvid
from m2raap.core.errors import M2raapError
from tests.conftest import m2raap
from tests.data_tools.lists import clips, missing, put, texts
from tests.data_tools.test_free_lists import OPENVID, PANDA
from tests.data_tools.test_safe_tar import tar_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        put(tmp_path / "in", f"v{i}.mp4", b"some bytes")
    return tmp_path / "in"


def new(parent: Path) -> Path:
    """A folder that is not there yet, for a corpus."""
    return parent / f"C{len(list(parent.glob('C*')))}"


def table(folder: Path, name: str, content: object, **options):
    return import_table(put(folder, name, content), new(folder.parent), **options)


# --- columns ---

RAGGED = [
    {"video": "v0.mp4", "caption_en": "a ball"},
    {"video": "v1.mp4", "caption_zh": "一个球", "start": 1.0, "end": 2.0},
    {"path": "v2.mp4", "caption_en": "a cube", "caption_zh": "一个方块", "start_s": 2.0, "end_s": 4.0},
    {"video": "v3.mp4", "text": "a cone", "Licence": "CC0"},
]


@pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.parquet", "l.csv"])
@pytest.mark.parametrize("step", [1, -1])
def test_columns_are_those_of_all_rows_in_any_order(folder: Path, name: str, step: int):
    rows = RAGGED[::step]
    names = list(dict.fromkeys(key for row in rows for key in row))
    if name == "l.parquet":
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows]), folder / name)
        (corpus,) = import_table(folder / name, new(folder.parent))
    else:
        lines = [",".join(names)] + [",".join(str(row.get(key, "")) for key in names) for row in rows]
        (corpus,) = table(folder, name, "\n".join(lines) + "\n" if name == "l.csv" else rows)
    assert texts(corpus) == {
        "v0": [("en", "a ball")],
        "v1_1_2": [("zh", "一个球")],
        "v2_2_4": [("en", "a cube"), ("zh", "一个方块")],
        "v3": [("en", "a cone")],
    }
    assert clips(corpus)["v3"]["licence"] == "CC0" and "columns_not_read" not in corpus.source


@pytest.mark.parametrize(
    "header",
    ["Clip_ID,Video,Caption,caption_cn,Split", "clip-id,VIDEO PATH,text,text_chinese,SPLIT", "clipId,File,name,zh_name,subset"],
)  # fmt: skip
def test_known_columns_in_any_spelling(folder: Path, header: str):
    (corpus,) = table(folder, "l.csv", f"{header}\nk0,v0.mp4,a ball,一个球,Test\nk1,v1.mp4,a cube,,Validation\n")
    assert {row["clip_id"]: row["split"] for row in clips(corpus).values()} == {"k0": "test", "k1": "val"}
    assert texts(corpus) == {"k0": [("en", "a ball"), ("zh", "一个球")], "k1": [("en", "a cube")]}


def test_a_caption_beside_those_of_languages_counts_where_its_language_has_none(folder: Path):
    rows = "v0.mp4,a ball,a ball,,a title\nv1.mp4,一个方块,a cube,,a title\n"
    (corpus,) = table(folder, "l.csv", "video,caption,caption_en,caption_zh,title\n" + rows)
    assert texts(corpus) == {"v0": [("en", "a ball")], "v1": [("en", "a cube"), ("zh", "一个方块")]}
    assert corpus.source["columns_not_read"] == {"l.csv": ["title"]}


@pytest.mark.parametrize("header", ["video,caption,caption_cn,zh_source", "video,caption_en,caption_zh,zh_source"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_a_translation_names_its_source_in_any_order_of_columns(folder: Path, header: str, order: tuple[int, ...]):
    lines = [[cells.split(",")[i] for i in order] for cells in (header, "v0.mp4,a ball,一个球,some model")]
    (corpus,) = table(folder, "l.csv", "".join(",".join(cells) + "\n" for cells in lines))
    zh = next(row for row in corpus.all_rows("texts") if row["lang"] == "zh")
    assert (zh["origin"], zh["parent_text_id"], zh["producer"]) == ("translation", "v0.en0", "some model")


def test_a_clip_has_one_split_and_a_test_row_is_no_training_row(folder: Path):
    (corpus,) = table(folder, "l.csv", "video,text,split\nv0.mp4,a ball,\nv0.mp4,one ball,test\nv1.mp4,a cube,train\n")
    assert clips(corpus)["v0"]["split"] == "test"
    with pytest.raises(M2raapError, match="row 3: clip 'v0' is listed for test and for train"):
        table(folder, "l.csv", "video,text,split\nv0.mp4,a ball,train\nv0.mp4,one ball,test\n")


def test_zero_is_not_nothing(folder: Path):
    rows = [{"clip_id": 0, "video": "v0.mp4", "text": "a ball", "category": 0, "start": 0}]
    (corpus,) = table(folder, "l.jsonl", rows)
    row = clips(corpus)["0"]
    assert (row["category"], row["start_s"], row["end_s"]) == ("0", 0.0, None)
    (corpus,) = table(folder, "l.jsonl", [{"id": 0, "video": "v0.mp4", "text": "a ball"}])
    assert set(clips(corpus)) == {"0"}


def test_nested_lists_of_a_videofolder(tmp_path: Path):
    folder = tmp_path / "F"
    for name in ("a.mp4", "train/b.mp4", "data/test-1k/c.mp4", "data/validation/d.mp4"):
        put(folder, name, b"video")
        at, _, file = name.rpartition("/")
        put(folder / at, "metadata.jsonl", [{"file_name": file, "text": "a ball"}])
    put(folder / "data", "labels.csv", "a,b\n")
    (corpus,) = import_videofolder(folder, tmp_path / "C")
    assert {row["video"]: row["split"] for row in clips(corpus).values()} == {
        "a.mp4": "train",
        "train/b.mp4": "train",
        "data/test-1k/c.mp4": "test",
        "data/validation/d.mp4": "val",
    }
    assert corpus.source["lists_not_read"] == ["data/labels.csv"]
    put(folder, "train/test/metadata.csv", "file_name,text\nx.mp4,a\n")
    with pytest.raises(M2raapError, match=r"metadata.csv: .*test and train"):
        import_videofolder(folder, tmp_path / "D")


def test_a_list_that_names_a_file_of_a_nested_list_gives_it_its_split(tmp_path: Path):
    put(tmp_path / "F", "test/c.mp4", b"video")
    put(tmp_path / "F", "metadata.csv", "file_name,text\ntest/c.mp4,a ball\n")
    put(tmp_path / "F", "test/metadata.csv", "file_name,text\nc.mp4,one ball\n")
    (corpus,) = import_videofolder(tmp_path / "F", tmp_path / "C")
    assert {i: row["split"] for i, row in clips(corpus).items()} == {"test/c": "test"} and corpus.counts["texts"] == 2


def test_the_talk_names_what_is_not_read_and_the_line_counts_each_half(folder: Path):
    put(
        folder,
        "l.csv",
        "video,caption,Duration,mood\nv0.mp4,a ball,2,\nv1.mp4,一个球,2,\nv9.mp4,a cube,3,\n../x,a,3,\n",
    )
    done = m2raap("data", "import", "table", folder / "l.csv", "--holdout", "1", "--out", folder.parent / "C")
    assert "not read: columns of l.csv: Duration\n" in done.stderr
    train, held = done.stdout.splitlines()
    assert "{" not in done.stdout and "3 texts" in train and "1 texts" in held
    sides = [json.loads((folder.parent / name / "manifest.json").read_text()) for name in ("C", "C-holdout")]
    assert sum(side["counts"]["missing_file"] for side in sides) == 1
    assert sum(side["counts"].get("outside_root", 0) for side in sides) == 1
    assert [sum(side["source"]["langs"].values()) for side in sides] == [3, 1]


# --- ids ---

NUMBERED = "id,video,caption\n" + "".join(f"{i},v{i // 2}.mp4,ball {i}\n" for i in range(6))


def test_ids_of_captions_are_no_ids_of_clips(folder: Path):
    train, held = table(folder, "l.csv", NUMBERED, num_holdout=2)
    assert set(clips(train)) | set(clips(held)) == {"v0", "v1", "v2"}
    assert (held.counts["clips"], held.counts["texts"], train.counts["texts"]) == (2, 4, 2)
    (held,) = table(folder, "l.csv", NUMBERED, num_holdout=3)
    assert (
        held.benchmark
        and held.benchmark.endswith("-holdout-3-seed0")
        and (held.counts["clips"], held.counts["texts"]) == (3, 6)
    )
    with pytest.raises(M2raapError, match="--holdout 4: must be between 1 and 3"):
        table(folder, "l.csv", NUMBERED, num_holdout=4)


def test_ids_that_begin_again_in_each_list_are_no_ids_of_clips(tmp_path: Path):
    for split in ("train", "test"):
        put(
            tmp_path / "F", f"{split}/metadata.jsonl", [{"id": i, "file_name": f"{i}.mp4", "text": "a"} for i in (0, 1)]
        )
    (corpus,) = import_videofolder(tmp_path / "F", tmp_path / "C")
    assert set(clips(corpus)) == {"train/0", "train/1", "test/0", "test/1"}


@pytest.mark.parametrize("order", [1, -1])
def test_one_span_under_several_clip_ids_is_one_clip(folder: Path, order: int):
    rows = [("k2", "v0.mp4", "0", "2"), ("k1", "v0", "", "2"), ("k3", "v0.mp4", "2", "3")]
    lines = [f"{i},{video},{start},{end},ball {i}" for i, video, start, end in rows][::order]
    (corpus,) = table(folder, "l.csv", "clip_id,video,start,end,caption\n" + "\n".join(lines) + "\n")
    assert {i: len(of_clip) for i, of_clip in texts(corpus).items()} == {"k1": 2, "k3": 1}
    assert corpus.source["rows_under_other_ids"] == 1


def test_equal_spans_of_a_panda_row_are_one_clip(tmp_path: Path):
    spans = "[['0:00:01', '0:00:02'], ['0:00:01', '0:00:02']]"
    listing = put(tmp_path, "p.csv", f"""{PANDA}x,u,"{spans}","['a ball', 'one ball']","[1, 2]"\n""")
    (corpus,) = import_panda70m(listing, tmp_path / "C")
    assert texts(corpus) == {"x.0": [("en", "a ball"), ("en", "one ball")]}


def test_two_files_of_one_stem_have_ids_of_their_own(folder: Path):
    put(folder, "v0.avi", b"other")
    for lines in (["v0.mp4,a ball", "v0.avi,a cube"], ["v0.avi,a cube", "v0.mp4,a ball"]):
        (corpus,) = table(folder, "l.csv", "\n".join(["video,caption", *lines, "v1.mp4,a cone", ""]))
        assert {i: of_clip[0][1] for i, of_clip in texts(corpus).items()} == {
            "v0.mp4": "a ball",
            "v0.avi": "a cube",
            "v1": "a cone",
        }
    (corpus,) = table(folder, "l.csv", "video,caption\nhttps://e.org/w?v=1,a ball\nhttps://e.org/w?v=2,a cube\n")
    assert set(clips(corpus)) == {"https://e.org/w?v=1", "https://e.org/w?v=2"}


# --- cells ---


def test_tsv_has_no_quotes_unless_it_was_quoted(folder: Path):
    content = 'video\tcaption\nv0.mp4\t"Hello" she says\nv1.mp4\ta 5" pipe\nv2.mp4\t"[""a"", ""b""]"\n'
    (corpus,) = table(folder, "l.tsv", content)
    assert [text for of_clip in texts(corpus).values() for _, text in of_clip] == [
        '"Hello" she says',
        'a 5" pipe',
        "a",
        "b",
    ]
    (corpus,) = table(folder, "m.tsv", '"video"\t"caption"\n"v0.mp4"\t"a ball"\n')
    assert texts(corpus) == {"v0": [("en", "a ball")]}
    with pytest.raises(M2raapError, match="m.tsv: row 2: has another number of columns"):
        table(folder, "m.tsv", "video\tcaption\nv0.mp4\ta\tb\n")


def test_lists_in_cells_are_several_texts_in_every_importer(folder: Path):
    cell = '"[""a ball"", ""one ball""]"'
    expected = [("en", "a ball"), ("en", "one ball")]
    out = folder.parent
    (corpus,) = table(folder, "l.csv", f"video,caption\nv0.mp4,{cell}\n")
    assert texts(corpus)["v0"] == expected
    with pytest.raises(M2raapError, match=r"l.csv: row 2, column 'caption': .*list of texts"):
        table(folder, "l.csv", 'video,caption\nv0.mp4,"[1, 2]"\n')
    listing = put(folder, "w.csv", f"videoid,name,page_dir,contentUrl\n1,{cell},p,u\n")
    assert texts(import_webvid(listing, out / "W")[0])["1"] == expected
    listing = put(folder, "o.csv", f"{OPENVID}v0.mp4,{cell},1,1,1,s,1,1,1\n")
    assert texts(import_openvid(listing, out / "O")[0])["v0"] == expected
    shard = put(folder, "s.tar", tar_of(("1.mp4", b"video"), ("1.txt", b"['a ball', 'one ball']")))
    assert texts(import_webdataset(shard, out / "S")[0])["1"] == expected


def test_spellings_of_nothing_are_empty_in_every_importer(folder: Path):
    out = folder.parent
    put(
        folder,
        "l.csv",
        "video,caption,url,start,split\nv0.mp4,nan,None,N/A,null\nv1.mp4,a ball,NULL,,\nv2.mp4,[],,nan,\n",
    )
    train, held = import_table(folder / "l.csv", out / "C", num_holdout=1)
    assert set(clips(held)) == {"v1"} and held.counts["texts"] == 1 and train.counts["texts"] == 0
    assert train.source["empty_texts"] == 2 and {row.get("url") for row in clips(train).values()} == {None}
    with pytest.raises(M2raapError, match="--holdout 2: must be between 1 and 1"):
        import_table(folder / "l.csv", out / "D", num_holdout=2)
    pq.write_table(pa.Table.from_pylist([{"video": "v0.mp4", "caption": "a", "start": math.nan}]), folder / "l.parquet")
    assert set(clips(import_table(folder / "l.parquet", out / "P")[0])) == {"v0"}
    (corpus,) = table(folder, "l.jsonl", '{"video": "v0.mp4", "caption": NaN, "caption_zh": [null, "一个球"]}\n')
    assert texts(corpus) == {"v0": [("zh", "一个球")]}
    listing = put(folder, "w.csv", "videoid,name,page_dir,contentUrl\n1,N/A,p,nan\n")
    (corpus,) = import_webvid(listing, out / "W")
    assert corpus.counts["texts"] == 0 and clips(corpus)["1"].get("url") is None
    shard = put(
        folder, "s.tar", tar_of(("1.mp4", b"v"), ("1.txt", b"nan"), ("1.json", b'{"caption": NaN, "Split": "Test"}'))
    )
    (corpus,) = import_webdataset(shard, out / "S")
    assert corpus.counts["texts"] == 0 and clips(corpus)["1"]["split"] == "test"


def test_clock_times_of_a_table(folder: Path):
    (corpus,) = table(folder, "l.csv", "video,caption,start,end\nv0.mp4,a,0:01,00:00:02.500\n")
    assert (clips(corpus)["v0_1_2.5"]["start_s"], clips(corpus)["v0_1_2.5"]["end_s"]) == (1.0, 2.5)


# --- files ---


def test_files_are_found_by_stem_case_and_slash(tmp_path: Path):
    for name in ("v0.mp4", "v1.mkv", "v2.MP4", "Sub/v3.webm", "twice.avi", "twice.mp4", "v5.mov"):
        put(tmp_path / "F", name, b"video")
    names = ["v0", "v1.mp4", "V2.mp4", "sub\\v3.mp4", "twice", "gone.mp4", "./v5.mov", "v5"]
    rows = [{"file_name": name, "text": f"about {name}"} for name in names]
    (corpus,) = import_videofolder(put(tmp_path / "F", "metadata.jsonl", rows).parent, tmp_path / "C")
    found = {row["video"] for row in clips(corpus).values()}
    assert found == {"v0.mp4", "v1.mkv", "v2.MP4", "Sub/v3.webm", "v5.mov", "twice", "gone.mp4"}
    assert set(missing(corpus)) == {"twice", "gone"} and len(texts(corpus)["v5"]) == 2


def test_a_file_of_another_row_is_not_taken(folder: Path):
    (corpus,) = table(folder, "l.csv", "video,caption\nv0.mp4,a ball\nv0.avi,a cube\n")
    assert {row["video"] for row in clips(corpus).values()} == {"v0.mp4", "v0.avi"}
    assert set(missing(corpus)) == {"v0.avi"}


@pytest.mark.parametrize(
    ("names", "where", "advice"),
    [
        (["x.mp4", "y.mp4"], "v", "all of 2 videos"),
        (["videos/v0.mp4", "/abs/v1.mp4"], "in", "2 would be found by the last part"),
        (["in/v0.mp4", "in/gone.mp4"], "in", "1 would be found with --video-dir"),
        (["v0.mp4", "v1.avi"], "", "2 would be found with --video-dir"),
        (["twice", "gone.mp4", "v0.mp4"], "in", "1 fit several files"),
    ],
)
def test_how_missing_files_would_be_found(folder: Path, names: list[str], where: str, advice: str, capsys):
    for name in ("in/twice.avi", "in/twice.mp4", "v/other.txt"):
        put(folder.parent, name, b"video")
    listing = put(folder / "lists", "l.csv", "video,caption\n" + "".join(f"{name},a ball\n" for name in names))
    import_table(listing, folder.parent / "C", video_dir=folder.parent / where)
    assert advice in capsys.readouterr().err


def test_rows_that_were_never_downloaded_are_counted(folder: Path):
    listing = put(
        folder, "results_2M_train.csv",
        "videoid,contentUrl,duration,page_dir,name\n11,u1,P,p,a ball\n12,u2,P,,a cube\n13,u3,P,nan,a cone\n",
    )  # fmt: skip
    put(folder, "p/11.mkv", b"video")
    (corpus,) = import_webvid(listing, folder.parent / "W")
    assert (corpus.source["rows_without_page_dir"], corpus.counts["clips"], corpus.counts["missing_file"]) == (2, 3, 2)
    assert clips(corpus)["11"]["video"] == "p/11.mkv" and missing(corpus)["12"] == ("missing_file", "u2")
    rows = [{"video": None, "caption": "lost"}, {"video": "v0.mp4", "caption": "a ball"}]
    (corpus,) = table(folder, "l.jsonl", rows)
    assert set(clips(corpus)) == {"v0"} and corpus.source["rows_without_video"] == 1
