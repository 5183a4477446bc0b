from __future__ import annotations

import numpy as np
import pytest

from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.report import evaluations_of, result_rows
from m2raap.report.secondary import (
    TRANSDUCTIVE,
    bilingual_rows,
    compat_rows,
    frame_ablation_rows,
    rescored_rows,
    two_way_rows,
)
from m2raap.retrieval.config import EvaluateConfig
from m2raap.retrieval.results_file import read_results
from m2raap.stages.evaluate import EvaluateStage, read_ranks
from tests.stages.embedded import write_run

Done = dict[tuple[str, str], list[Step]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One arm of two training seeds, with dual softmax and a frame ablation: its clips are no longer those of its texts."""
    out = tmp_path_factory.mktemp("secondary") / "run"
    twins = {f"v{i:03d}": f"v{i ^ 1:03d}" for i in range(24)}
    options = {"num": 24, "noise": 1.0, "twins": twins}
    shifted = np.random.default_rng([1]).normal(size=(24, 16)).astype(np.float32)[::-1]
    probe = out.parent / "probe.npy"
    np.save(probe, shifted)
    extra = {"video-shuffled.npy": probe.read_bytes()}
    run = write_run(out, {arm: {**options, "seed": seed, "extra": extra} for seed, arm in enumerate(("a", "a~1"))})
    for arm in ("a", "a~1"):
        folder = run / arm / "bench-clips"
        stage = EvaluateStage(EvaluateConfig(dual_softmax=10.0))
        stage.run_on(folder / "embed", "custom", folder / "evaluate", True)
    return evaluations_of(RunFolder.open(run).steps)


def hits(done: Done, name: str, lang: str) -> list[np.ndarray]:
    """Hits at 1 by query of every seed, text to video, out of the tables; nothing ties here."""
    found = []
    for step in done["a", "clips"]:
        rows = [row for row in read_ranks(step.folder / name) if (row["lang"], row["direction"]) == (lang, "t2v")]
        assert not any(row["ties"] for row in rows)
        found.append(np.asarray([100.0 * (row["rank_expected"] == 1) for row in rows]))
    return found


def test_rescored_rows_are_labelled_and_of_all_seeds(done: Done) -> None:
    rows = rescored_rows(done, 0)
    assert [(row.way, row.mark, row.lang, row.direction, row.seeds) for row in rows] == [
        ("dual_softmax", TRANSDUCTIVE, lang, direction, 2) for lang in ("en", "zh") for direction in ("t2v", "v2t")
    ]
    again, plain = hits(done, "ranks-dual_softmax.parquet", "en"), hits(done, "ranks.parquet", "en")
    assert rows[0].metrics["R@1"] == pytest.approx(np.mean(again), abs=1e-5)
    assert rows[0].seeds_r1 == pytest.approx([one.mean() for one in again], abs=1e-5)
    assert rows[0].diff == pytest.approx(np.mean(again) - np.mean(plain), abs=1e-5)
    assert rows[0].lo <= rows[0].diff <= rows[0].hi and rows[0].label.startswith("transductive: sees all queries")


def test_the_gap_of_the_languages_is_that_of_all_seeds(done: Done) -> None:
    t2v, v2t = bilingual_rows(done, 0)
    en, zh = (np.stack(hits(done, "ranks.parquet", lang)) for lang in ("en", "zh"))
    assert (t2v.direction, v2t.direction, t2v.seeds, t2v.clips) == ("t2v", "v2t", 2, 24)
    assert t2v.gaps["R@1"]["diff"] == pytest.approx(en.mean() - zh.mean(), abs=1e-5)
    assert t2v.both == pytest.approx((en * zh).mean() / 1e4, abs=1e-5)
    assert t2v.both + t2v.only_en + t2v.only_zh + t2v.neither == pytest.approx(1, abs=1e-5)
    assert t2v.gaps["R@1"]["lo"] <= t2v.gaps["R@1"]["diff"] <= t2v.gaps["R@1"]["hi"]


def test_copied_arithmetic_and_probes_of_all_seeds(done: Done) -> None:
    compat = {(row.lang, row.direction): row for row in compat_rows(done)}
    assert compat["en", "t2v"].metrics["R@1"] == pytest.approx(np.mean(hits(done, "ranks.parquet", "en")), abs=1e-5)
    assert (compat["en", "t2v"].queries, compat["en", "t2v"].entries) == (24, 24)
    results = result_rows("a", "clips", done["a", "clips"], 0)
    frame_ablations = {(row.frames, row.lang, row.direction): row for row in frame_ablation_rows(done, results, 0)}
    assert len(frame_ablations) == 8 and {row.seeds for row in frame_ablations.values()} == {2}
    for frames, name in (("as they are", "ranks.parquet"), ("shuffled", "ranks-shuffled.parquet")):
        row = frame_ablations[frames, "en", "t2v"]
        assert row.r1 == pytest.approx(np.mean(hits(done, name, "en")), abs=1e-5)
        assert row.lo is not None and row.hi is not None and row.lo <= row.r1 <= row.hi
    assert frame_ablations["as they are", "en", "t2v"].r1 > frame_ablations["shuffled", "en", "t2v"].r1


def test_two_way_accuracy_of_all_seeds_and_ways(done: Done) -> None:
    rows = two_way_rows(done, 0)
    assert [(row.way, row.lang, row.direction) for row in rows] == [
        (way, lang, direction)
        for way in ("", "dual_softmax", "shuffled")
        for lang in ("en", "zh")
        for direction in ("t2v", "v2t")
    ]
    trees = [read_results(step.folder) for step in done["a", "clips"]]
    for row, *seeds in zip(rows[:4], *(tree["two_way"] for tree in trees), strict=True):
        assert (row.arm, row.benchmark, row.n, row.pairs, row.seeds) == ("a", "clips", 24, 12, 2)
        assert row.seeds_accuracy == [seed["accuracy"] for seed in seeds]
        assert row.accuracy == pytest.approx(np.mean(row.seeds_accuracy), abs=1e-5)
        assert row.interval[0] <= row.accuracy <= row.interval[1]
    assert rows[0].accuracy > 75 > rows[-1].accuracy
