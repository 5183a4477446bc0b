"""The numbers of a training in TensorBoard's files, and in a run of Weights & Biases that never leaves this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.loop import adapt
from m2raap.models.config import BackboneConfig, MeanConfig
from tests.adapt.world import ordered


def test_both_get_every_number_of_the_log(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = AdaptConfig(
        backbone=BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), temporal=MeanConfig(), num_frames=4,
        steps=3, batch_size=4, val_every_steps=2, threads=1, tensorboard=True, wandb="a-project",
    )  # fmt: skip
    assert not adapt(cfg, ordered(8, 0), ordered(3, 1), tmp_path / "out", stop_after=2).finished
    assert not adapt(cfg, ordered(8, 0), ordered(3, 1), tmp_path / "twin", stop_after=1).finished
    of_run, of_twin = ((tmp_path / name / "scratch" / "wandb-run").read_text() for name in ("out", "twin"))
    assert of_run != of_twin, "the same settings and clips in another folder are another run"
    assert adapt(cfg, ordered(8, 0), ordered(3, 1), tmp_path / "out").finished
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    timings = [json.loads(line) for line in (tmp_path / "out" / "timings.jsonl").read_text().splitlines()]
    assert all({"data_wait_s", "clips_per_s"} <= line.keys() for line in timings if "step" in line)
    assert set(lines[1]["lr"]) == {"backbone"} and set(lines[1]["terms"]) == {"plain"}

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert logged == pytest.approx({line["step"]: line["loss"] for line in lines if "loss" in line}, abs=1e-5)
    assert {"lr/backbone", "terms/plain", "clips_per_s", "data_wait_s", "val/mrr", "grad_norm"} <= set(
        events.Tags()["scalars"]
    )
    runs = list((tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2 and len({path.name for path in runs}) == 1, "an interrupted run goes on as the same"
    assert all(path.stat().st_size > 500 for path in runs)
