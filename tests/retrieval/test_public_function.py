"""The public function of the package: `from m2raap.retrieval import evaluate`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m2raap.core.errors import M2raapError
from m2raap.retrieval import evaluate
from m2raap.retrieval.score import score_matrix

SIM = np.array([[0.9, 0.2], [0.1, 0.3], [0.8, 0.7], [0.2, 0.1]])


def test_square_matrix_by_hand() -> None:
    scores = evaluate(np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert (scores["t2v"]["R@1"], scores["v2t"]["R@1"], scores["rsum"]) == (50, 100, 550)
    lo, hi = scores["t2v"]["intervals"]["R@1"]
    assert lo <= 50 <= hi


def test_several_texts_a_video_and_a_text_of_none(tmp_path: Path) -> None:
    scores = evaluate(SIM, [0, 0, 1, -1])
    assert scores["t2v"]["queries"] == 3 and scores["v2t"]["queries"] == 2
    assert scores["v2t_rule_b"]["gallery"] == 4
    np.save(tmp_path / "sim.npy", SIM)
    (tmp_path / "pairs.csv").write_text("text,video\n0,0\n1,0\n2,1\n")
    assert score_matrix(tmp_path / "sim.npy", tmp_path / "pairs.csv", True) == evaluate(SIM, [0, 0, 1, -1], compat=True)


def test_ties_are_expected_under_a_random_tie_break() -> None:
    scores = evaluate(np.zeros((4, 4)))
    assert scores["t2v"]["R@1"] == 25 and scores["t2v"]["pessimistic"]["R@1"] == 0


@pytest.mark.parametrize(
    ("sim", "owners", "message"),
    [
        (SIM, None, "4 texts by 2 videos"),
        (SIM, [0, 1], r"shape \(2,\)"),
        (SIM, [0, 1, 2, 0], "video 2"),
        (SIM, [0.0, 1, 0, 0], "float64"),
        (np.array([[np.nan]]), None, "nan"),
        (np.zeros(3), None, r"\(3,\)"),
    ],
)
def test_bad_input(sim: np.ndarray, owners: list[int] | None, message: str) -> None:
    with pytest.raises(M2raapError, match=message):
        evaluate(sim, owners)


def test_the_import_loads_neither_torch_nor_pyarrow() -> None:
    code = "import sys; from m2raap.retrieval import evaluate; print(sorted({'torch', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
