from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.errors import M2raapError
from m2raap.retrieval import metrics as m


def diagonal(size: int) -> list[tuple[int, int]]:
    return [(i, i) for i in range(size)]


def test_by_hand() -> None:
    sim = np.array([[0.9, 0.1, 0.3], [0.8, 0.5, 0.2], [0.1, 0.2, 0.3]])
    found = m.ranks(sim, diagonal(3))
    assert found.t2v.rank_expected.tolist() == [1, 2, 1]
    assert found.v2t.rank_expected.tolist() == [1, 1, 1.5]
    assert found.v2t.rank_pessimistic.tolist() == [1, 1, 2]
    t2v, v2t = m.metrics(found.t2v), m.metrics(found.v2t)
    assert t2v["R@1"] == pytest.approx(200 / 3)
    assert t2v["MnR"] == pytest.approx(4 / 3)
    assert t2v["MRR"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert v2t["R@1"] == pytest.approx(250 / 3)
    assert v2t["MRR"] == pytest.approx((1 + 1 + 0.75) / 3)
    assert m.rsum(found.t2v, found.v2t) == pytest.approx(150 + 400)
    assert not found.several_texts


def brute(
    sim: np.ndarray, pairs: list[tuple[int, int]], absent: list[int] | None = None
) -> dict[str, list[tuple[int, int]]]:
    """(greater, equal) of every query, item by item."""
    texts, videos = sim.shape
    own: dict[int, list[int]] = {}
    for text, video in pairs:
        own.setdefault(video, []).append(text)
    loose = [t for t in range(texts) if t not in {text for text, _ in pairs}]
    groups_of_loose = (
        [[t for t in loose if absent[t] == n] for n in {absent[t] for t in loose}] if absent else [[t] for t in loose]
    )
    result: dict[str, list[tuple[int, int]]] = {"t2v": [], "a": [], "b": []}
    for text, video in sorted(pairs):
        others = [sim[text, v] for v in range(videos) if v != video]
        result["t2v"].append((sum(o > sim[text, video] for o in others), sum(o == sim[text, video] for o in others)))
    for video in sorted(own):
        best = max(sim[t, video] for t in own[video])
        groups = [texts_of for other, texts_of in own.items() if other != video] + groups_of_loose
        group_best = [max(sim[t, video] for t in group) for group in groups]
        singles = [sim[t, video] for t in range(texts) if t not in own[video]]
        result["a"].append((sum(g > best for g in group_best), sum(g == best for g in group_best)))
        result["b"].append((sum(s > best for s in singles), sum(s == best for s in singles)))
    return result


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_brute_force_twin(data: st.DataObject) -> None:
    texts, videos = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    sim = np.array(data.draw(st.lists(st.integers(0, 4), min_size=texts * videos, max_size=texts * videos)))
    sim = sim.reshape(texts, videos) / 4
    owners = data.draw(st.lists(st.none() | st.integers(0, videos - 1), min_size=texts, max_size=texts))
    pairs = [(text, video) for text, video in enumerate(owners) if video is not None]
    if not pairs:
        return
    absent = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=texts, max_size=texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(m, "BLOCK_ELEMENTS", data.draw(st.integers(1, 60)))
        shuffled = data.draw(st.permutations(pairs))
        found = m.ranks_of(
            lambda rows: sim[rows], texts, videos, shuffled, None if absent is None else np.asarray(absent)
        )
    expected = brute(sim, pairs, absent)
    for side, key in ((found.t2v, "t2v"), (found.v2t, "a"), (found.v2t_rule_b, "b")):
        assert list(zip(side.greater.tolist(), side.equal.tolist(), strict=True)) == expected[key]
        low, high = m.metrics_pessimistic(side), m.metrics(side)
        assert all(low[f"R@{k}"] <= high[f"R@{k}"] + 1e-9 for k in m.RECALL_AT)
    # The two rules agree on the first place but for ties: nothing foreign above the best own text.
    assert (found.v2t.greater == 0).tolist() == (found.v2t_rule_b.greater == 0).tolist()
    assert (found.v2t.greater <= found.v2t_rule_b.greater).all()


def test_expected_is_the_mean_over_random_tie_breaks() -> None:
    rng = np.random.default_rng([3])
    sim = rng.integers(0, 3, (8, 8)).astype(float)
    side = m.ranks(sim, diagonal(8)).t2v
    jittered = [m.ranks(sim + 1e-6 * rng.random(sim.shape), diagonal(8)).t2v for _ in range(3000)]
    for k in (1, 3):
        assert np.mean([j.hits(k) for j in jittered], axis=0) == pytest.approx(side.hits(k), abs=0.04)
    assert np.mean([j.reciprocal() for j in jittered], axis=0) == pytest.approx(side.reciprocal(), abs=0.02)
    assert np.mean([j.rank_expected for j in jittered], axis=0) == pytest.approx(side.rank_expected, abs=0.2)


def test_collapsed_model_scores_one_in_n() -> None:
    found = m.ranks(np.ones((20, 20)), diagonal(20))
    for side in (found.t2v, found.v2t):
        assert m.metrics(side)["R@1"] == pytest.approx(5)
        assert m.metrics(side)["MnR"] == pytest.approx(10.5)
        assert m.metrics_pessimistic(side)["R@1"] == 0
        assert m.ties(side) == {"tied_queries": 20, "most_ties": 19}


def test_five_perfect_five_tied() -> None:
    sim = np.eye(10)
    sim[5:] = 0.5
    side = m.ranks(sim, diagonal(10)).t2v
    assert len(side) == 10
    assert m.metrics(side)["R@1"] == pytest.approx(55)
    assert m.metrics_pessimistic(side)["R@1"] == pytest.approx(50)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_naming_the_row(value: float) -> None:
    sim = np.eye(5)
    sim[3, 1] = value
    with pytest.raises(M2raapError, match=r"text 3 \(row\) and video 1 \(column\)"):
        m.ranks(sim, diagonal(5))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "non-empty"),
        ([(0, 0, 0)], "non-empty"),
        ([(0.5, 1.0)], "whole numbers"),
        ([(0, 0), (4, 0)], "entry 1 names text 4"),
        ([(0, -1)], "names video -1"),
        ([(1, 0), (1, 2)], "text 1 .*one video"),
    ],
)
def test_bad_pairs(pairs: list[tuple[float, ...]], message: str) -> None:
    with pytest.raises(M2raapError, match=message):
        m.ranks(np.eye(4), pairs)


def test_missing_is_a_miss_at_every_k() -> None:
    none = np.zeros(2, np.int64)
    side = m.RankCounts(np.arange(2), np.arange(2), none, none, np.array([False, True]), 3)
    assert side.hits(50).tolist() == [1, 0]
    assert side.hits_pessimistic(50).tolist() == [1, 0]
    assert side.reciprocal().tolist() == [1, 0]


def test_no_query() -> None:
    side = m.ranks(np.eye(2), diagonal(2)).t2v.select(np.zeros(2, bool))
    with pytest.raises(M2raapError, match="no queries"):
        m.metrics(side)
