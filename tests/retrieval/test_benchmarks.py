from __future__ import annotations

from pathlib import Path

import pytest

from data_tools import activitynet, didemo, lsmdc, msrvtt, msvd, vatex
from m2raap.core.errors import M2raapError, UsageError
from m2raap.retrieval.benchmarks import BENCHMARKS, check_counts, declared, read_benchmarks


def test_declarations_agree_with_themselves() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert set(benchmark.num_texts or {}) <= set(benchmark.langs)
        if benchmark.num_videos and benchmark.num_texts and benchmark.texts_per_video:
            assert set(benchmark.num_texts.values()) == {benchmark.num_videos * benchmark.texts_per_video}


def test_importers_and_declarations_agree() -> None:
    benchmarks = [msrvtt.PROTOCOLS["1ka"], msrvtt.PROTOCOLS["full"], msvd.PROTOCOLS["test"][1], vatex.PROTOCOLS["val"]]
    benchmarks += [vatex.PROTOCOLS["test"], didemo.PROTOCOLS["paragraph"], didemo.PROTOCOLS["moments"]]
    benchmarks += [activitynet.PROTOCOLS["paragraph"], lsmdc.PROTOCOLS["test"]]
    for written in benchmarks:
        assert written is not None
        ours = BENCHMARKS[written.name]
        assert (ours.num_videos, ours.num_texts) == (written.clips, dict(written.texts or {}))


def test_right_counts_pass() -> None:
    check_counts(BENCHMARKS["msrvtt-1ka-jsfusion"], 1_000, {"en": 1_000})
    check_counts(BENCHMARKS["msvd"], 670, {"en": 27_763, "zh": 3_980})
    check_counts(BENCHMARKS["msvd"], 670, {"zh": 3_980})
    check_counts(BENCHMARKS["world-motion"], 37, {"en": 37, "zh": 37})
    check_counts(BENCHMARKS["custom"], 3, {"en": 50})


@pytest.mark.parametrize(
    ("name", "videos", "texts", "message"),
    [
        ("msrvtt-1ka-jsfusion", 998, {"en": 1_000}, "998 videos instead of 1,000;"),
        ("msrvtt-full", 2_990, {"en": 59_794}, "59,794 en texts instead of 59,800;"),
        ("msrvtt-full", 1, {"en": 2}, "1 videos instead of 2,990 and 2 en texts instead of 59,800"),
        ("msvd", 670, {"en": 27_763, "zh": 3_979}, "3,979 zh texts instead of 3,980"),
        ("vatex-public-test", 6_000, {"zh": 60_000}, "texts in 'zh', which it does not have"),
        ("world-motion", 37, {"en": 36}, "36 en texts for 37 videos instead of 1 each"),
    ],
)
def test_other_counts_are_refused(name: str, videos: int, texts: dict[str, int], message: str) -> None:
    with pytest.raises(M2raapError, match=f"benchmark {name}: {message}"):
        check_counts(BENCHMARKS[name], videos, texts)


YAML = """
kitchen-500:
  protocol: my own kitchen clips, one sentence a clip
  langs: [en, zh]
  num_videos: 500
  num_texts: {en: 500, zh: 480}
  source: kitchen.csv
  revision: sha256:00
  citation: none
"""


def test_a_users_benchmark(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(YAML)
    found = declared("kitchen-500", read_benchmarks(tmp_path / "b.yaml"))
    assert found is not None and found.split == "test"
    check_counts(found, 500, {"en": 500, "zh": 480})
    with pytest.raises(M2raapError, match="481 zh texts instead of 480"):
        check_counts(found, 500, {"zh": 481})
    assert declared("other", {}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_videos", "num_video"), "b.yaml: kitchen-500: unknown key 'num_video': did you mean 'num_videos'"),
        (("kitchen-500", "msvd"), "b.yaml: 'msvd' is a benchmark of m2raap"),
        (("500, zh", "0, zh"), "b.yaml: kitchen-500: .*num_texts.en"),
        (("kitchen-500:", "a: 3\nb:"), "b.yaml: a: expected the keys of a benchmark"),
    ],
)
def test_bad_declarations_name_the_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "b.yaml").write_text(YAML.replace(*change))
    with pytest.raises(UsageError, match=message):
        read_benchmarks(tmp_path / "b.yaml")
