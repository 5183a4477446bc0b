"""The whole world: plan, faults, files, truth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_tools.world import faults
from data_tools.world.benchmark import KINDS, most_clips, write_benchmark
from data_tools.world.benchmark import _plan as benchmark_plan
from data_tools.world.faults import CLIP_FAULTS, TEXT_FAULTS, FaultConfig
from data_tools.world.grammar import MOTIONS, SceneSampler, meaning, reversed_order, split_pairs
from data_tools.world.make import World, clip_row, make_world, plan_world, truth_rows
from data_tools.world.plan import Planned, WorldConfig
from m2raap.core.errors import UsageError
from m2raap.retrieval.benchmarks import BENCHMARKS
from m2raap.stages import reasons

MANY = FaultConfig(**dict.fromkeys((*TEXT_FAULTS, *CLIP_FAULTS), 0.06))
SMALL = WorldConfig(train_clips=34, val_clips=3, test_clips=4, seed=5, faults=MANY)


@pytest.fixture(scope="module")
def plans() -> list[Planned]:
    return plan_world(WorldConfig())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    out = tmp_path_factory.mktemp("world")
    return out, make_world(SMALL, out, workers=2)


def test_the_plan_has_the_clips_that_were_asked_for(plans: list[Planned]) -> None:
    assert Counter(p.split for p in plans) == {"train": 1400, "val": 160, "test": 500}
    assert len({p.clip_id for p in plans}) == len(plans)
    pairs = split_pairs(0)
    for split in pairs:
        mine = [p for p in plans if p.split == split]
        assert all(set(p.scene.pairs) <= set(pairs[split]) for p in mine)
        assert {e.motion for p in mine for e in p.scene.main.events} >= set(MOTIONS)
    kinds = Counter(p.scene.kind for p in plans if p.split == "train")
    assert set(kinds) == {"motion", "order", "pan", "static", "multishot"} and min(kinds.values()) > 70


def test_the_gallery_has_no_two_clips_of_one_meaning_and_both_orders(plans: list[Planned]) -> None:
    test = [p for p in plans if p.split == "test"]
    meanings = {meaning(p.scene) for p in test}
    assert len(meanings) == len(test)
    assert {p.scene.kind for p in test} == {"motion", "order"}
    order = [p.scene for p in test if p.scene.kind == "order"]
    assert len(order) >= 200 and all(meaning(reversed_order(s)) in meanings for s in order)
    assert len({p.texts["en"] for p in test}) == len({p.texts["zh"] for p in test}) == len(test)
    assert len(plan_world(WorldConfig(train_clips=1, val_clips=0, test_clips=800))) == 801


def test_shares_of_the_faults(plans: list[Planned]) -> None:
    train = [p for p in plans if p.split == "train"]
    assert all(not p.fault and p.texts == p.true_texts for p in plans if p.split != "train")
    count = Counter(p.fault for p in train)
    faulty = len(train) - count.pop("")
    assert 0.38 <= faulty / len(train) <= 0.46
    assert count["mismatch"] + count["mismatch_motion"] <= faulty / 3
    assert set(count) == {*TEXT_FAULTS, *CLIP_FAULTS} and min(count.values()) >= 25
    good = [p.texts[lang] != p.true_texts[lang] for p in train for lang in ("en", "zh")
            if not p.fault]  # fmt: skip
    assert 0.2 <= np.mean(good) <= 0.3


def test_truth_names_every_fault_once_by_the_names_the_pipeline_uses(plans: list[Planned]) -> None:
    rows = truth_rows(plans)
    assert len({r["id"] for r in rows}) == len(rows)
    assert {r["fault"] for r in rows} - set(reasons()) == {"mismatch_motion"}
    assert {r["fault"] for r in rows if r["level"] == "clip"} == set(CLIP_FAULTS)
    assert {r["fault"] for r in rows if r["repairable"]} == {"mojibake"}
    texts = {f"{p.clip_id}.{lang}0": (p.texts[lang], p.true_texts[lang]) for p in plans for lang in ("en", "zh")}
    for row in rows:
        if row["level"] == "text":
            said, true = texts[row["id"]]
            assert said != true or row["fault"].startswith("mismatch"), row


def test_mismatches_speak_of_something_else(plans: list[Planned]) -> None:
    by_text = {p.true_texts["en"]: p for p in plans}
    seen = 0
    for plan in plans:
        obj = plan.scene.main.events[0].obj
        if plan.fault == "mismatch" and "en" in plan.faulty_langs:
            origin = by_text.get(plan.texts["en"])
            seen += origin is not None
            assert origin is None or not {e.obj.pair for e in origin.scene.main.events} & {obj.pair}
        if plan.fault == "mismatch_motion":
            assert plan.scene.kind in ("motion", "order")
            for lang in plan.faulty_langs:
                assert (obj.colour if lang == "en" else faults.zh_colour(obj)) in plan.texts[lang]
        if plan.fault == "frozen":
            assert plan.scene.kind in ("motion", "order")


def test_duplicates(plans: list[Planned]) -> None:
    by_id = {p.clip_id: p for p in plans}
    copies = [p for p in plans if p.fault == "duplicate_clip"]
    assert len({p.duplicate_of for p in copies}) == len(copies)
    for copy in copies:
        origin = by_id[copy.duplicate_of or ""]
        assert not origin.fault and origin.texts == copy.texts and origin.scene == copy.scene
    for lang in ("en", "zh"):
        generic = Counter(p.texts[lang] for p in plans if p.fault == "duplicate_text" and lang in p.faulty_langs)
        assert min(generic.values()) >= 10


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["en", "zh"]))
def test_mojibake_is_broken_and_repairable_only_if_no_byte_is_lost(seed: int, lang: str) -> None:
    text = "three white circles drop down" if lang == "en" else "三个白色圆形往下降，然后不见了"
    broken, repairable = faults.mojibake(text, lang, np.random.default_rng(seed))
    assert broken != text

    def back(encoding: str) -> str | None:
        try:
            return broken.encode(encoding).decode()
        except UnicodeError:
            return None

    repaired = [b for b in map(back, ("latin-1", "cp1252", "gbk")) if b is not None]
    if lang == "en":
        plain = [b.translate({ord(c): None for c in "\u201c\u201d\u2018\u2019"}) for b in repaired]
        assert repairable and any(p.startswith(text) for p in plain)
    else:
        assert repairable == (text in repaired)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["en", "zh"]))
def test_light_dirt_keeps_the_words(seed: int, lang: str) -> None:
    import unicodedata

    text = "a red circle moves left" if lang == "en" else "一个红色圆形，向左移动"
    dirty = faults.light_dirt(text, lang, np.random.default_rng(seed))

    def letters(s: str) -> str:
        return "".join(c for c in unicodedata.normalize("NFKC", s).lower() if c.isalnum())

    assert dirty != text and letters(dirty).startswith(letters(text))


@settings(deadline=None)
@given(st.integers(0, 5000))
def test_other_motion_changes_only_the_motion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = SceneSampler(split_pairs(0)["train"], rng).scene(("motion", "order")[seed % 2])
    other = faults.other_motion(scene, rng)
    assert meaning(other) != meaning(scene)
    assert {e.obj for e in other.main.events} == {e.obj for e in scene.main.events}


def test_too_many_faults_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least a tenth"):
        FaultConfig(mismatch=0.9)


def _decoded(path: Path) -> int:
    """Frames that PyAV gets out of the file; -1 if it does not open."""
    try:
        with av.open(str(path)) as box:
            count = 0
            try:
                for _ in box.decode(video=0):
                    count += 1
            except av.FFmpegError:
                return count
            return count
    except (av.FFmpegError, IndexError):
        return -1


def test_files_and_rows(small: tuple[Path, World]) -> None:
    out, world = small
    rows = pq.read_table(out / "scenes.parquet").to_pylist()
    truth = {r["id"]: r["fault"] for r in pq.read_table(out / "truth.parquet").to_pylist()}
    assert len(rows) == 41 and len(world.train_clips) == 37 and len(world.test_clips) == 4
    assert len(world.train_texts) == 74 and len(world.test_texts) == 8
    assert Counter(truth[c["clip_id"]] for c in world.train_clips if c["clip_id"] in truth) == dict.fromkeys(
        CLIP_FAULTS, 2
    )
    scenes = {r["clip_id"]: r for r in rows}
    for clip in world.train_clips + world.test_clips:
        path = out / "videos" / clip["video"]
        assert path.is_file() and clip["category"] == scenes[clip["clip_id"]]["kind"]
        expected, found = scenes[clip["clip_id"]]["num_frames"], _decoded(path)
        fault = truth.get(clip["clip_id"])
        if fault == "not_media":
            assert found <= 1
        elif fault == "truncated":
            assert found < expected
        else:
            assert found == expected >= 24, clip
    ids = {c["clip_id"] for c in world.train_clips + world.test_clips}
    for text in world.train_texts + world.test_texts:
        assert (
            text["clip_id"] in ids and text["text_id"] == f"{text['clip_id']}.{text['lang']}0" and text["text"].strip()
        )


def test_bytes_do_not_depend_on_the_workers(small: tuple[Path, World], tmp_path: Path) -> None:
    out, world = small
    calls: list[tuple[int, int]] = []
    again = make_world(SMALL, tmp_path, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert again == world and calls == [(i, 41) for i in range(1, 42)]
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) and len(files) == 45
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / file).read_bytes(), file


@pytest.mark.parametrize("kind", KINDS)
def test_a_benchmark_of_one_kind(kind: str, tmp_path: Path) -> None:
    corpus = write_benchmark(tmp_path / "O", kind, 4, 0)
    again = write_benchmark(tmp_path / "again", kind, 4, 0)
    assert corpus.benchmark == KINDS[kind].benchmark and corpus.benchmark in BENCHMARKS
    assert corpus.counts == {"clips": 4, "missing_file": 0, "texts": 8} and corpus.digest == again.digest
    for one, other in zip(
        sorted((tmp_path / "O").rglob("*.mp4")), sorted((tmp_path / "again").rglob("*.mp4")), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()
    rows = {row["clip_id"]: row for row in corpus.all_rows("clips")}
    assert {row["category"] for row in rows.values()} == {"multishot" if kind == "off_topic" else kind}
    for row in rows.values():
        assert (row["twin_id"] is not None) == (kind == "order")
        assert kind != "order" or rows[row["twin_id"]]["twin_id"] == row["clip_id"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_benchmark_of_one_kind_has_five_hundred_meanings(kind: str) -> None:
    plans = benchmark_plan(WorldConfig(), kind, 500)
    assert len({meaning(p.scene) for p in plans}) == len({p.clip_id for p in plans}) == 500
    assert set(p.split for p in plans) == {"test"} and set(plans[0].scene.pairs) <= set(split_pairs(0)["test"])
    assert len(benchmark_plan(WorldConfig(), kind, most_clips(kind, 0) if kind != "order" else 2)) in (2, 528, 1056)
    num_events = [len(p.scene.main.events) for p in plans]
    assert (num_events.count(1), num_events.count(2)) == {
        "motion": (500, 0), "order": (0, 500), "off_topic": (250, 250)
    }[kind]  # fmt: skip


def test_benchmarks_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    for kind, num, message in (("motion", 529, "1 to 528"), ("order", 3, "even number"), ("off_topic", 0, "--num 0")):
        with pytest.raises(UsageError, match=message):
            write_benchmark(tmp_path / "O", kind, num, 0)
    assert not (tmp_path / "O").exists()


def test_order_clips_come_with_twins_that_differ_in_the_order_alone(plans: list[Planned]) -> None:
    by_id = {p.clip_id: p for p in plans}
    for split in ("train", "val", "test"):
        order = [p for p in plans if (p.split, p.scene.kind, p.fault) == (split, "order", "")]
        assert sum(p.twin_id is not None for p in order) >= 0.95 * len(order) > 30
    for plan in plans:
        if plan.twin_id is None:
            continue
        twin = by_id[plan.twin_id]
        assert twin.twin_id == plan.clip_id and twin.split == plan.split and twin.seed == plan.seed
        assert plan.duplicate_of is None and reversed_order(plan.scene) == twin.scene
        assert clip_row(plan)["twin_id"] == twin.clip_id
    assert len({tuple(p.seed) for p in plans if p.duplicate_of is None}) == sum(
        1 / (1 + (p.twin_id is not None)) for p in plans if p.duplicate_of is None
    )


@pytest.mark.parametrize(
    ("key", "letter", "kind"), [("order_clips", "a", "order"), ("off_topic_clips", "b", "multishot")]
)
def test_further_clips_of_one_kind_change_nothing_else(plans: list[Planned], key: str, letter: str, kind: str) -> None:
    more = plan_world(WorldConfig(**{key: 240}))
    added = [p for p in more if p.clip_id.startswith(letter)]
    assert [p for p in more if not p.clip_id.startswith(letter)] == plans and len(added) == 240
    assert {p.split for p in added} == {"train"} and {p.scene.kind for p in added} == {kind}
    assert all(bool(p.twin_id) == (kind == "order") and not p.fault and p.texts == p.true_texts for p in added)
    assert not {tuple(p.seed) for p in added} & {tuple(p.seed) for p in plans}
    if kind == "order":
        with pytest.raises(ValidationError, match="multiple of 2"):
            WorldConfig(order_clips=3)
    else:
        assert sorted(len(p.scene.main.events) for p in added) == [1] * 120 + [2] * 120
