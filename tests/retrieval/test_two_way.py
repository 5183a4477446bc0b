"""Two-way accuracy against a slow twin, and on models whose knowledge is known."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.errors import M2raapError
from m2raap.retrieval import two_way
from m2raap.retrieval.embeddings import Embeddings
from m2raap.retrieval.rescore import Rescored
from m2raap.retrieval.results import Results, evaluate_embeddings
from m2raap.retrieval.two_way import choices, two_way_differences, two_way_rows


def _slowly(
    scores_TV: np.ndarray,
    text_ids: list[str],
    owners: list[str],
    videos: list[str],
    twins: dict[str, str],
    direction: str,
) -> dict[str, float]:
    """Query id -> share of its choices that are right, one comparison at a time."""

    def better(own: float, other: float) -> float:
        return 1.0 if own > other else 0.5 if own == other else 0.0

    result = {}
    for video in videos:
        twin = twins.get(video)
        own_texts = [row for row, owner in enumerate(owners) if owner == video]
        twin_texts = [row for row, owner in enumerate(owners) if owner == twin]
        if twin not in videos or twin == video:
            continue
        column, other = videos.index(video), videos.index(twin)
        if direction == "t2v":
            for row in own_texts:
                result[text_ids[row]] = better(scores_TV[row, column], scores_TV[row, other])
        elif own_texts and twin_texts:
            pairs = [better(scores_TV[a, column], scores_TV[b, column]) for a, b in product(own_texts, twin_texts)]
            result[video] = float(np.mean(pairs))
    return result


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([1, 7, 10**6]))
def test_choices_against_a_slow_twin(seed: int, texts_a_video: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    videos = [f"v{i}" for i in range(int(rng.integers(2, 8)))]
    owners = [video for video in videos for _ in range(int(rng.integers(0, texts_a_video + 1)))] + ["lost"]
    text_ids = [f"t{i}" for i in range(len(owners))]
    named = [*videos, "lost", "nobody"]
    twins = {video: named[int(rng.integers(len(named)))] for video in named if rng.random() < 0.7}
    scores = {
        name: rng.integers(0, 3, (len(owners), len(videos))).astype(float) for name in ("t2v", "v2t")
    }  # many ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_way, "BLOCK_ELEMENTS", block)
        rows = {name: lambda rows, table=table: table[rows] for name, table in scores.items()}
        fast = choices(rows, text_ids, owners, {video: i for i, video in enumerate(videos)}, twins)
    for direction, table in scores.items():
        slow = _slowly(table, text_ids, owners, videos, twins, direction)
        assert {query: row["right"] for (name, query), row in fast.items() if name == direction} == pytest.approx(slow)
    assert all(row["twin_id"] in videos for row in fast.values())


def evaluate(order: float, num_pairs: int = 60, rescore: Any = None, **changes: Any) -> Results:
    """Pairs of twins that share a random vector of their objects; `order` is how far apart their order moves them."""
    rng = np.random.default_rng([3])
    objects = np.repeat(rng.normal(size=(num_pairs, 24)), 2, axis=0)
    side = np.tile([1.0, -1.0], num_pairs)[:, None] * order * np.eye(24)[0]
    ids = [f"v{i:03d}" for i in range(2 * num_pairs)]
    fields: dict[str, Any] = {
        "video_VE": objects + side,
        "text_TE": np.tile(objects + side, (2, 1)) + 0.01 * rng.normal(size=(4 * num_pairs, 24)),
        "video_ids": ids,
        "text_ids": [f"{video}.{lang}" for lang in ("en", "zh") for video in ids],
        "text_video_ids": ids * 2,
        "text_langs": ["en"] * len(ids) + ["zh"] * len(ids),
        "twins": {video: ids[i ^ 1] for i, video in enumerate(ids)},
    }
    return evaluate_embeddings(Embeddings(**fields | changes), 0, rescore)


def test_objects_alone_give_chance_and_a_high_recall_and_order_gives_all() -> None:
    blind = evaluate(order=0.0)
    for row in blind.two_way:
        assert row["accuracy"] == 50 and (row["n"], row["pairs"], row["seeds"]) == (120, 60, 1)
        lo, hi = row["interval"]
        assert lo < 50 < hi
    assert all(row["metrics"]["R@1"] == 50 for row in blind.rows)  # and R@5 is 100: the objects are known
    seeing = evaluate(order=1.0)
    assert [(row["lang"], row["direction"]) for row in seeing.two_way] == [
        (lang, direction) for lang in ("en", "zh") for direction in ("t2v", "v2t")
    ]
    for row in seeing.two_way:
        assert row["accuracy"] == 100 and 90 < row["interval"][0] < row["interval"][1] == 100
    assert blind.to_dict()["two_way"] == blind.two_way


def test_benchmarks_without_twins_have_no_such_numbers() -> None:
    plain = evaluate(order=1.0, twins={})
    assert plain.two_way == [] and "two_way" not in plain.to_dict() and not any("two_way" in row for row in plain.ranks)


def test_clips_without_embedding_are_left_out_with_their_twins() -> None:
    whole = evaluate(order=1.0)
    ids = [f"v{i:03d}" for i in range(120)]
    vectors = evaluate_inputs()[4:]
    lost = evaluate(order=1.0, video_VE=vectors, video_ids=ids[4:], missing=ids[:4])
    assert {row["n"] for row in lost.two_way} == {116} and {row["n"] for row in whole.two_way} == {120}
    by_id = {(row["lang"], row["direction"], row["query_id"]): row for row in lost.ranks}
    assert (
        by_id["en", "t2v", "v000.en"]["two_way"] is None
        and by_id["en", "t2v", "v004.en"]["two_way"]["twin_id"] == "v005"
    )


def evaluate_inputs() -> np.ndarray:
    rng = np.random.default_rng([3])
    objects = np.repeat(rng.normal(size=(60, 24)), 2, axis=0)
    return objects + np.tile([1.0, -1.0], 60)[:, None] * np.eye(24)[0]


def test_rescored_scores_choose_too_and_only_in_their_directions() -> None:
    turned = evaluate(1.0, rescore=lambda scores: Rescored(lambda rows: -scores.rows(rows), None))
    assert [(row["lang"], row["direction"], row["accuracy"]) for row in turned.two_way] == [
        ("en", "t2v", 0.0),
        ("zh", "t2v", 0.0),
    ]


def test_seeds_are_averaged_and_arms_are_paired_over_twins() -> None:
    blind, seeing = evaluate(order=0.0).ranks, evaluate(order=1.0).ranks
    for row in two_way_rows([blind, seeing], 0):
        assert row["accuracy"] == 75 and row["seeds_accuracy"] == [50, 100] and row["seeds"] == 2
    for row in two_way_differences([seeing], [blind], 0):
        assert (row["metric"], row["slice"], row["queries"]) == ("two-way", "all", 120)
        assert (row["a"], row["b"], row["diff"]) == (100, 50, 50) and row["p"] < 0.01
    assert list(two_way_differences([seeing], [evaluate(1.0, twins={}).ranks], 0)) == []
    with pytest.raises(M2raapError, match="twins of different t2v queries"):
        two_way_rows([seeing, [row for row in seeing if row["query_id"] != "v004.en"]], 0)


def test_the_interval_counts_pairs_of_twins_not_queries() -> None:
    """Where both twins of a pair are right or wrong together, the interval is as wide as that of half the number of queries."""
    rng = np.random.default_rng(0)
    both = rng.random(200) < 0.6

    def table(values: np.ndarray, twin: str) -> list[dict[str, Any]]:
        return [
            {
                "lang": "en", "direction": "t2v", "query_id": f"q{i:03d}{side}", "video_id": f"v{i:03d}{side}",
                "two_way": {"twin_id": f"v{i:03d}{twin}" if twin != side else f"v{i:03d}x", "right": float(value)},
            }
            for i, value in enumerate(values)
            for side in ("a", "b")
        ]  # fmt: skip

    (row,) = two_way_rows([table(both, "b")[0::2] + table(both, "a")[1::2]], 0)
    assert (row["n"], row["pairs"]) == (400, 200) and row["accuracy"] == pytest.approx(100 * both.mean())
    width = row["interval"][1] - row["interval"][0]
    assert width == pytest.approx(2 * 1.96 * 100 * np.sqrt(both.mean() * (1 - both.mean()) / 200), rel=0.1)
