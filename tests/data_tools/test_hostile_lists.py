"""Lists that others made in order to break the import, or that are simply broken: one sentence, before the memory is spent."""

from __future__ import annotations

import gzip
import json
import resource
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools import strict_json
from data_tools.columns import Columns
from data_tools.listing import read_json_file, read_rows
from data_tools.panda70m import import_panda70m
from data_tools.table import import_table
from data_tools.videofolder import import_videofolder
from data_tools.webdataset_tar import import_webdataset
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError
from tests.data_tools.test_webdataset_tar import shard

HALF = "\ud83d"  # half of a surrogate pair, as a cut emoji leaves it in JSON


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, store_schema=False)
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def refused(path: Path, message: str) -> None:
    with pytest.raises(M2raapError, match=message) as error:
        import_table(path, path.parent / "C")
    assert str(path) in str(error.value) and len(str(error.value)) < 5000


def clips(corpus: Corpus) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in corpus.all_rows("clips")}


def test_a_csv_with_very_many_columns(tmp_path: Path):
    refused(put(tmp_path / "l.csv", "video,caption" + "," * 300_000 + "\n"), "row 1: 300,002 columns")
    wide = ",".join(["video", "caption", *(f"c{n}" for n in range(1000))])
    assert len(rows(put(tmp_path / "w.csv", wide + "\nv.mp4,a ball" + "," * 1000 + "\n"))[0]) == 1002


def test_rows_of_very_many_columns_in_other_kinds_of_lists(tmp_path: Path):
    names = ["video", "caption", *(f"c{n}" for n in range(5000))]
    refused(put(tmp_path / "l.tsv", "\t".join(names) + "\n"), "row 1: 5,002 columns")
    row = json.dumps(dict.fromkeys(names, "x"))
    refused(put(tmp_path / "l.jsonl", f'{{"video": "v.mp4", "caption": "a ball"}}\n{row}\n'), "row 2: 5,002 columns")
    refused(put(tmp_path / "l.json", f"[{row}]"), "row 1: 5,002 columns")


def test_columns_that_differ_in_every_row_are_not_all_remembered():
    columns = Columns(("video", "caption"))
    for number in range(12):
        columns.row({"video": "v.mp4", **{f"k{number}_{n}": 1 for n in range(1000)}})
    columns.row({"Caption": "a ball", "caption_cn": "一个球"})
    assert len(columns.names) < 11_000 and columns.by_lang == {"caption_cn": "zh"}
    assert {"Caption", "caption_cn"} <= set(columns.unread)


def repeated(text: str, times: int, shape: str) -> pa.Array:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text]))
    if shape == "list":
        return pa.ListArray.from_arrays(pa.array(range(times + 1), pa.int32()), texts)
    return pa.StructArray.from_arrays([texts], ["a"]) if shape == "struct" else texts


@pytest.mark.parametrize("shape", ["flat", "list", "struct"])
@pytest.mark.parametrize(("length", "message"), [(3_000_000, "column 'caption': .* 3,000,000"), (500_000, "MiB")])
def test_a_small_parquet_file_that_unpacks_to_gigabytes(tmp_path: Path, shape: str, length: int, message: str):
    videos = [f"v{n}.mp4" for n in range(400)]
    path = parquet(tmp_path / "l.parquet", video=videos, caption=repeated("x" * length, 400, shape))
    assert path.stat().st_size < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, message)
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kB"


def test_the_row_of_a_long_text_is_named(tmp_path: Path):
    refused(
        parquet(tmp_path / "l.parquet", video=["a.mp4", "b.mp4"], caption=["a", "b" * 2_000_000]),
        "row 2, column 'caption'",
    )


def test_parquet_gives_the_rows_that_pyarrow_gives(tmp_path: Path):
    columns = {
        "video": [f"v{n}.mp4" for n in range(9000)],
        "captions_en": [[f"ball {n}", "a ball"] if n % 3 else None for n in range(9000)],
        "start": [n / 7 for n in range(9000)],
        "meta": [{"a": "b", "n": n} for n in range(9000)],
        "source": pa.array([None if n % 2 else "a source" for n in range(9000)], pa.large_string()),
        "tags": pa.array([[("k", "v")]] * 9000, pa.map_(pa.string(), pa.string())),
    }
    path = parquet(tmp_path / "l.parquet", **columns)
    assert rows(path) == pq.read_table(path).to_pylist()
    assert [number for number, _ in read_rows(path)] == list(range(1, 9001))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("ms")),
        pa.array([2**62], pa.timestamp("us", "UTC")),
        pa.array([2**62], pa.date64()),
        pa.array([2**31 - 1], pa.date32()),
        pa.array([2**62], pa.duration("s")),
        pa.array([[2**62]], pa.list_(pa.timestamp("us"))),
    ],
)
def test_dates_that_python_cannot_represent(tmp_path: Path, column: pa.Array):
    path = parquet(tmp_path / "l.parquet", video=["v.mp4"], caption=["a ball"], unused=column)
    assert import_table(path, tmp_path / "C")[0].counts["clips"] == 1
    refused(parquet(tmp_path / "t.parquet", video=["v.mp4"], caption=["a ball"], start=column), "row 1, column 'start'")


def test_two_columns_of_one_name_and_a_key_given_twice(tmp_path: Path):
    table = pa.Table.from_arrays(
        [pa.array(["v.mp4"]), pa.array(["a"]), pa.array(["b"])], names=["video", "caption", "caption"]
    )
    pq.write_table(table, tmp_path / "l.parquet")
    refused(tmp_path / "l.parquet", "two columns are named 'caption'")
    twice = '{"video": "v.mp4", "caption": "a", "caption": "b"}'
    refused(put(tmp_path / "l.jsonl", '{"video": "u.mp4", "caption": "a"}\n' + twice + "\n"), "row 2: .*'caption'")
    refused(put(tmp_path / "l.json", f"[{twice}]"), "'caption'")
    with pytest.raises(M2raapError, match=r"a.json.*'caption'"):
        import_webdataset(
            shard(tmp_path / "in", ("a.mp4", b"v"), ("a.json", b'{"caption": "a", "caption": "b"}')), tmp_path / "D"
        )


def test_bytes_are_texts_where_they_are_utf_8(tmp_path: Path):
    video, binary = ["v.mp4"], pa.binary()
    good = parquet(tmp_path / "g.parquet", clip_id=pa.array([b"c1"], binary), video=pa.array([b"v.mp4"], binary),
                   caption=pa.array(["一个球".encode()], binary), image=pa.array([b"\xff\xd8"], binary))  # fmt: skip
    (corpus,) = import_table(good, tmp_path / "C")
    assert list(clips(corpus)) == ["c1"] and corpus.all_rows("texts")[0]["text"] == "一个球"
    bad = pa.array([b"\xff\xfe"], binary)
    refused(parquet(tmp_path / "i.parquet", clip_id=bad, video=video, caption=["a"]), "row 1, column 'clip_id'")
    refused(parquet(tmp_path / "c.parquet", video=video, caption=bad), "row 1, column 'caption'")
    refused(parquet(tmp_path / "s.parquet", video=video, caption=["a"], license=bad), "row 1, column 'licence'")


def test_lists_of_json_are_read_entry_by_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entries = [{"video": f"v{n}.mp4", "caption": 'a "ball" ] , [' * (n % 5), "n": [n, {"m": n}]} for n in range(500)]
    for text in (json.dumps(entries), json.dumps(entries, indent=2, ensure_ascii=False) + "\n\n"):
        path = put(tmp_path / "l.json", text)
        for chunk in (1, 7, 1024**2):
            monkeypatch.setattr(strict_json, "_CHUNK", chunk)
            assert rows(path) == entries
    assert rows(put(tmp_path / "p.json.gz", gzip.compress(b" [ ] "))) == []
    for text, message in (
        ("[", "no end|Expecting"),
        ('[{"a": 1}', "after entry 1 .*end"),
        ('[{"a": 1} {"a": 2}]', "after entry 1"),
        ('[{"a": 1}, ]', "after entry 1"),
        ('[{"a": 1}] x', "'x'"),
        ('[{"a": 1}, 3]', "entry 2: expected an object, found int"),
        ("[" * 100_000, "nested too deep"),
    ):
        with pytest.raises(M2raapError, match=message):
            rows(put(tmp_path / "l.json", text))


def test_json_of_very_many_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(strict_json, "MAX_WEIGHT", 10_000)
    monkeypatch.setattr(strict_json, "_FREE_CHARS", 1000)
    monkeypatch.setattr(strict_json, "MAX_ENTRY", 20_000)
    monkeypatch.setattr(strict_json, "_CHUNK", 1000)
    many = "[" + "[]," * 10_000 + "[]]"
    for name in ("l.jsonl", "l.json"):
        with pytest.raises(M2raapError, match="10,000 values|longer than 20,000"):
            rows(put(tmp_path / name, '{"a": ' + many + "}" if name == "l.jsonl" else '[{"a": ' + many + "}]"))
    with pytest.raises(M2raapError, match="10,000 values"):
        read_json_file(put(tmp_path / "w.json", many))


def test_half_characters_and_nul_are_mended_in_every_column(tmp_path: Path):
    row = {"video": "v.mp4", "caption_en": "a\0ball", "caption_zh": "一个球", "zh_source": f"model {HALF}"}
    row |= {"licence": f"CC {HALF}", "category": f"{HALF}", "source": f"s{HALF}", "url": f"https://x.test/{HALF}"}
    (corpus,) = import_table(put(tmp_path / "l.jsonl", json.dumps(row)), tmp_path / "C")
    (clip,) = corpus.all_rows("clips")
    assert (clip["licence"], clip["category"], clip["source"], clip["url"]) == ("CC �", "�", "s�", "https://x.test/�")
    texts = {text["lang"]: text for text in corpus.all_rows("texts")}
    assert (texts["en"]["text"], texts["zh"]["producer"]) == ("a�ball", "model �")
    put(
        tmp_path / "F" / "metadata.jsonl",
        json.dumps({"file_name": "v.mp4"} | {k: v for k, v in row.items() if k != "video"}),
    )
    assert import_videofolder(tmp_path / "F", tmp_path / "D")[0].all_rows("clips")[0]["licence"] == "CC �"
    source = shard(tmp_path / "in", ("a.mp4", b"v"), ("a.json", json.dumps(row).encode()))
    assert import_webdataset(source, tmp_path / "E")[0].all_rows("clips")[0]["licence"] == "CC �"


@pytest.mark.parametrize("score", ["9" * 400, "1e999", "-1e999", "0x" + "f" * 5000])
def test_scores_of_panda70m_that_are_no_numbers(tmp_path: Path, score: str):
    head = "videoID,url,timestamp,caption,matching_score\n"
    spans = "\"[['0:00:01', '0:00:02']]\""
    path = put(tmp_path / "p.csv", f"{head}x,u,{spans},['a'],[{score}]\n")
    with pytest.raises(M2raapError, match="row 2, column 'matching_score'"):
        import_panda70m(path, tmp_path / "C")


@pytest.mark.parametrize("end", ["9e15", "1e300", "10000001", "9" * 400])
def test_times_of_more_than_months(tmp_path: Path, end: str):
    path = put(tmp_path / "l.csv", f"video,caption,start,end\nv.mp4,a ball,0,1\nv.mp4,a cube,1,{end}\n")
    refused(path, "row 3, column 'end': .*10,000,000")
    meta = json.dumps({"caption": "a", "start_s": 9e15}).encode()
    with pytest.raises(M2raapError, match="column 'start_s'"):
        import_webdataset(shard(tmp_path / "in", ("a.mp4", b"v"), ("a.json", meta)), tmp_path / "D")


def test_stretches_that_are_almost_the_same_have_ids_of_their_own(tmp_path: Path):
    times = [(1, 2.5), (1, 1.0000000000000002), (1234567.25, 1234568), (1234567.5, 1234568), (0.1, 0.30000000000000004)]
    text = "".join(f"v.mp4,ball {n},{start!r},{end!r}\n" for n, (start, end) in enumerate(times))
    (corpus,) = import_table(put(tmp_path / "l.csv", "video,caption,start,end\n" + text), tmp_path / "C")
    assert set(clips(corpus)) == {
        "v_1_2.5", "v_1_1.0000000000000002", "v_1234567.25_1234568", "v_1234567.5_1234568", "v_0.1_0.30000000000000004",
    }  # fmt: skip
