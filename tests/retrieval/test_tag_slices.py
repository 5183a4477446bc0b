from __future__ import annotations

import numpy as np
import pytest

from m2raap.retrieval.sides import rows_of
from m2raap.retrieval.tag_slices import LEAST_VIDEOS, MOST_TAGS, add_tags, tag_rows
from tests.report.conftest import results_of


def tagged(tags: dict[str, list[str]], seeds: tuple[int, ...] = (1,)) -> list[list[dict]]:
    tables = [[dict(row) for row in results_of(1.0, seed, num_videos=60).ranks] for seed in seeds]
    for table in tables:
        add_tags(table, tags)
    return tables


def videos() -> list[str]:
    return sorted({row["video_id"] for row in results_of(1.0, 1, num_videos=60).ranks})


def test_a_slice_has_the_hits_of_its_queries_against_the_full_gallery() -> None:
    tags = {video: ["red"] * (i % 2) + ["circle"] * (i < 45) for i, video in enumerate(videos())}
    tables = tagged(tags, seeds=(1, 2))
    rows = tag_rows(tables, seed=0)
    assert [(row["lang"], row["slice"], row["direction"]) for row in rows] == [
        (lang, tag, direction) for lang in ("en", "zh") for tag in ("circle", "red") for direction in ("t2v", "v2t")
    ]
    for row in rows:
        hits = [
            [
                q["rank_pessimistic"] == 1
                for q in rows_of(table, row["lang"], row["direction"])
                if row["slice"] in q["tags"]
            ]
            for table in tables
        ]
        assert row["gallery"] == 60 and row["scope"] == "official" and row["seeds"] == 2
        assert row["queries"] == len(hits[0]) == (45 if row["slice"] == "circle" else 30)
        assert row["metrics"]["R@1"] == pytest.approx(100 * np.mean(hits), abs=1e-5)
        low, high = row["intervals"]["R@1"]
        assert low < row["metrics"]["R@1"] < high


def test_a_tag_of_all_videos_is_the_whole_benchmark() -> None:
    (table,) = tagged({video: ["all of them"] for video in videos()})
    whole = {
        (row["lang"], row["direction"]): row
        for row in results_of(1.0, 1, num_videos=60).rows
        if (row["slice"], row["scope"]) == ("all", "official")
    }
    rows = tag_rows([table], seed=0)
    assert len(rows) == len(whole) == 4
    for row in rows:
        assert row | {"slice": "all"} == whole[row["lang"], row["direction"]]


def test_rare_tags_and_videos_without_tags_are_in_no_slice() -> None:
    names = videos()
    tags = {name: ["often"] for name in names[:LEAST_VIDEOS]} | {names[-1]: ["once"]}
    assert {row["slice"] for row in tag_rows(tagged(tags), seed=0)} == {"often"}
    assert tag_rows(tagged({}), seed=0) == []
    assert tag_rows([results_of(1.0, 1, num_videos=60).ranks], seed=0) == []  # of an evaluation without tags
    many = {name: [f"tag{i:02d}" for i in range(MOST_TAGS + 3)] for name in names}
    assert len({row["slice"] for row in tag_rows(tagged(many), seed=0)}) == MOST_TAGS


def test_languages_count_their_videos_apart() -> None:
    (table,) = tagged({video: ["red"] for video in videos()[: LEAST_VIDEOS + 2]})
    fewer = [row for row in table if row["lang"] == "en" or row["video_id"] > videos()[4]]
    assert {(row["lang"], row["slice"]) for row in tag_rows([fewer], seed=0)} == {("en", "red")}
