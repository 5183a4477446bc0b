from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.corpus import holdout, open_corpus, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import open_atomic, write_atomic
from m2raap.core.tables import (
    FRAMES_A_GROUP,
    default_num_parts,
    part_of,
    read_clip,
    read_part,
    signal_schema,
    write_part,
)
from m2raap.core.view import View


def clip(number: int, **more):
    return {"clip_id": f"c{number:03d}", "video": f"{number}.mp4", "split": "train", **more}


def text(number: int, lang: str = "en", **more):
    row = {"text_id": f"c{number:03d}.{lang}", "clip_id": f"c{number:03d}", "lang": lang, "text": f"text {number}"}
    return row | {"origin": "raw", "active": True} | more


def test_part_bytes_depend_on_the_rows_alone(tmp_path: Path):
    rows = [clip(i) for i in range(5)]
    assert write_part(tmp_path / "a", "clips", 0, rows) == write_part(tmp_path / "b", "clips", 0, rows[::-1])
    back = read_part(tmp_path / "a", "clips", 0)
    assert [row["clip_id"] for row in back] == [f"c{i:03d}" for i in range(5)]
    assert back[0]["start_s"] is None


def test_the_rows_of_one_clip_are_those_of_its_part(tmp_path: Path):
    names = [f"c{i:03d}" for i in range(2 * FRAMES_A_GROUP + 1)]
    write_part(tmp_path, "frames", 0, [{"clip_id": name, "jpegs": [name.encode()]} for name in names])
    write_part(tmp_path, "clips", 0, [clip(i) for i in range(3)])
    write_part(tmp_path, "texts", 0, [text(i, lang) for i in range(3) for lang in ("en", "zh")])
    for table in ("frames", "clips", "texts"):
        rows = read_part(tmp_path, table, 0)
        for name in (*names, "none"):
            assert read_clip(tmp_path, table, 0, name) == [row for row in rows if row["clip_id"] == name]
    assert read_clip(tmp_path, "dropped", 0, names[0]) == []


def test_a_file_that_fails_while_it_is_written_leaves_nothing(tmp_path: Path):
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(ValueError), open_atomic(tmp_path / "a") as sink:
        sink.write(b"new")
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_part_outside_of_the_limit_is_empty(tmp_path: Path):
    write_corpus(
        tmp_path,
        [clip(i) for i in range(40)],
        [text(i) for i in range(40)],
        video_root=tmp_path,
        source={},
        num_parts=8,
    )
    view = View(tmp_path).limited(2)
    parts = list(view.parts(("texts", "signals")))
    assert sum(len(part.clips) for part in parts) == sum(len(part.texts) for part in parts) == 2
    assert sum(not part.texts_of for part in parts) >= 6


def test_damaged_part_is_named(tmp_path: Path):
    write_part(tmp_path, "clips", 0, [clip(1)])
    path = next((tmp_path / "clips").iterdir())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(M2raapError, match=r"part-00000.parquet: cannot be read as parquet"):
        read_part(tmp_path, "clips", 0)


def test_signal_columns_keep_their_type_when_empty(tmp_path: Path):
    schema = signal_schema({"b": "float", "a": "str"})
    assert schema.names == ["clip_id", "text_id", "a", "b"]
    write_part(tmp_path, "signals", 0, [{"clip_id": "x"}], schema)
    assert read_part(tmp_path, "signals", 0) == [{"clip_id": "x", "text_id": None, "a": None, "b": None}]


@given(st.text(min_size=1), st.integers(1, 5000))
def test_part_of_is_a_function_of_the_id(clip_id: str, num_parts: int):
    assert 0 <= part_of(clip_id, num_parts) < num_parts
    assert part_of(clip_id, num_parts) == part_of(clip_id, num_parts)


def test_parts_grow_with_the_corpus():
    assert default_num_parts(1) == 1
    assert default_num_parts(132) == 4
    assert 1000 <= 10_000_000 / default_num_parts(10_000_000) <= 1100


@pytest.mark.parametrize(
    ("clips", "texts", "message"),
    [
        ([], [], "the corpus is empty"),
        ([clip(1), clip(1)], [], "clip_id 'c001'"),
        ([clip(1)], [text(2)], "'c002.en'.*'c002'"),
        ([clip(1)], [text(1), text(1)], "text_id 'c001.en'"),
        ([clip(1)], [text(1, "fr")], "language 'fr'"),
        ([clip(1, split="dev")], [], "split 'dev'"),
    ],
)
def test_a_corpus_refuses_what_does_not_fit(tmp_path: Path, clips, texts, message):
    with pytest.raises(M2raapError, match=message):
        write_corpus(tmp_path / "c", clips, texts, video_root=tmp_path, source={})


def test_a_corpus_never_overwrites_something_else(tmp_path: Path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(M2raapError, match=str(tmp_path)):
        write_corpus(tmp_path, [clip(1)], [], video_root=tmp_path, source={})
    assert (tmp_path / "diary.txt").read_text() == "dear diary"


def test_an_import_removes_what_a_killed_one_had_not_finished(tmp_path: Path):
    write_corpus(tmp_path / "c", [clip(1)], [text(1)], video_root=tmp_path, source={})
    draft = tmp_path / "c" / "texts" / ".part-00000.parquet.12345.tmp"
    draft.write_bytes(b"PAR1")
    write_corpus(tmp_path / "c", [clip(1)], [text(1)], video_root=tmp_path, source={})
    assert not draft.exists()


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path):
    twins = [write_corpus(tmp_path / n, [clip(1), clip(2)], [text(1)], video_root=tmp_path, source={}) for n in "ab"]
    other = write_corpus(tmp_path / "d", [clip(1), clip(3)], [text(1)], video_root=tmp_path, source={})
    assert twins[0].digest == twins[1].digest != other.digest
    assert open_corpus(tmp_path / "a").video_root == tmp_path.resolve()


def test_unfinished_import_and_no_corpus_are_told_apart(tmp_path: Path):
    write_part(tmp_path / "half", "clips", 0, [clip(1)])
    with pytest.raises(M2raapError, match="half: an unfinished import"):
        open_corpus(tmp_path / "half")
    with pytest.raises(M2raapError, match="none: no corpus"):
        open_corpus(tmp_path / "none")


@settings(deadline=None)  # the first example writes the corpus
@given(st.integers(1, 30), st.integers(1, 30))
def test_a_smaller_limit_is_a_part_of_a_larger_one(tmp_path_factory, small: int, large: int):
    path = tmp_path_factory.getbasetemp() / "limits"
    if not path.exists():
        write_corpus(path, [clip(i) for i in range(30)], [], video_root=path, source={}, num_parts=4)
    ids = [
        {row["clip_id"] for part in View(path).limited(n).parts() for row in part.clips}
        for n in (min(small, large), max(small, large))
    ]
    assert len(ids[1]) == max(small, large)
    assert ids[0] <= ids[1]


def test_languages_outside_the_recipe_are_not_seen(tmp_path: Path):
    write_corpus(tmp_path / "c", [clip(1)], [text(1), text(1, "zh")], video_root=tmp_path, source={})
    assert [row["lang"] for row in View(tmp_path / "c", langs=("zh",)).part(0).texts] == ["zh"]


def test_holdout_does_not_depend_on_the_order_of_rows():
    rows = [clip(i) for i in range(40)]
    assert holdout(rows, 7, 3) == holdout(rows[::-1], 7, 3)
    assert holdout(rows, 7, 3) != holdout(rows, 7, 4)
    with pytest.raises(M2raapError, match="--holdout 41"):
        holdout(rows, 41, 0)


def test_the_twin_column_is_written_only_where_there_is_a_twin_and_read_in_any_case(tmp_path: Path):
    import pyarrow.parquet as pq

    plain = [clip(i, twin_id=None) for i in range(2)]
    assert write_part(tmp_path / "a", "clips", 0, plain) == write_part(tmp_path / "b", "clips", 0, [clip(0), clip(1)])
    assert "twin_id" not in pq.read_schema(tmp_path / "a/clips/part-00000.parquet").names
    assert [row["twin_id"] for row in read_part(tmp_path / "a", "clips", 0)] == [None, None]
    assert read_part(tmp_path / "a", "clips", 0, ["clip_id", "twin_id"])[0] == {"clip_id": "c000", "twin_id": None}
    assert read_part(tmp_path / "a", "clips", 0, ["clip_id"])[0] == {"clip_id": "c000"}
    with pytest.raises(M2raapError, match="the column nothing is absent"):
        read_part(tmp_path / "a", "clips", 0, ["clip_id", "nothing"])
    write_part(tmp_path / "c", "clips", 0, [clip(0, twin_id="c001"), clip(1)])
    assert [row["twin_id"] for row in read_part(tmp_path / "c", "clips", 0)] == ["c001", None]
