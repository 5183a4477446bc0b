"""The contract of data stages, on a stage that counts how often it scores."""

import contextlib
import json
import os
import signal
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from m2raap.core.config import APPLY, HOW, Config, digest
from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json
from m2raap.core.part_work import ApplyKeys
from m2raap.core.replace import replacing
from m2raap.core.runner import run_data_stage
from m2raap.core.stage import DataStage, Signals, Tables
from m2raap.core.tables import read_part
from m2raap.core.view import Part, View, open_view
from m2raap.core.whole import run_single_stage
from tests.conftest import digests
from tests.core.test_tables import clip, text

SCORED: list[str] = []


class LengthConfig(Config):
    mark: str = "!"
    min: int = Field(10, json_schema_extra=APPLY)
    patience_s: float = Field(1.0, json_schema_extra=HOW)


class LengthStage(DataStage[LengthConfig]):
    """Scores the length of texts, adds a louder text, drops what is shorter than a limit or longer than most."""

    name = "length"
    config = LengthConfig
    adds = ("texts",)
    reasons: ClassVar[dict[str, str]] = {"text_too_short": "the text has fewer letters than length.min"}
    reduces = True
    verdict_columns: ClassVar[dict[str, str]] = {"rank": "int"}

    def signal_columns(self) -> dict[str, str]:
        return {"length": "int"}

    def score(self, part: Part, view: View) -> Tables:
        SCORED.extend(row["clip_id"] for row in part.clips)
        signals = [{"clip_id": row["clip_id"]} for row in part.clips]
        signals += [{"clip_id": t["clip_id"], "text_id": t["text_id"], "length": len(t["text"])} for t in part.texts]
        loud = [
            t | {"text_id": t["text_id"] + ".loud", "text": t["text"] + self.cfg.mark, "parent_text_id": t["text_id"]}
            for t in part.texts
        ]
        return {"signals": signals, "texts": loud}

    def reduce(self, parts: Iterable[tuple[Part, Signals]]) -> dict[str, Any]:
        return {"longest": max((row["length"] or 0 for _, own in parts for row in own.values()), default=0)}

    def apply(self, part: Part, signals: Signals, decisions: dict[str, Any]) -> Tables:
        drops = [
            {
                "clip_id": t["clip_id"],
                "text_id": t["text_id"],
                "reason": "text_too_short",
                "score": signals[t["text_id"]]["length"],
            }
            for t in part.texts
            if signals[t["text_id"]]["length"] < min(self.cfg.min, decisions["longest"])
        ]
        verdicts = [
            {"clip_id": t["clip_id"], "text_id": t["text_id"], "rank": signals[t["text_id"]]["length"]}
            for t in part.texts
        ]
        return {"dropped": drops, "verdicts": verdicts}


def make_corpus(path: Path, numbers: Iterable[int], num_parts: int = 3, benchmark: str | None = None) -> View:
    numbers = list(numbers)
    texts = [text(i, text="word " * (i % 5 + 1)) for i in numbers]
    with replacing(True):
        write_corpus(
            path,
            [clip(i) for i in numbers],
            texts,
            video_root=path.parent,
            source={},
            num_parts=num_parts,
            benchmark=benchmark,
        )
    return View(path)


def run(view: View, folder: Path, minimum: int = 10, mark: str = "!", **options) -> bool:
    SCORED.clear()
    engine = LocalEngine(1)
    return run_data_stage(LengthStage(LengthConfig(mark=mark, min=minimum)), view, folder, engine, **options)


def test_counts_add_up_and_what_is_dropped_is_gone(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(20))
    assert run(view, tmp_path / "s")
    counts = read_json(tmp_path / "s" / "manifest.json")["counts"]
    assert counts["texts_in"] == 20 and counts["texts_added"] == 20
    assert counts["texts_dropped:text_too_short"] == 4
    assert counts["texts_out"] == 36
    after = open_view(tmp_path / "s")
    assert sum(len(part.texts) for part in after.parts()) == 36
    part = after.part(0, ("texts", "signals"))
    assert all(part.signals[t["text_id"]]["rank"] == len(t["text"]) for t in part.texts if not t["parent_text_id"])


def test_a_finished_folder_is_left_alone(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(20))
    run(view, tmp_path / "s")
    before = digests(tmp_path / "s")
    assert run(view, tmp_path / "s") and not SCORED
    assert digests(tmp_path / "s") == before


def test_other_settings_are_an_error_that_names_both(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(5))
    run(view, tmp_path / "s", minimum=10)
    with pytest.raises(M2raapError, match=r"length\.min 10; .* length\.min 12"):
        run(view, tmp_path / "s", minimum=12)
    other = make_corpus(tmp_path / "d", range(6))
    with pytest.raises(M2raapError, match=r"was made with inputs.corpus|was made with .*corpus"):
        run(other, tmp_path / "s")


class WeightStage(DataStage[LengthConfig]):
    """Gives every clip a weight and a name; its mark weighs for one clip alone."""

    name = "weight"
    config = LengthConfig
    version = 1

    def signal_columns(self) -> dict[str, str]:
        return {"weight": "bytes", "label": "str"}

    def score(self, part: Part, view: View) -> Tables:
        heavy = {clip(3)["clip_id"]: self.cfg.mark.encode()}
        ids = [row["clip_id"] for row in part.clips]
        return {"signals": [{"clip_id": i, "weight": heavy.get(i, b"0"), "label": self.cfg.mark} for i in ids]}


class WeighedStage(WeightStage):
    """Reads the weight that the stage before wrote, and not the label."""

    name = "weighed"
    reads_signals = ("weight",)

    def score(self, part: Part, view: View) -> Tables:
        SCORED.extend(row["clip_id"] for row in part.clips)
        assert all(row.keys() == {"weight"} for row in part.signals.values())
        weights = {row["clip_id"]: part.signals[row["clip_id"]]["weight"] for row in part.clips}
        return {"signals": [{"clip_id": i, "weight": weight, "label": ""} for i, weight in weights.items()]}


def test_a_clip_is_scored_again_where_a_signal_that_the_stage_reads_has_changed(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(9))
    engine = LocalEngine(1)
    for mark, scored in (("!", 9), ("?", 1)):
        run_data_stage(WeightStage(LengthConfig(mark=mark)), view, tmp_path / "s", engine, force=True)
        SCORED.clear()
        run_data_stage(WeighedStage(LengthConfig()), view.over(tmp_path / "s"), tmp_path / "r", engine, force=True)
        assert len(SCORED) == scored
    assert {*SCORED} == {clip(3)["clip_id"]}
    run_data_stage(WeighedStage(LengthConfig()), view.over(tmp_path / "s"), tmp_path / "fresh", engine)
    assert digests(tmp_path / "r") == digests(tmp_path / "fresh")


def test_another_version_of_a_rule_that_looks_across_clips_applies_anew_and_scores_nothing(tmp_path: Path):
    class Sterner(LengthStage):
        def rule_versions(self) -> dict[str, int]:
            return {"text_too_short": 2}

    view = make_corpus(tmp_path / "c", range(9))
    run(view, tmp_path / "s")
    with pytest.raises(M2raapError, match=r"rules\.text_too_short"):
        run_data_stage(Sterner(LengthConfig()), view, tmp_path / "s", LocalEngine(1))
    SCORED.clear()
    assert run_data_stage(Sterner(LengthConfig()), view, tmp_path / "s", LocalEngine(1), force=True)
    assert not SCORED


def test_a_new_threshold_scores_nothing_and_equals_a_fresh_run(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(20))
    run(view, tmp_path / "s", minimum=10)
    assert run(view, tmp_path / "s", minimum=16, force=True)
    assert not SCORED
    run(view, tmp_path / "fresh", minimum=16)
    assert len(SCORED) == 20
    assert digests(tmp_path / "s") == digests(tmp_path / "fresh")


@pytest.mark.parametrize("num_parts", [3, 5])
def test_only_new_clips_are_scored_and_the_result_equals_a_fresh_run(tmp_path: Path, num_parts: int):
    run(make_corpus(tmp_path / "c", range(20)), tmp_path / "s")
    grown = make_corpus(tmp_path / "c", range(26), num_parts)
    assert run(grown, tmp_path / "s", force=True)
    assert sorted(SCORED) == [f"c{i:03d}" for i in range(20, 26)]
    run(grown, tmp_path / "fresh")
    assert digests(tmp_path / "s") == digests(tmp_path / "fresh")


def test_a_new_score_setting_scores_everything(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(8))
    run(view, tmp_path / "s")
    run(view, tmp_path / "s", mark="?", force=True)
    assert len(SCORED) == 8
    run(view, tmp_path / "fresh", mark="?")
    assert digests(tmp_path / "s") == digests(tmp_path / "fresh")


class Killed(BaseException):
    pass


@given(st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_killed_anywhere_and_started_again_gives_the_same_bytes(tmp_path_factory, writes: int):
    """A run that is killed at the n-th file operation, also while it redoes a folder, resumes."""
    from m2raap.core import files, folder

    base = tmp_path_factory.mktemp("kill")
    view = make_corpus(base / "c", range(12))
    run(view, base / "fresh", minimum=16)
    run(view, base / "s", minimum=10)
    left = writes
    real = files.os.replace

    def dying(source, target):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "replace", dying)
        patch.setattr(folder.os, "replace", dying)
        with contextlib.suppress(Killed):
            run(view, base / "s", minimum=16, force=True)
    run(view, base / "s", minimum=16, force=True)
    assert digests(base / "s") == digests(base / "fresh")


def test_shares_make_the_same_folder_and_the_last_one_signs_it(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(20))
    run(view, tmp_path / "whole")
    assert not run(view, tmp_path / "s", share=(2, 3))
    assert not (tmp_path / "s" / "manifest.json").exists()
    with pytest.raises(M2raapError, match="unfinished"):
        open_view(tmp_path / "s")
    assert not run(view, tmp_path / "s", share=(1, 3))
    assert run(view, tmp_path / "s", share=(3, 3))
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")


def test_two_workers_make_the_same_bytes(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(20))
    run(view, tmp_path / "one")
    engine = LocalEngine(2)
    try:
        run_data_stage(LengthStage(LengthConfig()), view, tmp_path / "two", engine)
    finally:
        engine.close()
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_ctrl_c_waits_while_workers_are_started(monkeypatch: pytest.MonkeyPatch):
    """A terminal sends it to workers, too, which would print a traceback each while they import their modules."""
    is_held: list[bool] = []

    class Pool:
        def __init__(self, *_: object) -> None: ...

        def submit(self, *_: object) -> Future[None]:
            is_held.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
            future: Future[None] = Future()
            future.set_result(None)
            return future

    monkeypatch.setattr("m2raap.core.engine.ProcessPoolExecutor", Pool)
    assert not dict(LocalEngine(2).map(abs, [])) and is_held == [True, True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_benchmark_loses_no_row(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(20), benchmark="b")
    run(view, tmp_path / "s", minimum=100)
    after = open_view(tmp_path / "s")
    assert sum(len(part.clips) for part in after.parts()) == 20
    missing = [row for i in range(3) for row in read_part(tmp_path / "s", "missing", i)]
    assert len(missing) == 16 and not (tmp_path / "s" / "dropped").exists()


def test_a_clip_without_its_last_text_goes_too(tmp_path: Path):
    class Silence(LengthStage):
        adds = ()

        def score(self, part: Part, view: View) -> Tables:
            return {"signals": super().score(part, view)["signals"]}

    view = make_corpus(tmp_path / "c", range(10))
    run_data_stage(Silence(LengthConfig()), view, tmp_path / "s", LocalEngine(1))
    counts = read_json(tmp_path / "s" / "manifest.json")["counts"]
    assert counts["clips_dropped:no_text_left"] == counts["texts_dropped:text_too_short"] == 2
    assert counts["clips_out"] == 8


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(3))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "diary.txt").write_text("dear diary")
    with pytest.raises(M2raapError, match="holds 'diary.txt'"):
        run(view, tmp_path / "s")


def test_a_folder_of_an_older_format_is_refused_with_what_to_do(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(6))
    run(view, tmp_path / "s")
    for name in ("plan.json", "manifest.json"):
        tree = read_json(tmp_path / "s" / name)
        tree.pop("format")
        (tmp_path / "s" / name).write_text(json.dumps(tree | {"schema_version": 2}))
    for refused in (lambda: run(view, tmp_path / "s"), lambda: open_view(tmp_path / "s")):
        with pytest.raises(M2raapError, match=r"/s: .*format 2.*format 3.*--force"):
            refused()
    assert run(view, tmp_path / "s", force=True) and open_view(tmp_path / "s")


def test_force_makes_no_folder_of_another_stage_into_its_own(tmp_path: Path):
    view = make_corpus(tmp_path / "c", range(6))
    run(view, tmp_path / "s")
    before = digests(tmp_path)
    for lost in ("", "plan.json", "manifest.json"):
        if lost:
            (tmp_path / "s" / lost).rename(tmp_path / "lost")
        with pytest.raises(M2raapError, match=r"/s: holds the output of '\w+', and this is 'weigh'"):
            run_single_stage("weigh", 1, {}, tmp_path / "s", lambda _: pytest.fail("it was made"), force=True)
        if lost:
            (tmp_path / "lost").rename(tmp_path / "s" / lost)
    assert digests(tmp_path) == before


def test_a_worker_that_is_killed_while_it_starts_is_no_bug(monkeypatch: pytest.MonkeyPatch):
    class Broken:
        def __init__(self, *_: object) -> None: ...

        def submit(self, *_: object) -> None:
            raise BrokenProcessPool

        def shutdown(self, wait: bool) -> None: ...

    monkeypatch.setattr("m2raap.core.engine.ProcessPoolExecutor", Broken)
    before = dict(os.environ)
    with pytest.raises(M2raapError, match="--workers"):
        list(LocalEngine(2).map(abs, [1]))
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "decisions", [None, {}, {"copies": {"names": [["a", 1], "\u72d7"], "scores": [2.5]}, "b": {"z": 1, "a": 2}}]
)
def test_the_key_of_apply_is_the_digest_of_all_that_it_reads(decisions: dict | None) -> None:
    key = ApplyKeys("settings", decisions).of("score", "view")
    assert key == digest(["settings", decisions, "score", "view"])
