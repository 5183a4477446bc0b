"""Sports-1M's lists: addresses and numbers of labels become clips without texts, with the names of their labels."""

from pathlib import Path
from typing import Any

import pytest

from data_tools.sports1m import import_sports1m
from m2raap.core.errors import M2raapError
from tests.conftest import m2raap
from tests.data_tools.lists import clips, missing, put
from tests.data_tools.test_youtube8m import signals

URL = "http://www.youtube.com/watch?v="
LIST = f"{URL}Drdm1WsRQwA 2,0\n{URL}-a_b 1\n\n{URL}xyz\t1,1\r\n{URL}-a_b 0\n"


def labels(corpus: Any) -> dict[str, list[str]]:
    return {name: row["labels"] for name, row in signals(corpus).items()}


def test_lists_come_in_with_the_names_of_their_labels(tmp_path: Path):
    listing = put(tmp_path / "original", "train_partition.txt", LIST)
    put(tmp_path, "labels.txt", "athletics\nrunning\nathletics\n")
    (corpus,) = import_sports1m(listing, tmp_path / "C")
    rows = clips(corpus)
    assert {name: row["url"] for name, row in rows.items()} == {i: URL + i for i in ("Drdm1WsRQwA", "-a_b", "xyz")}
    assert all(row["video"] == row["url"] and row["source"] == "Sports-1M" for row in rows.values()) and not missing(
        corpus
    )
    assert labels(corpus) == {
        "Drdm1WsRQwA": ["athletics (2)", "athletics (0)"], "-a_b": ["running", "athletics (0)"], "xyz": ["running"]
    }  # fmt: skip
    assert sorted(row["split"] for row in rows.values()) == ["train", "train", "val"]
    assert corpus.source["rows_of_listed_videos"] == 1 and corpus.source["vocabulary"]["1"] == "running"
    assert corpus.source["names"] == "../labels.txt"


def test_files_are_those_named_after_the_id_and_numbers_stay_without_names(tmp_path: Path):
    put(tmp_path / "v", "xyz.mkv", b"video")
    listing = put(tmp_path / "l", "test_partition.txt", LIST)
    done = m2raap("data", "import", "sports1m", listing, "--out", tmp_path / "C", "--video-dir", tmp_path / "v")
    assert "3 clips, 2 missing_file, 0 texts" in done.stdout
    (corpus,) = import_sports1m(listing, tmp_path / "C", video_dir=tmp_path / "v")
    assert clips(corpus)["xyz"]["video"] == "xyz.mkv" and missing(corpus)["-a_b"] == ("missing_file", URL + "-a_b")
    assert {row["split"] for row in clips(corpus).values()} == {"test"} and labels(corpus)["Drdm1WsRQwA"] == ["2", "0"]
    (other,) = import_sports1m(put(tmp_path / "l", "all.txt", LIST), tmp_path / "D", seed=1)
    assert {row["split"] for row in clips(other).values()} == {"train", "val"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{URL}a", "row 2: expected an address, a blank and numbers of labels between commas"),
        (f"{URL}a 1,", "row 2: expected an address"),
        (f"{URL}a one", "row 2: expected an address"),
        (f"{URL}a -1", "row 2: expected an address"),
        (f"{URL}a 2", "row 2: the label 2 has no line in labels.txt, which names 2"),
        ("ftp://x.org/?v=a 1", "row 2: expected an address such as http://www.youtube.com/watch[?]v=ID"),
        (f"{URL}../../etc 1", "row 2: expected an address such as"),
        (f"{URL}a&v=b 1", "row 2: expected an address such as"),
        ("http://[x/watch?v=a 1", "row 2: expected an address such as"),
        ("/etc/passwd 1", "row 2: expected an address such as"),
    ],
)
def test_odd_lines_are_named(line: str, message: str, tmp_path: Path):
    put(tmp_path, "labels.txt", "a\nb\n")
    with pytest.raises(M2raapError, match=message):
        import_sports1m(put(tmp_path, "l.txt", f"{URL}ok 0\n{line}\n"), tmp_path / "C")


def test_empty_and_packed_lists_are_named(tmp_path: Path):
    with pytest.raises(M2raapError, match="holds no entries"):
        import_sports1m(put(tmp_path, "l.txt", "\n"), tmp_path / "C")
    with pytest.raises(M2raapError, match="is a zip archive"):
        import_sports1m(put(tmp_path, "l.txt", b"PK\3\4junk"), tmp_path / "C")
    put(tmp_path, "labels.txt", "\n")
    with pytest.raises(M2raapError, match="labels.txt: holds no label"):
        import_sports1m(put(tmp_path, "l.txt", LIST), tmp_path / "C")
