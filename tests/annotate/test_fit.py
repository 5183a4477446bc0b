"""A fit: it learns, a killed one ends in the same bytes (as do those of several workers: tests/core/test_engines_alike.py), and
damage is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2raap.annotate import pretrain
from m2raap.annotate.shards import read_shard, write_shard
from m2raap.annotate.tagger import TAGGER, Tagger, open_tagger
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_json
from tests.annotate.made import CLUSTERS, DIM, fit_of, made_job
from tests.conftest import digests


class Killed(Exception):
    pass


class DyingEngine(LocalEngine):
    """Of one process; it dies after so many tasks."""

    def __init__(self, left: int) -> None:
        super().__init__(1)
        self.left = left

    def map(
        self, work: Callable[[Any], Any], tasks: Sequence[Any], runs_network: bool = False
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            if not self.left:
                raise Killed
            self.left -= 1
            yield index, work(task)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tagger that one process fits without a break, in a folder with labels and shards."""
    return fit_of(made_job(tmp_path_factory.mktemp("fit") / "job"), LocalEngine(1))


def test_it_learns_what_clips_show(whole: Path):
    metrics = Tagger.load(whole).tree["metrics"]
    low, high = metrics["gap_95"]
    assert 0.85 < low < metrics["gap"] < high and metrics["map"] > 0.9 and metrics["hit_at_1"] > 0.9
    assert metrics["unseen_clips"] == 240
    assert (whole / "labels.csv").read_text().startswith("label,clips,ap,ap_low,ap_high,unseen_clips\nlabel0,")


def test_full_batch_steps_lower_the_loss(whole: Path):
    for rounds in Tagger.load(whole).tree["metrics"]["rounds"]:
        for of_round in rounds:
            assert len(of_round["losses"]) == 3 and of_round["losses"][-1] < of_round["losses"][0]


def test_a_fit_that_is_killed_in_any_phase_ends_in_the_same_bytes(whole: Path, tmp_path: Path):
    """After every task once: in pre-training, vectors, heads, full-batch steps, tags and labels."""
    job, deaths = made_job(tmp_path / "job"), 0
    for tasks in range(1, 400):
        try:
            fit_of(job, DyingEngine(tasks))
            break
        except Killed:
            deaths += 1
    assert deaths > 10 and digests(job.folder / "tagger") == digests(whole)


def test_pre_training_goes_on_from_its_checkpoint(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrain, "STEPS_A_CHECKPOINT", 7)
    job, learn, left = made_job(tmp_path / "job"), pretrain.learn, [40]

    def dying(*args: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed
        learn(*args)

    monkeypatch.setattr(pretrain, "learn", dying)
    with pytest.raises(Killed):
        fit_of(job, LocalEngine(1))
    assert (job.folder / "member-0" / "pretrain.pt").exists()
    assert digests(fit_of(job, LocalEngine(1))) == digests(whole)


def test_tags_of_a_clip_come_from_the_member_that_has_not_seen_it(whole: Path):
    tagger, draw = Tagger.load(whole), np.random.default_rng(5)
    frames = [draw.standard_normal((2, DIM)).astype(np.float32) for _ in range(3)]
    named = [[0, 1, 2, 3, 4]] * 3
    first, second, both = (tagger.tags(frames, folds, named, 5) for folds in ([0] * 3, [1] * 3, [0, 1, 0]))
    for clip, of_one in enumerate((first, second, first)):
        np.testing.assert_array_equal(both.p_named[clip], of_one.p_named[clip])
        assert np.abs(first.p_named[clip] - second.p_named[clip]).max() > 1e-4
    assert (np.diff(both.p_NT, axis=1) <= 0).all() and both.labels_NT.shape == (3, 5)
    np.testing.assert_allclose(both.p_named[0][both.labels_NT[0]], both.p_NT[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["member-0/heads-00000.safetensors", "member-1/shared.safetensors", "labels.json"])
def test_a_changed_file_of_a_tagger_is_told(whole: Path, tmp_path: Path, name: str):
    shutil.copytree(whole, tmp_path / "tagger")
    data = (tmp_path / "tagger" / name).read_bytes()
    (tmp_path / "tagger" / name).write_bytes(data[:-3])
    with pytest.raises(M2raapError, match=f"{name}: differs from what tagger.json says"):
        Tagger.load(tmp_path / "tagger")


@pytest.mark.parametrize(
    "change", [{"dim": 10**9}, {"dim": -5}, {"members": []}, {"files": {}}, {"files": {"../../x": "0"}}]
)
def test_a_tagger_that_no_fit_wrote_is_told(whole: Path, tmp_path: Path, change: dict[str, Any]):
    shutil.copytree(whole, tmp_path / "tagger")
    write_json(tmp_path / "tagger" / TAGGER, read_json(whole / TAGGER) | change)
    with pytest.raises(M2raapError, match="is damaged, or no fit wrote it|leads out of this folder"):
        open_tagger(tmp_path / "tagger")


def test_a_tagger_that_claims_more_than_its_files_hold_is_told(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "tagger")
    write_json(tmp_path / "tagger" / TAGGER, read_json(whole / TAGGER) | {"dim": 60_000})
    with pytest.raises(M2raapError, match="shared.safetensors: does not hold the 480,000 weights"):
        Tagger.load(tmp_path / "tagger").tags([np.zeros((2, 60_000), np.float32)], [0], [[]], 3)


def test_val_clips_without_a_label_are_told(tmp_path: Path):
    job = made_job(tmp_path / "job", shards=1)
    shard = read_shard(job.shard(0))
    kept = np.zeros(0, shard.labels.dtype)
    write_shard(job.shard(0), replace(shard, labels=kept, label_starts_N1=np.zeros_like(shard.label_starts_N1)))
    with pytest.raises(M2raapError, match="none of the val clips"):
        fit_of(job, LocalEngine(1))


def test_a_folder_without_a_tagger_is_told(tmp_path: Path):
    with pytest.raises(M2raapError, match="holds no tagger"):
        open_tagger(tmp_path)


def test_too_few_clips_are_told(tmp_path: Path):
    with pytest.raises(M2raapError, match="no clip is left"):
        fit_of(made_job(tmp_path / "job", num_clips=CLUSTERS, shards=1, val_share=0.001), LocalEngine(1))


def test_a_loss_that_is_not_finite_is_told(tmp_path: Path):
    with pytest.raises(M2raapError, match="lower annotate.fit.lr"):
        fit_of(made_job(tmp_path / "job", lr=1e30), LocalEngine(1))


def test_what_tagger_json_names(whole: Path):
    tree = read_json(whole / TAGGER)
    assert {*tree["files"]} == {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()} - {TAGGER}
