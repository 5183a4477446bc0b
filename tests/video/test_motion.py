"""The motion of clips: which way and where, upright, without what happens at a cut."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from m2raap.video.clip import KeyframeConfig
from m2raap.video.extract import extract
from m2raap.video.limits import VideoConfig
from m2raap.video.motion import MOTION_SHAPE, MotionField

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (200, 300), dtype=np.uint8), (9, 9), 3)


def moving(shift: tuple[float, float], num: int = 9, turns: int = 0, part: slice = slice(None)) -> MotionField:
    """Planes of 160x96 px whose content moves by `shift` px (x, y) from one to the next, 8 a second; outside of the columns
    `part` it stands still. `turns`: how the planes are stored."""
    field = MotionField(turns)
    still = PICTURE[50:146, 70:230]
    for step in range(num):
        move = np.float32([[1, 0, -70 + shift[0] * step], [0, 1, -50 + shift[1] * step]])
        plane = still.copy()
        plane[:, part] = cv2.warpAffine(PICTURE, move, (160, 96))[:, part]
        field.add(step / 8, np.rot90(plane, -turns))
    return field


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_flow_points_where_the_upright_picture_moves(turns: int) -> None:
    tensor = moving((2.0, -1.0), turns=turns).tensor(1.0, []).astype(float)
    assert tensor.shape == MOTION_SHAPE
    expected = np.array([2, -1, np.hypot(2, 1)]) * 8 / 160  # long sides a second
    np.testing.assert_allclose(tensor[:, 1:3, 1:3].mean((0, 1, 2)), expected, rtol=0.15)


def test_the_grid_says_where() -> None:
    tensor = moving((2.0, 0.0), part=slice(0, 80)).tensor(1.0, []).astype(float)
    left, right = tensor[..., :1, 0].mean(), tensor[..., 3:, 0].mean()
    assert left > 0.05 and abs(right) < 0.01


def test_segments_say_when_and_a_cut_is_no_motion() -> None:
    field = MotionField()
    for step in range(16):
        shift = min(step, 8) * 2  # moves for the first second of two
        field.add(step / 8, cv2.warpAffine(PICTURE, np.float32([[1, 0, shift - 70], [0, 1, -50]]), (160, 96)))
    field.add(2.0, 255 - PICTURE[:96, :160])
    with_cut, without = (field.tensor(2.1, cuts).astype(float) for cuts in ([], [2.0]))
    assert without[:3, ..., 0].mean() > 0.05 and abs(without[4:, ..., 0]).mean() < 0.005
    assert with_cut[7, ..., 2].mean() > without[7, ..., 2].mean()


def test_nothing_measured_is_zero_and_of_many_samples_some_are_enough() -> None:
    assert not MotionField().tensor(1.0, []).any()
    few = MotionField(num_samples=160)
    for step in range(160):
        few.add(step / 8, PICTURE[:96, step : 160 + step] if step < 140 else PICTURE[:96, 140:300])
    assert len(few._cells) == 16
    assert few.tensor(20.0, [])[0, ..., 0].mean() == pytest.approx(-8 / 160, rel=0.2)


def test_a_film_has_it_on_demand(clips: Path) -> None:
    path = clips / "plain.mp4"
    plain = extract(path, 0.0, None, KeyframeConfig(k=2), VideoConfig())
    with_motion = extract(path, 0.0, None, KeyframeConfig(k=2, senses=("motion",)), VideoConfig())
    assert plain.motion is None and with_motion.motion is not None
    assert plain.jpegs == with_motion.jpegs and plain.signals == with_motion.signals
    assert np.isfinite(np.frombuffer(with_motion.motion, np.float16)).all()
