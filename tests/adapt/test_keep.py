import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2raap.adapt import loop
from m2raap.adapt.checkpoint import Progress, trained_weights
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.keep import is_averaged, note_scores, within_one_error
from m2raap.adapt.loop import adapt
from m2raap.adapt.validate import ValScores
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.stages.training_log import START_KEPT, kept_text, training_summary
from tests.adapt.world import ordered


def scores_of(*mrr_N: float) -> ValScores:
    part_N = torch.tensor(mrr_N, dtype=torch.float64)
    numbers = {"mrr": float(part_N.mean()), "r1": 0.0, "loss": 1 - float(part_N.mean())}
    return ValScores(numbers, {"mrr": part_N, "r1": torch.zeros_like(part_N), "loss": 1 - part_N})


def chosen(rows: list[list[float]], keep_by: str = "mrr") -> int:
    progress = Progress()
    for progress.step, row in enumerate(rows):
        note_scores(progress, scores_of(*row), keep_by)
    return progress.best_step


def test_within_one_standard_error_the_later_wins() -> None:
    start = [1.0, 1.0, 1.0, 0.0]
    one_clip_worse = [1.0, 1.0, 0.0, 0.0]  # a lead of 0.25, with an error of 0.5 / 2
    two_clips_worse = [1.0, 0.0, 0.0, 0.0]  # a lead of 0.5, with an error of 0.577 / 2
    assert chosen([start, one_clip_worse]) == 1
    assert chosen([start, two_clips_worse]) == 0
    assert chosen([start, two_clips_worse, start]) == 2, "equal scores are a tie"
    assert chosen([start, one_clip_worse, two_clips_worse]) == 1, "the highest stays the measure, not the one kept"
    assert chosen([two_clips_worse, start, one_clip_worse]) == 2
    assert [chosen([start, two_clips_worse], by) for by in ("loss", "r1")] == [0, 1]


@given(st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=8))
def test_the_best_is_the_latest_within_one_error_of_the_highest(rows: list[list[float]]) -> None:
    """The twin looks at all checkpoints at once, as numpy."""
    table_CN = np.array(rows)
    means = np.array([float(torch.tensor(row, dtype=torch.float64).mean()) for row in rows])
    highest = int(np.argmax(means))  # the first of equally high ones
    lead_CN = table_CN[highest] - table_CN
    errors = lead_CN.std(axis=1, ddof=1) / math.sqrt(table_CN.shape[1])
    if np.any(np.abs(lead_CN.mean(axis=1) - errors) < 1e-9) and np.any(lead_CN):
        return  # on the edge, where sums of another order may decide otherwise
    expected = max(c for c in range(highest, len(rows)) if lead_CN[c].mean() <= errors[c])
    assert chosen(rows) == expected


def test_one_clip_alone_has_no_error() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert within_one_error(one, one) and not within_one_error(one, one - 0.1)


def test_which_validations_count_in_the_mean() -> None:
    cfg = AdaptConfig(keep="average", average_share=0.25)
    assert [step for step in range(0, 101, 5) if is_averaged(cfg, step, 100)] == [80, 85, 90, 95, 100]
    assert not is_averaged(AdaptConfig(), 100, 100)


def config(tiny_dir: Path, **changes: object) -> AdaptConfig:
    tree: dict[str, object] = {
        "backbone": BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True),
        "temporal": MeanConfig(),
        "num_frames": 4,
        "steps": 10,
        "batch_size": 6,
        "temperature": 0.1,
        "val_every_steps": 2,
        "checkpoint_every_steps": 3,
        "threads": 1,
        "lr": 3e-3,
    }
    return AdaptConfig.model_validate(tree | changes)


@pytest.mark.parametrize("with_val", [True, False])
def test_the_average_is_the_mean_of_the_weights_at_its_validations(
    tiny_dir: Path, tmp_path: Path, with_val: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[int, dict[str, np.ndarray]] = {}
    plain = loop._validate_and_keep

    def watch(state: loop.TrainState) -> None:
        weights[state.progress.step] = {name: w.numpy() for name, w in trained_weights(state.model).items()}
        plain(state)

    monkeypatch.setattr(loop, "_validate_and_keep", watch)
    cfg = config(tiny_dir, keep="average", average_share=0.5)
    result = adapt(cfg, ordered(13, 0), ordered(5, 1) if with_val else None, tmp_path)
    model = dict(VideoCLIP.load(result.model_dir).named_parameters())
    moved = 0.0
    for name, last in weights[10].items():
        expected = np.mean([weights[step][name].astype(np.float64) for step in (6, 8, 10)], axis=0)
        np.testing.assert_allclose(model[name].detach().numpy(), expected, atol=1e-6)
        moved = max(moved, float(np.abs(expected - last).max()))
    assert moved > 1e-4, "the mean is not the last"
    end = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[-1])
    assert (end["kept_step"], end["averaged"], result.kept_step) == (10, 3, 10)
    assert ("val" in end) is with_val and (result.val.get("kept") == end.get("val"))


@pytest.mark.parametrize(("keep", "keep_by"), [("best", "mrr"), ("last", "r1"), ("average", "loss")])
def test_a_killed_run_keeps_the_same(tiny_dir: Path, tmp_path: Path, keep: str, keep_by: str) -> None:
    """Killed after step 8, in the middle of the mean; the checkpoint is of step 6."""
    cfg, source, val = config(tiny_dir, keep=keep, keep_by=keep_by, average_share=0.8), ordered(13, 0), ordered(5, 1)
    whole = adapt(cfg, source, val, tmp_path / "whole")
    adapt(cfg, source, val, tmp_path / "killed", stop_after=8)
    again = adapt(cfg, source, val, tmp_path / "killed")
    for file in ("train.jsonl", "model/model.safetensors", "model/model.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert (again.kept_step, again.best_step, again.val) == (whole.kept_step, whole.best_step, whole.val)
    assert whole.val["kept"] == whole.val[keep] if keep != "average" else set(whole.val) == {
        "start", "best", "last", "kept"
    }  # fmt: skip


def test_a_start_that_training_does_not_beat_is_kept(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter(scores_of(*[value] * 5) for value in (0.5, 0.4, 0.3))
    monkeypatch.setattr(loop, "validate", lambda *_: next(falling))
    cfg = config(tiny_dir, val_every_steps=5)
    result = adapt(cfg, ordered(13, 0), ordered(5, 1), tmp_path)
    assert result.kept_step == result.best_step == 0 and result.val["kept"] == result.val["start"] != result.val["last"]
    untrained = dict(VideoCLIP(load_backbone(cfg.backbone), cfg.temporal).named_parameters())
    for name, weight in VideoCLIP.load(result.model_dir).named_parameters():
        assert name == "backbone.clip.logit_scale" or torch.equal(weight, untrained[name])
    assert kept_text(training_summary(tmp_path)) == (
        f"kept step 0 of 10; val MRR x 100 50.0 at the start, 50.0 kept, 30.0 last; {START_KEPT}"
    )
