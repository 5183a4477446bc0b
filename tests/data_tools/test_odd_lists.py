"""Lists as tools, spreadsheets and people leave them: names of web pages, numbers as names, times in other columns."""

import os
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.cells import texts_in
from data_tools.table import import_table
from m2raap.core.errors import M2raapError
from tests.data_tools.lists import clips, missing, put, texts, texts_of


def table(folder: Path, content: object, *files: str, name: str = "l.csv"):
    for file in ("v0.mp4", "v1.mp4", "v2.mp4", *files):
        put(folder, file, b"some bytes")
    return import_table(put(folder, name, content), folder.parent / f"{folder.name}-C")[0]


# --- videos ---


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my%20clip.mp4", "my clip.mp4"),
        ("%E4%B8%AD", "中.mp4"),
        ("a &amp; b.mp4", "a & b.mp4"),
        ("7010.0", "7010.mp4"),
        ("'v0.mp4'", "v0.mp4"),
        ("7010.0.mp4", "7010.mp4"),
        ("100%25.mp4", "100%25.mp4"),
        ("\u200bv0.mp4\ufeff", "v0.mp4"),
        ("{folder}/sub/v3.mp4", "sub/v3.mp4"),
        ("file://{folder}/sub/v3%20b.mp4", "sub/v3 b.mp4"),
    ],
)
def test_a_name_that_means_a_file(tmp_path: Path, name: str, file: str):
    corpus = table(tmp_path / "in", f"video,caption\n{name.format(folder=tmp_path / 'in')},a ball\n", file)
    assert [row["video"] for row in clips(corpus).values()] == [file] and not missing(corpus)


def test_a_folder_of_frames_beside_a_video_is_not_the_video(tmp_path: Path):
    corpus = table(
        tmp_path / "in", "video_id,caption\nv0,a\nsub/v3,b\n", "v0/0001.jpg", "sub/v3/0001.jpg", "sub/v3.mp4"
    )
    assert {row["video"] for row in clips(corpus).values()} == {"v0.mp4", "sub/v3.mp4"} and not missing(corpus)


def test_formulas_that_keep_numbers_as_text(tmp_path: Path):
    corpus = table(tmp_path / "in", 'video,caption,clip_id\n="007",a,="008"\n', "007.mp4")
    assert set(clips(corpus)) == {"008"} and not missing(corpus)


def test_keys_of_a_data_base_are_no_ids(tmp_path: Path):
    corpus = table(tmp_path / "in", [{"_id": {"$oid": "5f"}, "video": "v0.mp4", "caption": "a"}], name="l.jsonl")
    assert set(clips(corpus)) == {"v0"} and corpus.source["columns_not_read"] == {"l.jsonl": ["_id"]}


@pytest.mark.parametrize("name", ["%2e%2e/out.mp4", "..%2fout.mp4", "%2Fetc/passwd", "a%00.mp4"])
def test_an_encoded_name_does_not_leave_the_folder(tmp_path: Path, name: str):
    put(tmp_path, "out.mp4", b"some bytes")
    assert len(missing(table(tmp_path / "in", f"video,caption\n{name},a ball\n"))) == 1


def test_whole_numbers_that_a_table_kept_as_floats(tmp_path: Path):
    rows = pa.table({"video": [7010.0, 7011.0], "caption": ["a ball", "a cube"]})
    (tmp_path / "in").mkdir()
    pq.write_table(rows, tmp_path / "in/l.parquet")
    for file in ("7010.mp4", "7011.mp4"):
        put(tmp_path / "in", file, b"some bytes")
    (corpus,) = import_table(tmp_path / "in/l.parquet", tmp_path / "C")
    assert set(clips(corpus)) == {"7010", "7011"} and not missing(corpus)


def test_links_out_of_the_folder_and_lost_zeros_are_told(tmp_path: Path, capsys):
    put(tmp_path, "store/a.mp4", b"some bytes")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "store/a.mp4", tmp_path / "in/linked.mp4")
    table(tmp_path / "in", "video,caption\nlinked.mp4,a ball\n12,a cube\n", "0012.mp4")
    told = capsys.readouterr().err
    assert "1 are links out of it" in told and str(tmp_path / "store/a.mp4") in told
    assert "1 would be found with zeros" in told


def test_errors_of_a_spreadsheet_are_no_names_and_no_captions(tmp_path: Path):
    corpus = table(tmp_path / "in", "video,caption\n#NAME?,a ball\nv1.mp4,#VALUE!\nv2.mp4,a cube\n")
    assert texts_of(corpus) == {"v2": ["a cube"]}
    assert (corpus.source["rows_without_video"], corpus.source["empty_texts"]) == (1, 1)


# --- captions ---


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("caption1,caption2", "a ball,one ball"),
        ("caption,caption_2,title", "a ball,one ball,VID_01"),
        ("Text_EN_1,Text_EN_2,text_en_3", "a ball,one ball,"),
    ],
)
def test_numbered_columns_are_several_captions(tmp_path: Path, header: str, row: str):
    corpus = table(tmp_path / "in", f"video,{header}\nv0.mp4,{row}\n")
    assert texts_of(corpus) == {"v0": ["a ball", "one ball"]}


def test_a_column_that_names_the_language(tmp_path: Path):
    rows = "v0.mp4,a ball,English\nv0.mp4,一个球,zh-Hant-TW\nv1.mp4,ein Ball,de\nv2.mp4,OK 好,en_AU\n"
    corpus = table(tmp_path / "in", f"video,caption,Language\n{rows}")
    assert texts(corpus) == {"v0": [("en", "a ball"), ("zh", "一个球")], "v2": [("en", "OK 好")]}
    assert corpus.source["texts_in_other_languages"] == 1 and "columns_not_read" not in corpus.source


@pytest.mark.parametrize("cell", ["{'en': 'a ball', 'zh': '一个球'}", '{""caption"": ""a ball""}'])
def test_an_object_in_a_cell_is_no_caption(tmp_path: Path, cell: str):
    with pytest.raises(M2raapError, match="row 2, column 'caption': .*object with the keys"):
        table(tmp_path / "in", f'video,caption\nv0.mp4,"{cell}"\n')


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("[np.str_('a ball'), np.str_(\"a man's cube\")]", ["a ball", "a man's cube"]),
        ("np.str_('a ball')", ["a ball"]),
        ("[b'a ball', b'\\xe4\\xb8\\xad']", ["a ball", "中"]),
        ("b'a ball'", ["a ball"]),
        ("{'a ball', 'a cube'}", ["a ball", "a cube"]),
        ("b'day of a man", ["b'day of a man"]),
        ('["Happy day"] on a wall', ['["Happy day"] on a wall']),
        ("[Music] a 'ball']", ["[Music] a 'ball']"]),
    ],
)
def test_notations_of_texts(cell: str, captions: list[str]):
    assert texts_in(cell) == captions


@pytest.mark.parametrize("cell", ["['a dog's ball', 'a cube']", "['a ball', 'a cu", '["a "big" ball"]'])
def test_a_list_that_cannot_be_read_is_no_caption(tmp_path: Path, cell: str):
    with pytest.raises(M2raapError, match="row 1, column 'caption': .*cut off"):
        table(tmp_path / "in", [{"video": "v0.mp4", "caption": cell}], name="l.jsonl")


@pytest.mark.parametrize("again", ["\ufeffvideo,caption", "Video, Caption"])
def test_a_second_header_of_joined_lists_is_no_clip(tmp_path: Path, again: str):
    with pytest.raises(M2raapError, match="row 3: is the header again"):
        table(tmp_path / "in", f"video,caption\nv0.mp4,a ball\n{again}\nv1.mp4,a cube\n")


@pytest.mark.parametrize("header", ["captionEN,CaptionCN", "Caption (en),caption (zh)", "sentences,Caption-Chinese"])
def test_columns_of_captions_in_any_spelling(tmp_path: Path, header: str):
    corpus = table(tmp_path / "in", f"video,{header}\nv0.mp4,a ball,一个球\n")
    assert ("zh", "一个球") in texts(corpus)["v0"]
    assert header.startswith("sentences") or texts(corpus) == {"v0": [("en", "a ball"), ("zh", "一个球")]}


# --- times and splits ---


def test_start_and_end_in_one_cell(tmp_path: Path):
    rows = [{"video": "v0.mp4", "caption": "a", "timestamp": [0, 1.5]}, {"video": "v1.mp4", "caption": "b"}]
    corpus = table(tmp_path / "in", rows, name="l.jsonl")
    assert set(clips(corpus)) == {"v0_0_1.5", "v1"}
    corpus = table(tmp_path / "csv", 'video,caption,Timestamps\nv0.mp4,a,"(1, 2.5)"\nv1.mp4,b,2026-01-01\n')
    assert set(clips(corpus)) == {"v0_1_2.5", "v1"}
    with pytest.raises(M2raapError, match="row 1, column 'timestamps': several spans"):
        table(tmp_path / "s", [{"video": "v0.mp4", "caption": "a", "timestamps": [[0, 1], [1, 2]]}], name="l.jsonl")


@pytest.mark.parametrize(
    "header",
    [
        "Start_timestamp,End_timestamp", "t_start,t_end", "clip_start,clip_end", "begin_s,end_s", "Start (s),End (s)",
        "Segment Start Time (seconds),Segment End Time (seconds)",
    ],
)  # fmt: skip
def test_columns_of_start_and_end_under_other_names(tmp_path: Path, header: str):
    rows = "v0.mp4,a ball,1,00:00:02.500\nv0.mp4,a cube,2.5,0 days 00:00:04.5\n"
    corpus = table(tmp_path / "in", f"video,caption,{header}\n{rows}")
    assert texts_of(corpus) == {"v0_1_2.5": ["a ball"], "v0_2.5_4.5": ["a cube"]}
    assert "columns_not_read" not in corpus.source


def test_known_columns_of_times_go_before_others(tmp_path: Path):
    corpus = table(
        tmp_path / "in", "video,caption,video_start,video_end,start,end\nv0.mp4,a,0,60,1,2\nv1.mp4,b,0,60,,\n"
    )
    assert set(clips(corpus)) == {"v0_1_2", "v1"}
    assert corpus.source["columns_not_read"] == {"l.csv": ["video_start", "video_end"]}


@pytest.mark.parametrize(
    ("cell", "clip_id"),
    [
        ("0:01 - 0:02.5", "v0_1_2.5"), ("1.0-2.5", "v0_1_2.5"), ("00:01,00:03", "v0_1_3"), ("[[1, 2]]", "v0_1_2"),
        ("1 to 2", "v0_1_2"), ("2026-12", "v0"), ("2026-01-01 10:00", "v0"), ("12:30", "v0"),
    ],
)  # fmt: skip
def test_spans_in_words(tmp_path: Path, cell: str, clip_id: str):
    assert set(clips(table(tmp_path / "in", f'video,caption,segment\nv0.mp4,a ball,"{cell}"\n'))) == {clip_id}


def test_lengths_of_time_in_parquet(tmp_path: Path):
    times = [timedelta(seconds=1.5), timedelta(seconds=3)]
    rows = pa.table(
        {"video": ["v0.mp4"], "caption": ["a ball"], "start": times[:1], "end": times[1:], "clip_id": [7.0]}
    )
    pq.write_table(rows, tmp_path / "l.parquet")
    clip = clips(import_table(tmp_path / "l.parquet", tmp_path / "C")[0])["7"]
    assert (clip["start_s"], clip["end_s"]) == (1.5, 3.0)


def test_times_that_a_spreadsheet_kept_as_parts_of_a_day_are_refused(tmp_path: Path):
    with pytest.raises(M2raapError, match="row 2: the clip lasts 0.00011"):
        table(tmp_path / "in", "video,caption,start,end\nv0.mp4,a ball,0.000115741,0.000231481\n")


@pytest.mark.parametrize(
    "header", ["start_frame,end_frame", "StartMs,EndMs", "frame_start,frame_end", "start,duration", "clip_start_ms,to"]
)
def test_times_that_would_be_misread_are_refused(tmp_path: Path, header: str):
    with pytest.raises(M2raapError, match="row 1: the columns"):
        table(tmp_path / "in", f"video,caption,{header}\nv0.mp4,a ball,0,10\n")


def test_videos_in_several_splits_are_told(tmp_path: Path, capsys):
    rows = "v0.mp4,a,0,1,train\nv0.mp4,b,1,2,test\nv0.mp4,c,2,3,\nv1.mp4,c,0,1,val\n"
    corpus = table(tmp_path / "in", f"video,cap,start,end,split\n{rows}")
    assert corpus.source["videos_in_several_splits"] == 1 and len(clips(corpus)) == 4
    assert "1 videos are in more than one split" in capsys.readouterr().err


def test_every_row_of_a_column_of_splits_names_one(tmp_path: Path):
    corpus = table(tmp_path / "in", "video,caption,set\nv0.mp4,a,train\nv1.mp4,b,Test\nv2.mp4,c,\n")
    assert [clips(corpus)[f"v{i}"]["split"] for i in range(3)] == ["train", "test", "train"]
    for order in (("train", "holdout"), ("holdout", "train")):
        rows = "".join(f"v{i}.mp4,a,{name}\n" for i, name in enumerate(order))
        with pytest.raises(M2raapError, match=f"row {2 + order.index('holdout')}, column 'subset': .*holdout"):
            table(tmp_path / "in", f"video,caption,subset\n{rows}")
    corpus = table(tmp_path / "eval", "video,caption,dataset_split\nv0.mp4,a,eval\nv1.mp4,b,validate\nv2.mp4,c,train\n")
    assert [clips(corpus)[f"v{i}"]["split"] for i in range(3)] == ["test", "val", "train"]
    corpus = table(tmp_path / "any", "video,caption,subset\nv0.mp4,a,A\nv1.mp4,b,B\n")
    assert corpus.source["columns_not_read"] == {"l.csv": ["subset"]}
