import json
from pathlib import Path

import pytest

from data_tools.rooted import find_missing
from data_tools.table import import_table
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError


def listing(folder: Path, name: str, content: str | list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(6):
        (folder / f"v{i}.mp4").write_bytes(b"some bytes")
    path = folder / name
    text = (
        content if isinstance(content, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    )
    path.write_text(text, encoding="utf-8")
    return path


def texts(corpus: Corpus) -> dict[str, dict]:
    return {row["text_id"]: row for row in corpus.all_rows("texts")}


def test_csv_with_a_bare_caption_sniffs_each_language(tmp_path: Path):
    path = listing(tmp_path, "list.csv", "video,caption,start,end\nv0.mp4,a red ball,1,2.5\nv1.mp4,一个红球,,\n")
    (corpus,) = import_table(path, tmp_path / "C")
    clips = {row["clip_id"]: row for row in corpus.all_rows("clips")}
    assert set(clips) == {"v0_1_2.5", "v1"}
    assert (clips["v0_1_2.5"]["start_s"], clips["v0_1_2.5"]["end_s"]) == (1.0, 2.5)
    assert {row["lang"] for row in texts(corpus).values()} == {"en", "zh"}
    assert corpus.source["langs"] == {"en": 1, "zh": 1}


def test_named_languages_and_a_stated_source_make_translations(tmp_path: Path):
    rows = [{"video": "v0.mp4", "caption_en": "a ball", "caption_zh": "一个球", "zh_source": "some model"}]
    (corpus,) = import_table(listing(tmp_path, "list.jsonl", rows), tmp_path / "C")
    zh = texts(corpus)["v0.zh0"]
    assert (zh["origin"], zh["parent_text_id"], zh["producer"]) == ("translation", "v0.en0", "some model")
    assert texts(corpus)["v0.en0"]["origin"] == "raw"


def test_several_rows_and_lists_of_captions_are_texts_of_one_clip(tmp_path: Path):
    rows = [
        {"video": "v0.mp4", "caption": ["one ball", "a single ball"]},
        {"video": "v0.mp4", "caption": "still a ball"},
    ]
    (corpus,) = import_table(listing(tmp_path, "list.jsonl", rows), tmp_path / "C")
    assert corpus.counts == {"clips": 1, "texts": 3, "missing_file": 0}


def test_holdout_is_a_benchmark_and_the_rest_is_not(tmp_path: Path):
    rows = [{"video": f"v{i}.mp4", "caption": f"ball number {i}"} for i in range(6)]
    train, held = import_table(listing(tmp_path, "list.jsonl", rows), tmp_path / "C", num_holdout=2, seed=5)
    assert train.benchmark is None and held.benchmark == "C-holdout-2-seed5"
    ids = [{row["clip_id"] for row in corpus.all_rows("clips")} for corpus in (train, held)]
    assert len(ids[0]) == 4 and len(ids[1]) == 2 and not ids[0] & ids[1]
    assert {row["split"] for row in held.all_rows("clips")} == {"test"}
    assert {row["split"] for row in train.all_rows("clips")} == {"train", "val"}


def test_absent_and_outside_files_stay_and_are_listed(tmp_path: Path):
    rows = [
        {"video": "v0.mp4", "caption": "here"},
        {"video": "nowhere.mp4", "caption": "not here", "url": "https://example.org/nowhere.mp4"},
        {"video": "../../etc/passwd", "caption": "a trap"},
    ]
    (corpus,) = import_table(listing(tmp_path, "list.jsonl", rows), tmp_path / "C")
    found = {row["clip_id"]: (row["reason"], row["detail"]) for row in corpus.all_rows("missing")}
    assert corpus.counts["clips"] == 3
    assert found["nowhere"] == ("missing_file", "https://example.org/nowhere.mp4")
    assert found["../../etc/passwd"][0] == "outside_root"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "a,b\n1,2\n", r"l.csv: row 1: expected a video column .* found the columns a, b"),
        ("l.csv", "video,length\nv0.mp4,2\n", r"expected a caption column"),
        ("l.csv", "video,caption\nv0.mp4\n", r"l.csv: row 2: has another number of columns"),
        (
            "l.csv",
            "video,caption,start\nv0.mp4,x,soon\n",
            r"row 2, column 'start': expected a number of seconds.*'soon'",
        ),
        ("l.csv", "video,caption,start,end\nv0.mp4,x,5,2\n", r"row 2: the clip ends at 2 s, before it starts at 5 s"),
        ("l.csv", "video,caption\n,x\n", r"row 2, column 'video': expected a text, found nothing"),
        ("l.csv", "video,caption\n", r"l.csv: the table has no rows"),
        ("l.jsonl", "{oops\n", r"l.jsonl: row 1: not JSON"),
        ("l.jsonl", "[1]\n", r"row 1: expected an object, found list"),
        (
            "l.jsonl",
            '{"video": "v0.mp4", "caption": 3}\n',
            r"row 1, column 'caption': expected a text or a list of texts",
        ),
        (
            "l.csv",
            "video,caption,split\nv0.mp4,x,later\n",
            r"row 2, column 'split': .* train, val, test, found 'later'",
        ),
        ("l.parquet", "no parquet", r"l.parquet: not a parquet file"),
        ("l.xlsx", "x", r"'.xlsx' is not a table that m2raap reads"),
    ],
)
def test_a_bad_table_is_named_by_file_row_and_column(tmp_path: Path, name: str, content: str, message: str):
    with pytest.raises(M2raapError, match=message):
        import_table(listing(tmp_path, name, content), tmp_path / "C")


def test_a_list_that_is_not_there(tmp_path: Path):
    with pytest.raises(M2raapError, match="nothing.csv: no such file"):
        import_table(tmp_path / "nothing.csv", tmp_path / "C")


def test_real_panda_list(shared_data: Path, tmp_path: Path):
    folder = shared_data / "panda70m"
    train, held = import_table(
        folder / "captions_zh_llm.jsonl", tmp_path / "C", video_dir=folder / "videos", num_holdout=32
    )
    assert (train.counts["clips"], held.counts["clips"]) == (100, 32)
    assert train.counts["texts"] + held.counts["texts"] == 264
    assert {row["origin"] for row in train.all_rows("texts") if row["lang"] == "zh"} == {"translation"}


def test_clips_of_one_video_stand_on_one_side(tmp_path: Path):
    rows = [
        {"video": f"v{i}.mp4", "caption": f"ball {i} {s}", "start": s, "end": s + 1}
        for i in range(6)
        for s in (0, 5, 9)
    ]
    train, held = import_table(listing(tmp_path, "list.jsonl", rows), tmp_path / "C", num_holdout=2, seed=1)
    sides = [{row["video"] for row in corpus.all_rows("clips")} for corpus in (train, held)]
    assert not sides[0] & sides[1] and held.counts["clips"] == 2
    assert train.counts["clips"] + 2 + train.source["left_out_because_of_holdout"] == 18
    splits: dict[str, set[str]] = {}
    for row in train.all_rows("clips"):
        splits.setdefault(row["video"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values()) and {"train", "val"} == set().union(*splits.values())


def test_many_texts_of_a_clip_far_apart_have_ids_of_their_own(tmp_path: Path):
    rows = [{"video": f"v{i % 2}.mp4", "caption": f"ball {i}"} for i in range(300)]
    (corpus,) = import_table(listing(tmp_path, "list.jsonl", rows), tmp_path / "C")
    assert corpus.counts["texts"] == 300


def test_broken_halves_of_characters_are_mended_and_empty_texts_counted(tmp_path: Path):
    lines = '{"video": "v0.mp4", "caption": ["a \\ud83d ball", "\\ud83d\\ude00 ok", " "]}\n'
    (corpus,) = import_table(listing(tmp_path, "list.jsonl", lines), tmp_path / "C")
    assert {row["text"] for row in corpus.all_rows("texts")} == {"a \ufffd ball", "\U0001f600 ok"}
    assert (corpus.source["mended_texts"], corpus.source["empty_texts"]) == (1, 1)


def test_addresses_are_no_missing_files_but_unknown_protocols_are_refused(tmp_path: Path):
    rows = [
        {"video": "https://example.org/a/b.mp4?key=1", "caption": "a ball"},
        {"video": "s3://bucket/c.mp4", "caption": "a cube"},
        {"video": "file:///etc/passwd", "caption": "a trap"},
        {"video": "simplecache::s3://bucket/c.mp4", "caption": "a trap"},
    ]
    (corpus,) = import_table(listing(tmp_path, "list.jsonl", rows), tmp_path / "C")
    missing = {row["clip_id"]: row["reason"] for row in corpus.all_rows("missing")}
    assert missing == {"file:///etc/passwd": "outside_root", "simplecache::s3://bucket/c": "outside_root"}
    assert {row["clip_id"] for row in corpus.all_rows("clips")} >= {"https://example.org/a/b", "s3://bucket/c"}


def test_each_clip_of_a_missing_video_states_its_own_address(tmp_path: Path) -> None:
    clips = [
        {"clip_id": str(i), "video": f"{i % 2}.mp4", "url": f"https://example.org/{i}" if i else None} for i in range(4)
    ]
    (tmp_path / "1.mp4").write_bytes(b"x")
    rows = [(row["clip_id"], row["reason"], row["detail"]) for row in find_missing(tmp_path, clips)]
    assert rows == [("0", "missing_file", "no such file"), ("2", "missing_file", "https://example.org/2")]
