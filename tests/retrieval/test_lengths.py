from __future__ import annotations

import numpy as np
import pytest

from m2raap.retrieval.lengths import NAMES, UNKNOWN, by_length, length_name
from tests.report.conftest import results_of


def test_bounds_belong_to_the_middle() -> None:
    names = [length_name(s) for s in (0.1, 4.999, 5.0, 15.0, 15.001, 900.0, None)]
    assert names == [NAMES[0], NAMES[0], NAMES[1], NAMES[1], NAMES[2], NAMES[2], UNKNOWN]


def test_every_query_stands_in_one_slice_with_its_own_hits() -> None:
    tables = [results_of(1.0, seed, num_videos=40).ranks for seed in (1, 2)]
    videos = sorted({row["video_id"] for row in tables[0]})
    seconds = {video: 1.0 + i for i, video in enumerate(videos) if i > 1}  # not of the two that are missing
    rows = by_length(tables, seconds, seed=0)
    assert {row["slice"] for row in rows} == {*NAMES, UNKNOWN}
    assert [row["slice"] for row in rows if (row["lang"], row["direction"]) == ("zh", "t2v")] == [*NAMES, UNKNOWN]
    for row in rows:
        own = [
            [
                r["rank_pessimistic"] == 1
                for r in table
                if (r["lang"], r["direction"]) == (row["lang"], row["direction"])
                and length_name(seconds.get(r["video_id"])) == row["slice"]
            ]
            for table in tables
        ]
        assert row["queries"] == len(own[0]) and row["gallery"] == 40 and row["seeds"] == 2
        assert row["metrics"]["R@1"] == pytest.approx(100 * np.mean(own), abs=1e-5)
    lost = [row for row in rows if row["slice"] == UNKNOWN]
    assert all(row["missing"] == 2 and row["metrics"]["R@1"] == 0 for row in lost)
    assert sum(row["queries"] for row in rows if (row["lang"], row["direction"]) == ("en", "v2t")) == 40


def test_one_length_makes_no_slices() -> None:
    ranks = results_of(1.0, 1, num_videos=20).ranks
    assert by_length([ranks], {row["video_id"]: 3.0 for row in ranks}, seed=0) == []
    assert by_length([ranks], {}, seed=0) == []
