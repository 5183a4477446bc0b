"""The sound of the world: how many clips have which, what it says, and that the pictures do not depend on it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools.world.grammar import Event, Obj, Scene, Shot
from data_tools.world.make import make_world
from data_tools.world.plan import Planned, WorldConfig, plan_mixed
from data_tools.world.sounds import RATE_HZ, kind_of, sound_of
from m2raap.video.clip import KeyframeConfig
from m2raap.video.extract import extract
from m2raap.video.limits import VideoConfig
from m2raap.video.sound import read_sound

CFG = WorldConfig(seed=3, train_clips=6, val_clips=0, test_clips=2, sound=1.0, size_px=48, fps=8)


def test_shares_of_kinds() -> None:
    cfg = CFG.model_copy(update={"sound": 0.7})
    kinds = [kind_of(plan, cfg) for plan in plan_mixed(cfg, "train", 2000, 0)]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in ("", "motion", "object", "neither")}
    assert shares == pytest.approx({"": 0.3, "motion": 0.315, "object": 0.245, "neither": 0.14}, abs=0.03)
    assert kinds == [kind_of(plan, cfg) for plan in plan_mixed(cfg, "train", 2000, 0)]


def centre_hz(samples: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float((power * np.fft.rfftfreq(len(samples), 1 / RATE_HZ)).sum() / power.sum())


@pytest.mark.parametrize(("motion", "rises"), [("up", True), ("down", False)])
def test_pitch_follows_the_motion(motion: str, rises: bool) -> None:
    """Of the first clip whose number makes its motion heard."""
    scene = Scene("motion", Shot((Event(Obj("square", "red"), motion),)))
    plans = [Planned(f"t{number:06d}", "train", scene, [0, number], {}, {}) for number in range(40)]
    plan = next(plan for plan in plans if kind_of(plan, CFG) == "motion")
    samples = sound_of(plan, CFG, 20)
    assert samples is not None and len(samples) == 20 * RATE_HZ // 8 and np.abs(samples).max() <= 1
    third = len(samples) // 3
    assert (centre_hz(samples[:third]) < centre_hz(samples[-third:])) == rises


def test_the_files_have_it_and_the_same_pictures(tmp_path: Path) -> None:
    silent = CFG.model_copy(update={"sound": 0.0})
    for cfg, name in ((CFG, "loud"), (silent, "silent")):
        make_world(cfg, tmp_path / name, workers=1)
    table = pq.read_table(tmp_path / "loud" / "sounds.parquet").to_pylist()
    assert len(table) == 8 and {row["sound"] for row in table} <= {"motion", "object", "neither"}
    assert not (tmp_path / "silent" / "sounds.parquet").exists()
    for number in range(2):
        paths = [tmp_path / name / "videos" / "test" / f"e{number:06d}.mp4" for name in ("loud", "silent")]
        clips = [extract(path, 0.0, None, KeyframeConfig(k=4), VideoConfig()) for path in paths]
        assert clips[0].jpegs == clips[1].jpegs
        states = [read_sound(path, 0.0, clips[0].signals["duration_s"], VideoConfig()).state for path in paths]
        assert states == ["ok", "none"]
