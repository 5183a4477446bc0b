from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from m2raap.core.errors import M2raapError
from m2raap.retrieval.score import score_matrix


def saved(folder: Path, array: np.ndarray, allow_pickle: bool = False) -> Path:
    path = folder / "sim.npy"
    np.save(path, array, allow_pickle=allow_pickle)
    return path


def test_diagonal_by_default(tmp_path: Path) -> None:
    found = score_matrix(saved(tmp_path, np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)))
    assert found["t2v"]["R@1"] == 50
    assert found["v2t"]["R@1"] == 100
    assert found["t2v"]["MnR"] == 1.5
    assert found["rsum"] == 550
    assert found["t2v"]["ties"] == {"tied_queries": 0, "most_ties": 0}
    assert "v2t_rule_b" not in found


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8", "<i4", "|u1"])
def test_number_types(tmp_path: Path, dtype: str) -> None:
    found = score_matrix(saved(tmp_path, (np.eye(6) * 3).astype(dtype)))
    assert found["t2v"]["R@1"] == found["v2t"]["R@1"] == 100


def test_pairs_with_several_texts(tmp_path: Path) -> None:
    sim = np.array([[0.9, 0.2], [0.1, 0.3], [0.8, 0.7], [0.2, 0.1]])
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\ufefftext,video\r\n3,1\n0, 0\n\n1,0\n2,1\n", encoding="utf-8")
    found = score_matrix(saved(tmp_path, sim), pairs)
    assert found["t2v"]["queries"] == 4
    assert found["t2v"]["R@1"] == 25
    assert found["v2t"]["R@1"] == 100
    assert found["v2t"]["gallery"] == 2
    assert found["v2t_rule_b"]["gallery"] == 4


def test_intervals_resample_videos(tmp_path: Path) -> None:
    rng = np.random.default_rng([1])
    sim = np.eye(30) + rng.normal(0, 0.45, (30, 30))
    one, twice = score_matrix(saved(tmp_path, sim)), tmp_path / "pairs.csv"
    lo, hi = one["t2v"]["intervals"]["R@1"]
    assert lo < one["t2v"]["R@1"] < hi and "videos" in one["intervals"]
    # Every text a second time: twice the queries, no more videos, so no narrower.
    twice.write_text("text,video\n" + "".join(f"{i},{i % 30}\n" for i in range(60)))
    double = score_matrix(saved(tmp_path, np.concatenate([sim, sim])), twice)
    assert double["t2v"]["intervals"]["R@1"] == [lo, hi] and double["t2v"]["queries"] == 60
    assert double["v2t_rule_b"]["intervals"].keys() == {"R@1", "R@5", "R@10", "R@50", "MeanR"}


def test_not_square_asks_for_pairs(tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match=r"sim\.npy: 4 texts by 2 videos is not square.*--pairs"):
        score_matrix(saved(tmp_path, np.ones((4, 2))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 must be the header"),
        ("0,0\n1,1\n", "line 1 must be the header"),
        ("text,video\n", "no pairs"),
        ("text,video\n0,0\n1\n", "line 3 must hold two whole numbers"),
        ("text,video\n-1,0\n", "line 2 must hold"),
        ("text,video\n٣,0\n", "line 2 must hold"),
        ("text,video\n" + "9" * 5000 + ",0\n", "line 2 must hold"),
        ("text,video\n0,5\n", "line 2: there is no video 5"),
        ("text,video\n0,1\n0,0\n", "line 3: text 0 .*line 2"),
    ],
)
def test_bad_pairs_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(text, encoding="utf-8")
    with pytest.raises(M2raapError, match=rf"pairs\.csv: {message}"):
        score_matrix(saved(tmp_path, np.eye(3)), pairs)


def test_pairs_that_are_no_text(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(M2raapError, match="cannot be read as CSV"):
        score_matrix(saved(tmp_path, np.eye(3)), pairs)
    with pytest.raises(M2raapError, match=r"gone\.csv: no such file"):
        score_matrix(saved(tmp_path, np.eye(3)), tmp_path / "gone.csv")


def test_nan_names_file_and_row(tmp_path: Path) -> None:
    sim = np.eye(4)
    sim[2, 3] = np.nan
    with pytest.raises(M2raapError, match=r"sim\.npy: the score of text 2"):
        score_matrix(saved(tmp_path, sim))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(4), "two dimensions"),
        (np.ones((0, 4)), "two dimensions"),
        (np.eye(3, dtype=bool), "type bool"),
        (np.eye(3, dtype=complex), "type complex"),
        (np.full((2, 2), "x"), "type <U1"),
    ],
)
def test_wrong_arrays(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(M2raapError, match=message):
        score_matrix(saved(tmp_path, array))


def test_pickles_archives_and_rubbish_are_refused(tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match=r"not a \.npy file"):
        score_matrix(saved(tmp_path, np.array([[object()]]), allow_pickle=True))
    path = tmp_path / "sim.npy"
    buffer = io.BytesIO()
    np.savez(buffer, sim=np.eye(2))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(M2raapError, match="npz"):
        score_matrix(path)
    whole = io.BytesIO()
    np.save(whole, np.eye(30))
    for content in (b"", b"rubbish", b"\x93NUMPY\x01", whole.getvalue()[:500]):
        path.write_bytes(content)
        with pytest.raises(M2raapError, match=r"sim\.npy: not a \.npy file"):
            score_matrix(path)
    with pytest.raises(M2raapError, match="no such file"):
        score_matrix(tmp_path / "gone.npy")


def test_compat_stands_beside(tmp_path: Path) -> None:
    sim = np.eye(10)
    sim[5:] = 0.5
    found = score_matrix(saved(tmp_path, sim), compat=True)
    assert found["t2v"]["R@1"] == pytest.approx(55) and found["t2v"]["pessimistic"]["R@1"] == 50
    assert found["compat"]["t2v"]["R@1"] == pytest.approx(18.18, abs=0.01) and "not ours" in found["compat"]["label"]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("text,video\n" + "".join(f"{i},{i // 2}\n" for i in range(10)))
    several = score_matrix(saved(tmp_path, sim), pairs, compat=True)["compat"]
    assert several["t2v"]["entries"] == 10 and several["v2t"]["queries"] == 5


def test_what_is_easily_overlooked_is_noted(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("text,video\n0,0\n1,1\n3,3\n")
    notes = score_matrix(saved(tmp_path, np.eye(4)), pairs)["notes"]
    assert [note[:6] for note in notes] == ["1 of 4", "1 of 4"]
    assert score_matrix(saved(tmp_path, np.eye(6)))["notes"] == []
    (distances,) = score_matrix(saved(tmp_path, 1 - np.eye(6)))["notes"]
    assert distances.startswith("100 %") and "negate" in distances
