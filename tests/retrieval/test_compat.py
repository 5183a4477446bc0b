from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.retrieval import compat, metrics
from m2raap.retrieval.compat import clip4clip, clip4clip_several


def compute_metrics(x: np.ndarray) -> dict[str, float]:
    """What the original does: sort each row, look for the diagonal's value."""
    ordered, own = np.sort(-x, axis=1), np.diag(-x)[:, None]
    places = np.where(ordered - own == 0)[1]
    found = {f"R@{k}": float(np.sum(places < k)) * 100 / len(places) for k in compat.AT}
    return found | {"MdR": float(np.median(places) + 1), "MnR": float(np.mean(places) + 1), "entries": len(places)}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.integers(0, 4), st.randoms(use_true_random=False))
def test_one_text_a_video(size: int, levels: int, random) -> None:
    sim = np.array([[random.randint(0, levels) for _ in range(size)] for _ in range(size)]) / 4
    found = metrics.ranks(sim, [(i, i) for i in range(size)])
    for side, matrix in ((found.t2v, sim), (found.v2t, sim.T)):
        expected = compute_metrics(matrix)
        ours = clip4clip(side)
        assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert ours["queries"] == size


def test_ties_as_measured() -> None:
    """5 perfect and 5 all-tied queries: 18.2 there, 55 under a random tie-break (method.md 7)."""
    sim = np.eye(10)
    sim[5:] = 0.5
    side = metrics.ranks(sim, [(i, i) for i in range(10)]).t2v
    assert clip4clip(side)["R@1"] == pytest.approx(18.18, abs=0.01)
    assert clip4clip(side)["entries"] == 55
    collapsed = metrics.ranks(np.ones((10, 10)), [(i, i) for i in range(10)]).t2v
    assert clip4clip(collapsed)["R@1"] == 10 and clip4clip(collapsed)["entries"] == 100


def test_missing_videos_are_not_in_that_matrix() -> None:
    side = metrics.RankCounts(*(np.arange(2),) * 2, np.array([0, 5]), np.zeros(2, np.int64), np.array([False, True]), 9)
    assert clip4clip(side)["R@1"] == 100 and clip4clip(side)["queries"] == 1
    assert clip4clip(side.select(np.array([False, True]))) == {}


@pytest.mark.parametrize("block", [1, 12, 1_000])
def test_several_texts_a_video(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(compat, "BLOCK_ELEMENTS", block)
    rng = np.random.default_rng([9])
    sim = rng.integers(0, 4, (12, 5)) / 4
    video = np.sort(rng.integers(0, 5, 12))
    # Twice argsort, as the original has it, with the stable sort.
    places = np.argsort(np.argsort(-sim, axis=1, kind="stable"), axis=1, kind="stable")[np.arange(12), video]
    found = clip4clip_several(lambda rows: sim[rows], np.arange(12), video, 5)
    assert found["R@1"] == pytest.approx(100 * (places == 0).mean(), abs=1e-5)
    assert found["R@5"] == pytest.approx(100 * (places < 5).mean(), abs=1e-5)
    assert found["MdR"] == np.sort(places)[5] + 1
    assert found["MnR"] == pytest.approx(places.mean() + 1, abs=1e-5)
