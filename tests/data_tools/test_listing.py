import csv
import gzip
import io
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools import listing
from data_tools.cell_readers import seconds_or_none
from data_tools.cells import sniff_lang
from data_tools.listing import read_headless, read_json_file, read_rows
from m2raap.core.errors import M2raapError

GOOD = "video,caption\na.mp4,a ball\n"


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path) -> list[dict]:
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "\n <!DOCTYPE html><html><body>404</body></html>", "is a web page, not the list"),
        ("l.json", "<html>", "is a web page"),
        ("l.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("l.csv", pickle.dumps({"a": ["b"]}), "is a pickle, and m2raap never unpickles"),
        ("l.json", pickle.dumps({"a": ["b"]}, protocol=0), "is a pickle"),
        ("l.pkl", b"anything", "is a pickle"),
        ("l.csv", b"PK\x03\x04rest", "zip archive"),
        ("l.csv", gzip.compress(GOOD.encode(), mtime=0), "let its name end in .gz"),
        ("l.csv", b"PAR1", "parquet"),
        ("l.csv", GOOD.encode("utf-16"), "UTF-16"),
        ("l.csv", b"video,caption\na.mp4,caf\xe9\n", "not UTF-8 at byte 23"),
        ("l.csv", b"\x00\x01\x02", "NUL bytes"),
        ("l.csv.gz", gzip.compress(GOOD.encode() * 99, mtime=0)[:-20], "cut short"),
        ("l.csv.gz", GOOD, "gzip"),
        ("l.csv", "video,video\na,b\n", "row 1: .*'video'"),
        ("l.csv", 'video,caption\na,"b\n', "row 2: unexpected end of data"),
        ("l.json", "{" + '"a":[' * 100_000, "not JSON"),
        ("l.json", '{"video": 1}', "expected a list of objects, found dict"),
        ("l.json", "[-Infinity]", "Infinity"),
        ("l.jsonl", '{"a": Infinity}', "row 1: not JSON"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | str, message: str
):
    path = put(tmp_path, name, content)
    with pytest.raises(M2raapError, match=message) as error:
        rows(path)
    assert str(path) in str(error.value)


def test_gzip_is_read_and_a_bomb_is_not(tmp_path: Path):
    assert rows(put(tmp_path, "l.csv.gz", gzip.compress(GOOD.encode()))) == [{"video": "a.mp4", "caption": "a ball"}]
    bomb = gzip.compress(b'{"a": "' + b" " * 40_000_000 + b'"}')
    with pytest.raises(M2raapError, match="far more than its size"):
        rows(put(tmp_path, "l.jsonl.gz", bomb))


def test_endless_lines_and_fields_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(listing, "MAX_LINE", 1000)
    monkeypatch.setattr(listing, "MAX_FIELD", 500)
    for name in ("l.jsonl", "l.csv"):
        with pytest.raises(M2raapError, match="row 1: longer than 1,000 characters"):
            rows(put(tmp_path, name, "a" * 2000))
    with pytest.raises(M2raapError, match="field larger than field limit"):
        rows(put(tmp_path, "l.csv", "video,caption\na," + "b" * 600))


@given(
    table=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), min_size=3, max_size=3),
        min_size=1,
        max_size=6,
    )
)
def test_csv_reads_back_what_csv_wrote(table: list[list[str]], tmp_path_factory):
    table = [["a" + row[0].replace("\x85", ""), row[1], row[2]] for row in table]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["x", "y", "z"], *table])
    path = put(tmp_path_factory.getbasetemp(), "hypothesis.csv", buffer.getvalue())
    assert [list(row.values()) for row in rows(path)] == table


def test_json_in_one_piece(tmp_path: Path):
    assert read_json_file(put(tmp_path, "a.json", "\ufeff" + json.dumps({"a": 1}))) == {"a": 1}
    with pytest.raises(M2raapError, match="no such file"):
        read_json_file(tmp_path / "b.json")


def test_rows_between_tabs(tmp_path: Path):
    path = put(tmp_path, "l.csv", 'one\t"two\r\n\nthree\tfour\n')
    assert list(read_headless(path, ("a", "b"))) == [(1, {"a": "one", "b": '"two'}), (3, {"a": "three", "b": "four"})]
    with pytest.raises(M2raapError, match="row 1: 2 fields between tabs, expected 3: a, b, c"):
        list(read_headless(path, ("a", "b", "c")))


@pytest.mark.parametrize(
    "value", ["soon", "inf", "-1", True, [1], 1 << 2000, "1,5", "1.5s", "0:61", "1:60:00", "0:00:01:12"]
)
def test_what_is_no_number_of_seconds(value):
    with pytest.raises(M2raapError, match="row 3, column 'start': expected a number of seconds"):
        seconds_or_none(value, Path("l.csv"), 3, "start")


def test_a_language_by_its_script():
    assert [sniff_lang(t) for t in ("a cat", "一只猫", "a 猫 on 滑板上的狗", "123", "")] == [
        "en",
        "zh",
        "zh",
        "en",
        "en",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", "video;caption\na.mp4;a ball, red\n"),
        ("l.csv", "sep=;\r\nvideo;caption\r\na.mp4;a ball, red\r\n"),
        ("l.csv", "video|caption\na.mp4|a ball, red\n"),
        ("l.csv", "video\tcaption\na.mp4\ta ball, red\n"),
        ("l.tsv", 'video,caption\na.mp4,"a ball, red"\n'),
        ("l.csv", 'video, caption\na.mp4, "a ball, red"\n'),
        ("l.csv", 'video,caption,,\na.mp4,"a ball, red",,\n'),
        ("l.csv", 'video,caption\na.mp4,"a ball, red",\n'),
        ("l.csv", '\r\nvideo,caption\r\na.mp4,"a ball, red"\r\n'),
    ],
)
def test_what_spreadsheets_write(tmp_path: Path, name: str, content: str):
    assert rows(put(tmp_path, name, content)) == [{"video": "a.mp4", "caption": "a ball, red"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", 'video,caption\na.mp4,"a man\nb.mp4,a dog\nc.mp4,a screen of 5"\n', "row 2: .* row 4, .*b.mp4,a dog"),
        ("l.csv", 'video,caption\na.mp4,"a man\nb.mp4,a dog\n', "row 2: unexpected end"),
        ("l.csv", 'video,caption\na.mp4,"says \\"hi\\" to"\n', "row 2: .*written twice"),
        ("l.csv", "video,caption\na.mp4,a man\nvideo,caption\nb.mp4,a dog\n", "row 3: is the header again"),
        ("l.tsv", "video\tcaption\nvideo\tcaption\n", "row 2: is the header again"),
        ("l.csv", "video,caption,,\na.mp4,a man,,ball\n", "row 2: column 4 .*'ball'"),
        ("l.csv", "video,caption\na.mp4,a man, slicing\n", "row 2: .*3 and 2"),
        ("l.jsonl", '{"video": "a.mp4"},\n', "row 1: .*no comma"),
        ("l.jsonl", '[\n{"video": "a.mp4"}]\n', "row 1: .*rename"),
        ("l.json", '{"video": "a.mp4"}\n{"video": "b.mp4"}\n', "rename"),
        ("l.json", '{"data": [{"video": "a.mp4"}], "info": 1}', "save the list under 'data'"),
        ("l.jsonl.zst", "", "zst; unpack"),
        ("l.csv", b"\x28\xb5\x2f\xfd\x00", "packed"),
    ],
)
def test_a_list_that_would_be_misread_is_refused_by_row(tmp_path: Path, name: str, content: bytes | str, message: str):
    with pytest.raises(M2raapError, match=message):
        rows(put(tmp_path, name, content))
