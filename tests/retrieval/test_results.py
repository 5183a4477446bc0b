from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from m2raap.core.errors import M2raapError
from m2raap.retrieval import arms, rank_table
from m2raap.retrieval.embeddings import Embeddings
from m2raap.retrieval.results import Results, evaluate_embeddings
from m2raap.retrieval.sides import EXTRA_COLUMNS


class World:
    """Videos with noisy texts in two languages; `several` gives the first videos two more English texts."""

    def __init__(self, num_videos: int = 30, noise: float = 1.0, several: int = 0, seed: int = 0) -> None:
        rng = np.random.default_rng([seed])
        self.video_VE = rng.normal(size=(num_videos, 16)).astype(np.float32)
        self.video_ids = [f"v{i:03d}" for i in range(num_videos)]
        owners = [(i, lang, 0) for lang in ("en", "zh") for i in range(num_videos)]
        owners += [(i, "en", extra) for i in range(several) for extra in (1, 2)]
        self.text_TE = np.stack([self.video_VE[i] + noise * rng.normal(size=16) for i, _, _ in owners]).astype("f4")
        self.text_ids = [f"v{i:03d}.{lang}{n}" for i, lang, n in owners]
        self.text_video_ids = [f"v{i:03d}" for i, _, _ in owners]
        self.text_langs = [lang for _, lang, _ in owners]
        self.categories = {video: ("motion", "order")[i % 2] for i, video in enumerate(self.video_ids)}

    def evaluate(self, lost: int = 0, order: np.ndarray | None = None, **changes: Any) -> Results:
        rows = np.arange(len(self.text_ids)) if order is None else order
        inputs: dict[str, Any] = {
            "video_VE": self.video_VE[lost:],
            "video_ids": self.video_ids[lost:],
            "text_TE": self.text_TE[rows],
            "text_ids": [self.text_ids[i] for i in rows],
            "text_video_ids": [self.text_video_ids[i] for i in rows],
            "text_langs": [self.text_langs[i] for i in rows],
            "categories": self.categories,
            "missing": self.video_ids[:lost],
        }
        return evaluate_embeddings(Embeddings(**{**inputs, **changes}), seed=0)


def one(results: Results, **wanted: str) -> dict[str, Any]:
    (row,) = [row for row in results.rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_an_encoder_that_knows_the_answer_scores_100_and_a_shuffled_one_chance() -> None:
    world = World(200, noise=0)
    perfect = world.evaluate()
    assert {row["metrics"]["R@1"] for row in perfect.rows} == {100.0}
    assert {row["rsum"] for row in perfect.rows} == {600.0}
    shuffled = np.random.default_rng([1]).permutation(200)
    chance = world.evaluate(video_VE=world.video_VE[shuffled])
    assert all(row["metrics"]["R@1"] < 3 for row in chance.rows)


def test_a_collapsed_model_scores_one_in_n() -> None:
    world = World(40)
    same = np.tile(np.random.default_rng([2]).normal(size=16), (200, 1))
    found = world.evaluate(video_VE=same[:40], text_TE=same[: len(world.text_ids)])
    assert one(found, lang="en", direction="t2v", slice="all")["metrics"]["R@1"] == pytest.approx(2.5)
    assert one(found, lang="en", direction="t2v", slice="all")["pessimistic"]["R@1"] == 0


def test_rows_hold_metrics_intervals_and_slices() -> None:
    found = World().evaluate()
    assert [(r["lang"], r["slice"], r["direction"]) for r in found.rows] == [
        (lang, name, direction)
        for lang in ("en", "zh")
        for name in ("all", "motion", "order")
        for direction in ("t2v", "v2t")
    ]
    for row in found.rows:
        assert row["comparable"] and row["scope"] == "official" and row["gallery"] == 30
        assert set(row["intervals"]) == set(row["metrics"])
        for name, (lo, hi) in row["intervals"].items():
            assert lo <= row["metrics"][name] <= hi
    motion, order = (one(found, lang="en", direction="t2v", slice=name) for name in ("motion", "order"))
    whole = one(found, lang="en", direction="t2v", slice="all")
    mean = (motion["metrics"]["R@5"] * motion["queries"] + order["metrics"]["R@5"] * order["queries"]) / 30
    assert whole["metrics"]["R@5"] == pytest.approx(mean)


def test_missing_videos_are_misses_and_the_available_row_says_so() -> None:
    world = World(20, noise=0)
    found = world.evaluate(lost=4)
    official = one(found, lang="en", direction="t2v", slice="all", scope="official")
    assert official["metrics"]["R@1"] == 80 and official["metrics"]["R@50"] == 80
    assert (official["queries"], official["gallery"], official["missing"]) == (20, 20, 4)
    v2t = one(found, lang="zh", direction="v2t", slice="all", scope="official")
    assert v2t["metrics"]["R@50"] == 80 and v2t["gallery"] == 20
    available = one(found, lang="en", direction="t2v", slice="all", scope="available")
    assert available["metrics"]["R@1"] == 100 and not available["comparable"]
    assert (available["queries"], available["gallery"], available["missing"]) == (16, 16, 0)
    assert found.missing == world.video_ids[:4] == found.to_dict()["missing"]
    lost = [row for row in found.ranks if row["missing"]]
    assert len(found.ranks) == 80 and len(lost) == 16
    assert {row["rank_pessimistic"] for row in lost} == {20}
    assert all(row["top_ids"] == [] for row in lost if row["direction"] == "v2t")
    assert all(len(row["top_ids"]) == 10 for row in lost if row["direction"] == "t2v")


def test_nothing_missing_means_no_available_row() -> None:
    assert {row["scope"] for row in World().evaluate().rows} == {"official"}


def test_several_captions_give_rule_b_too() -> None:
    found = World(several=10, noise=2).evaluate(lost=1)
    assert one(found, lang="en", direction="t2v", slice="all", scope="official")["queries"] == 50
    rule_a = one(found, lang="en", direction="v2t", slice="all", scope="official")
    rule_b = one(found, lang="en", direction="v2t_rule_b", slice="all", scope="official")
    assert (rule_a["gallery"], rule_b["gallery"], rule_a["queries"]) == (30, 50, 30)
    assert rule_a["metrics"]["R@1"] == rule_b["metrics"]["R@1"]
    assert rule_a["metrics"]["R@10"] >= rule_b["metrics"]["R@10"]
    assert not [row for row in found.rows if row["lang"] == "zh" and row["direction"] == "v2t_rule_b"]
    assert found.to_dict()["v2t_rules"].keys() == {"a", "b"}


def test_the_captions_of_a_missing_video_are_one_rival() -> None:
    axes = np.eye(8)
    texts = [axes[i] + 0.9 * axes[5] for i in range(3)] + [axes[0] + 0.01 * j * axes[6] for j in range(20)]
    owners = ["v0", "v1", "v2"] + ["vm"] * 20
    names = [f"t{i:02d}" for i in range(23)]
    embeddings = Embeddings(axes[:3], np.stack(texts), ["v0", "v1", "v2"], names, owners, ["en"] * 23, missing=["vm"])
    found = evaluate_embeddings(embeddings, 0)
    by_video = {row["video_id"]: row for row in found.ranks if row["direction"] == "v2t"}
    assert (by_video["v0"]["rank_pessimistic"], by_video["v0"]["gallery"]) == (2, 4), "after the best caption of vm"
    assert by_video["v0"]["rule_b"] == {"rank_pessimistic": 21, "ties": 0, "gallery": 23, "siblings": 0}
    assert by_video["v0"]["available"] == {"rank_pessimistic": 1, "ties": 0, "gallery": 3, "siblings": None}
    assert by_video["vm"]["rank_pessimistic"] == 4 and by_video["vm"]["available"] is None
    assert one(found, direction="v2t_rule_b", scope="official")["metrics"]["MnR"] == (21 + 1 + 1 + 23) / 4
    assert [row["direction"] for row in found.rows if row["scope"] == "available"] == ["t2v", "v2t"], "one text each"


def test_ranks_agree_with_a_plain_sort() -> None:
    world = World(noise=1.5)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (world.text_TE[:30], world.video_VE)]
    sim = unit[0] @ unit[1].T
    for row in world.evaluate().ranks:
        if row["lang"] != "en":
            continue
        t2v = row["direction"] == "t2v"
        index = int(row["video_id"][1:])
        scores = sim[index] if t2v else sim[:, index]
        assert row["rank_expected"] == 1 + (scores > scores[index]).sum()
        best = np.argsort(-scores)[:10]
        assert [int(name[1:4]) for name in row["top_ids"]] == best.tolist()
        assert row["top_scores"] == pytest.approx(scores[best], abs=2e-6)


def test_tied_tops_come_in_the_order_of_ids() -> None:
    same = np.ones((60, 16))
    found = World().evaluate(video_VE=same[:30], text_TE=same)
    assert found.ranks[0]["top_ids"] == [f"v{i:03d}" for i in range(10)]


def test_same_bytes_for_any_order_and_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(several=5)
    whole = world.evaluate(lost=2)
    monkeypatch.setattr("m2raap.retrieval.metrics.BLOCK_ELEMENTS", 100)
    monkeypatch.setattr(rank_table, "BLOCK_ELEMENTS", 100)
    order = np.random.default_rng([4]).permutation(len(world.text_ids))
    again = world.evaluate(lost=2, order=order)
    assert json.dumps([whole.to_dict(), whole.ranks]) == json.dumps([again.to_dict(), again.ranks])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_ids": ["v000"] * 30}, "video v000 has two embeddings"),
        ({"missing": ["v003"]}, "v003 is listed as missing, but has an embedding"),
        ({"video_VE": np.zeros((30, 16))}, r"embedding of video v000 .*\(30 such\)"),
        ({"text_video_ids": ["v999"] * 60}, "text v000.en0 belongs to video v999"),
        (
            {"video_VE": np.zeros((0, 16)), "video_ids": [], "missing": [f"v{i:03d}" for i in range(30)]},
            "no video embedding",
        ),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(M2raapError, match=message):
        World().evaluate(**changes)


def test_nan_embedding_is_refused_by_name() -> None:
    world = World()
    world.text_TE[7, 3] = np.nan
    with pytest.raises(M2raapError, match=r"embedding of text v007\.en0"):
        world.evaluate()


def test_all_videos_of_a_language_missing() -> None:
    world = World(4)
    langs = ["zh", "en", "en", "en"] * 2
    with pytest.raises(M2raapError, match="has an embedding"):
        world.evaluate(lost=1, text_langs=langs)


@pytest.mark.parametrize(("lost", "several"), [(3, 0), (0, 5), (3, 5)])
def test_summarise_of_one_run_is_the_run(lost: int, several: int) -> None:
    found = World(several=several).evaluate(lost=lost)
    assert arms.summarise([found.ranks], 0) == found.rows
    assert {(row["scope"], row["direction"]) for row in found.rows} == {
        (scope, direction)
        for scope in ("official", *(["available"] if lost else []))
        for direction in ("t2v", "v2t", *(["v2t_rule_b"] if several else []))
    }


def test_own_captions_that_tie_are_no_rivals_in_the_table_either() -> None:
    world = World(20, several=20)
    same = np.ones_like(world.text_TE)
    found = world.evaluate(lost=2, text_TE=same, video_VE=np.ones_like(world.video_VE[2:]))
    row = one(found, lang="en", direction="v2t_rule_b", slice="all", scope="official")
    # Any of three captions of 60 may be the first, for 18 of 20 videos.
    assert row["metrics"]["R@1"] == pytest.approx(100 * 18 / 20 * 3 / 60)
    assert row["metrics"]["MnR"] == pytest.approx((18 * (1 + 57 / 4) + 2 * 60) / 20)
    assert arms.summarise([found.ranks], 0) == found.rows
    # A table of an older version does not say how many there are.
    for of_query in found.ranks:
        for column in EXTRA_COLUMNS:
            (of_query[column] or {}).pop("siblings", None)
    old = Results(arms.summarise([found.ranks], 0), [], [], {})
    assert one(old, lang="en", direction="v2t_rule_b", slice="all", scope="official")["metrics"]["R@1"] < 2


def test_tables_without_the_other_ranks_give_the_official_rows() -> None:
    found = World(several=5).evaluate(lost=3)
    old = [{name: value for name, value in row.items() if name not in EXTRA_COLUMNS} for row in found.ranks]
    assert arms.summarise([old], 0) == [
        row for row in found.rows if row["scope"] == "official" and row["direction"] != "v2t_rule_b"
    ]


def test_summarise_averages_training_seeds() -> None:
    runs = [World(noise=noise, several=5).evaluate(lost=2) for noise in (1.0, 2.0)]
    every = Results(arms.summarise([r.ranks for r in runs], 0), [], [], {})
    for wanted in ({"direction": "t2v", "scope": "available"}, {"direction": "v2t_rule_b", "scope": "official"}):
        row, *each = (one(some, lang="en", slice="all", **wanted) for some in (every, *runs))
        assert row["seeds_r1"] == [run["metrics"]["R@1"] for run in each] and row["seeds"] == 2
        assert row["comparable"] == (wanted["scope"] == "official") and row.keys() == each[0].keys()
    runs = [World(noise=noise).evaluate() for noise in (1.0, 2.0)]
    mean = one(Results(arms.summarise([r.ranks for r in runs], 0), [], [], {}), lang="en", slice="all", direction="t2v")
    each = [one(run, lang="en", slice="all", direction="t2v")["metrics"] for run in runs]
    assert mean["seeds"] == 2
    for name in ("R@1", "MdR", "MRR"):
        assert mean["metrics"][name] == pytest.approx((each[0][name] + each[1][name]) / 2, abs=2e-6)


def test_paired_arms() -> None:
    good, bad = World(noise=0.5).evaluate(lost=1), World(noise=4).evaluate(lost=1)
    found = arms.paired([good.ranks], [bad.ranks], "en", "t2v", "R@1", seed=0)
    assert found["a"] == one(good, lang="en", direction="t2v", slice="all", scope="official")["metrics"]["R@1"]
    assert found["diff"] == pytest.approx(found["a"] - found["b"])
    assert found["p"] < 0.01 and 0 < found["lo"] < found["hi"]
    sliced = arms.paired([good.ranks], [bad.ranks], "zh", "v2t", "R@5", seed=0, category="order")
    assert (sliced["slice"], sliced["metric"], sliced["queries"]) == ("order", "R@5", 15)


def test_other_queries_do_not_compare() -> None:
    with pytest.raises(M2raapError, match="t2v queries in 'en'"):
        arms.paired([World(30).evaluate().ranks], [World(29).evaluate().ranks], "en", "t2v", "R@1", seed=0)
    with pytest.raises(M2raapError, match="no t2v queries in 'fr'"):
        arms.paired([World().evaluate().ranks], [World().evaluate().ranks], "fr", "t2v", "R@1", seed=0)
    with pytest.raises(M2raapError, match="miss different videos"):
        arms.summarise([World().evaluate().ranks, World().evaluate(lost=1).ranks], 0)
