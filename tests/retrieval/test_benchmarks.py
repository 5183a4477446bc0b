from __future__ import annotations

from pathlib import Path

import pytest

from data_tools import activitynet, didemo, lsmdc, msrvtt, msvd, vatex, youku
from m2raap.core.errors import M2raapError, UsageError
from m2raap.retrieval.benchmarks import BENCHMARKS, asked_for, check_counts, declared, read_benchmarks


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


def test_youku_is_declared_without_counts_which_no_source_confirms() -> None:
    for protocol in ("test", "val"):
        written = youku.PROTOCOLS[protocol]
        assert written is not None and (written.clips, written.texts) == (None, None)
        ours = BENCHMARKS[written.name]
        assert ours.langs == ("zh",) and (ours.num_videos, ours.num_texts, ours.texts_per_video) == (None, None, None)
    check("youku", 3, {"zh": 7})
    with pytest.raises(M2raapError, match="texts in 'en', which it does not have"):
        check("youku", 3, {"en": 3})


def check(name: str, num_videos: int, texts: dict[str, int], **moved: str) -> None:
    """The texts spread evenly; `moved`: video -> the one that its first text is given to."""
    videos = [f"v{i:05d}" for i in range(num_videos)]
    owners = {lang: [videos[i % num_videos] for i in range(num)] for lang, num in texts.items()}
    for lang in owners:
        for old, new in moved.items():
            owners[lang][owners[lang].index(old)] = new
    check_counts(BENCHMARKS[name], videos, owners)


def test_right_counts_pass() -> None:
    check("msrvtt-1ka-jsfusion", 1_000, {"en": 1_000})
    check("msrvtt-full", 2_990, {"en": 59_800})
    check("msvd", 670, {"en": 27_763, "zh": 3_980})
    check("msvd", 670, {"zh": 3_980})
    check("msvd-cn", 670, {"zh": 3_980}, v00001="v00002")
    check("world-motion", 37, {"en": 37, "zh": 37})
    check("custom", 3, {"en": 50})


@pytest.mark.parametrize(
    ("name", "videos", "texts", "message"),
    [
        ("msrvtt-1ka-jsfusion", 998, {"en": 1_000}, "998 videos instead of 1,000;"),
        ("msrvtt-full", 2_990, {"en": 59_794}, "59,794 en texts instead of 59,800;"),
        ("msrvtt-full", 1, {"en": 2}, "1 videos instead of 2,990; 2 en texts instead of 59,800"),
        ("msvd", 670, {"en": 27_763, "zh": 3_979}, "3,979 zh texts instead of 3,980"),
        ("msvd-cn", 670, {"en": 1, "zh": 3_980}, "texts in 'en', which it does not have"),
        ("vatex-public-test", 6_000, {"zh": 60_000}, "texts in 'zh', which it does not have"),
        ("world-motion", 37, {"en": 36}, "0 en texts of v00036 instead of 1;"),
    ],
)
def test_other_counts_are_refused(name: str, videos: int, texts: dict[str, int], message: str) -> None:
    with pytest.raises(M2raapError, match=f"benchmark {name}: {message}"):
        check(name, videos, texts)


@pytest.mark.parametrize(
    ("name", "videos", "texts", "each"),
    [
        ("world-motion", 5, {"en": 5, "zh": 5}, 1),
        ("msrvtt-1ka-jsfusion", 1_000, {"en": 1_000}, 1),
        ("msrvtt-full", 2_990, {"en": 59_800}, 20),
    ],
)
def test_every_video_has_its_texts(name: str, videos: int, texts: dict[str, int], each: int) -> None:
    message = f"{each - 1} en texts of v00001 instead of {each} and 1 more videos differ"
    with pytest.raises(M2raapError, match=message):
        check(name, videos, texts, v00001="v00002")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("msvrtt-1k-a-jsfusion", "msrvtt-1ka-jsfusion"),
        ("MSVD", "msvd"),
        ("vatex-test", "vatex-public-test"),
        ("activitynet", "activitynet-paragraph"),
        ("kitchen-600", "kitchen-500"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    for call in (declared, asked_for):
        with pytest.raises(UsageError, match=f"{name}.*{near}"):
            call(name, {"kitchen-500": {}})


def test_names_of_ones_own_stay_undeclared() -> None:
    for name in ("C-holdout-8-seed0", "msvd-holdout-670-seed0", "msrvtt-1ka-jsfusion-minus-3", "clips", "kitchen-val"):
        assert declared(name, {}) is None
    with pytest.raises(UsageError, match="--protocol clips: .*msrvtt-1ka-jsfusion, "):
        asked_for("clips", {}, "--protocol")


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
    videos = [f"v{i}" for i in range(500)]
    check_counts(found, videos, {"en": videos, "zh": videos[:480]})
    with pytest.raises(M2raapError, match="481 zh texts instead of 480"):
        check_counts(found, videos, {"zh": videos[:481]})
    assert declared("other", {}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_videos", "num_video"), "b.yaml: kitchen-500: unknown key 'num_video': did you mean 'num_videos'"),
        (("kitchen-500", "msvd"), "b.yaml: 'msvd' is .*another name"),
        (("500, zh", "0, zh"), "b.yaml: kitchen-500: .*num_texts.en"),
        (("kitchen-500:", "a: 3\nb:"), "b.yaml: a: expected the keys of a benchmark"),
    ],
)
def test_bad_declarations_name_the_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "b.yaml").write_text(YAML.replace(*change))
    with pytest.raises(UsageError, match=message):
        read_benchmarks(tmp_path / "b.yaml")
