from __future__ import annotations

import itertools
import math

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


def brute_siblings(sim: np.ndarray, pairs: list[tuple[int, int]]) -> list[int]:
    """For each video with texts, how many of them but one score as much as its best."""
    counts = []
    for video in sorted({video for _, video in pairs}):
        scores = [sim[text, video] for text, owner in pairs if owner == video]
        counts.append(scores.count(max(scores)) - 1)
    return counts


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
    assert found.v2t_rule_b.siblings is not None and found.t2v.siblings is None and found.v2t.siblings is None
    assert found.v2t_rule_b.siblings.tolist() == brute_siblings(sim, pairs)
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


def counts(greater: int, foreign: int, siblings: int) -> m.RankCounts:
    """One query."""
    number, zero = np.zeros(1, np.int64), np.zeros(1, bool)
    return m.RankCounts(number, number, number + greater, number + foreign, zero, 99, number + siblings)


@pytest.mark.parametrize("greater", [0, 2])
@pytest.mark.parametrize("foreign", range(5))
@pytest.mark.parametrize("siblings", range(4))
def test_several_targets_against_every_order_of_the_tied_items(greater: int, foreign: int, siblings: int) -> None:
    places = foreign + siblings + 1
    ranks = [greater + 1 + min(chosen) for chosen in itertools.combinations(range(places), siblings + 1)]
    side = counts(greater, foreign, siblings)
    assert side.rank_expected[0] == pytest.approx(np.mean(ranks))
    assert side.reciprocal()[0] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert side.rank_pessimistic[0] == max(ranks)
    for k in range(1, greater + places + 3):
        assert side.hits(k)[0] == pytest.approx(np.mean([rank <= k for rank in ranks]))
        assert side.hits_pessimistic(k)[0] == (max(ranks) <= k)
    assert side.points("MeanR")[0] == pytest.approx(
        100 * np.mean([np.mean([r <= k for r in ranks]) for k in (1, 5, 10)])
    )


def simulated(sim: np.ndarray, pairs: list[tuple[int, int]], times: int, seed: int) -> list[m.RankCounts]:
    """Rule b after random tie-breaks: noise smaller than any difference of scores."""
    rng = np.random.default_rng([seed])
    return [m.ranks(sim + 1e-6 * rng.random(sim.shape), pairs).v2t_rule_b for _ in range(times)]


def test_a_collapsed_model_with_several_captions_a_video() -> None:
    """50 videos of 20 texts, all scores equal: any of a video's 20 texts may be the first of 1,000."""
    sim = np.ones((1_000, 50))
    pairs = [(text, text // 20) for text in range(1_000)]
    side = m.ranks(sim, pairs).v2t_rule_b
    metrics = m.metrics(side)
    assert metrics["R@1"] == pytest.approx(2) and metrics["MnR"] == pytest.approx(1 + 980 / 21)
    assert metrics["R@10"] == pytest.approx(100 * (1 - math.comb(980, 10) / math.comb(1_000, 10)))
    drawn = [m.metrics(each) for each in simulated(sim, pairs, 40, 4)]
    for name, within in (("R@1", 0.8), ("R@5", 1.5), ("R@10", 2.0), ("MeanR", 1.2), ("MnR", 2.5), ("MRR", 0.01)):
        assert np.mean([each[name] for each in drawn]) == pytest.approx(metrics[name], abs=within)
    assert m.metrics_pessimistic(side)["MnR"] == 981 and m.ties(side)["most_ties"] == 980


def test_rule_b_is_the_mean_over_random_tie_breaks() -> None:
    rng = np.random.default_rng([13])
    sim = rng.integers(0, 3, (24, 6)).astype(float)
    pairs = [(text, text % 6) for text in range(22)]
    side = m.ranks(sim, pairs).v2t_rule_b
    assert side.siblings is not None and len(set(side.siblings.tolist())) > 2 and (side.equal > 0).all()
    drawn = simulated(sim, pairs, 3_000, 14)
    for k in (1, 3, 5):
        assert np.mean([each.hits(k) for each in drawn], axis=0) == pytest.approx(side.hits(k), abs=0.04)
    assert np.mean([each.reciprocal() for each in drawn], axis=0) == pytest.approx(side.reciprocal(), abs=0.02)
    assert np.mean([each.rank_expected for each in drawn], axis=0) == pytest.approx(side.rank_expected, abs=0.1)


def test_a_caption_twice_beside_one_foreign_copy() -> None:
    sim = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.2]])
    side = m.ranks(sim, [(0, 0), (1, 0), (2, 1)]).v2t_rule_b
    assert side.hits(1)[0] == pytest.approx(2 / 3) and side.select(np.array([True, False])).hits(1) == pytest.approx(
        2 / 3
    )


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
