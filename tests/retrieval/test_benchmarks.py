from __future__ import annotations

import pytest

from m2raap.core.errors import M2raapError
from m2raap.retrieval.benchmarks import BENCHMARKS, check_counts


def test_declarations_agree_with_themselves() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        if benchmark.num_videos is not None and benchmark.texts_per_video is not None:
            assert benchmark.num_texts == benchmark.num_videos * benchmark.texts_per_video


def test_right_counts_pass() -> None:
    check_counts(BENCHMARKS["msrvtt-1ka-jsfusion"], 1_000, 1_000)
    check_counts(BENCHMARKS["msrvtt-full"], 2_990, 59_800)
    check_counts(BENCHMARKS["world-motion"], 37, 37)
    check_counts(BENCHMARKS["custom"], 3, 50)


@pytest.mark.parametrize(
    ("name", "videos", "texts", "message"),
    [
        ("msrvtt-1ka-jsfusion", 998, 1_000, "998 videos instead of 1,000;"),
        ("msrvtt-full", 2_990, 59_794, "59,794 texts instead of 59,800;"),
        ("msrvtt-full", 1, 2, "1 videos instead of 2,990 and 2 texts instead of 59,800"),
        ("world-motion", 37, 36, "36 texts for 37 videos instead of 1 each"),
    ],
)
def test_other_counts_are_refused(name: str, videos: int, texts: int, message: str) -> None:
    with pytest.raises(M2raapError, match=f"benchmark {name}: {message}"):
        check_counts(BENCHMARKS[name], videos, texts)
