"""Shards hold what was put in, cut into folds by video; and calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.annotate.calibration import Bins, counted, expected_error, fitted
from m2raap.annotate.config import FitConfig
from m2raap.annotate.shards import Shard, fold_of, make_shard, read_shard, write_shard
from m2raap.core.errors import M2raapError

DRAW = np.random.default_rng(0)


def shard_of(labels: list[list[int]]) -> Shard:
    frames = [DRAW.standard_normal((1 + i % 3, 4)) for i in range(len(labels))]
    return make_shard(frames, labels, [f"v{i // 2}" for i in range(len(labels))], FitConfig(folds=3))


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=5, unique=True).map(sorted), min_size=1, max_size=12),
    st.sets(st.integers(0, 9), min_size=1),
    st.data(),
)
def test_truth_is_what_each_clip_has(labels: list[list[int]], chosen: set[int], data: st.DataObject):
    rows = data.draw(st.lists(st.integers(0, len(labels) - 1), max_size=8))
    labels_L = np.array(sorted(chosen))
    truth = shard_of(labels).truth(np.array(rows, np.int64), labels_L)
    assert truth.tolist() == [[label in labels[row] for label in labels_L] for row in rows]


def test_a_shard_comes_back_from_disk(tmp_path: Path):
    shard = shard_of([[1, 3], [], [2]])
    write_shard(tmp_path / "0.npz", shard)
    other = read_shard(tmp_path / "0.npz")
    x_BKE, mask_BK = other.frames(np.array([2, 0]))
    assert mask_BK.tolist() == [[True, True, True], [True, False, False]] and not x_BKE[1, 1:].any()
    np.testing.assert_array_equal(x_BKE[0], shard.frames_FE[3:6].astype(np.float32))
    (tmp_path / "0.npz").write_bytes((tmp_path / "0.npz").read_bytes()[:-40])
    with pytest.raises(M2raapError, match="is damaged"):
        read_shard(tmp_path / "0.npz")


def test_folds_hold_whole_videos_and_every_clip_is_unseen_once():
    shard = shard_of([[0]] * 200)
    assert (shard.fold_N[::2] == shard.fold_N[1::2]).all()
    rows = {which: [set(shard.rows(m, 3, which).tolist()) for m in range(3)] for which in ("train", "val", "unseen")}
    assert sorted(row for part in rows["unseen"] for row in part) == list(range(200))
    for train, val, unseen in zip(*rows.values(), strict=True):
        assert not train & val and not unseen & (train | val) and len(train | val | unseen) == 200
        assert len(val) > 3
    assert {fold_of(f"v{i}", 3, 0) for i in range(50)} == {0, 1, 2}


def test_one_fold_trains_on_all_but_the_val_clips():
    shard = shard_of([[0]] * 100)
    shard = make_shard([np.ones((1, 4))] * 100, [[0]] * 100, [f"v{i}" for i in range(100)], FitConfig(folds=1))
    train, val, unseen = (set(shard.rows(0, 1, which).tolist()) for which in ("train", "val", "unseen"))
    assert val == unseen and train | val == set(range(100)) and not train & val


def test_calibration_undoes_what_made_probabilities_wrong():
    log_odds = 2 * DRAW.standard_normal(200_000) - 2
    truth = DRAW.random(200_000) < 1 / (1 + np.exp(-log_odds))
    wrong = counted(3 * log_odds - 1, truth)  # three times too sure, and too low
    a, b = fitted(wrong)
    assert abs(a - 1 / 3) < 0.02 and abs(b - 1 / 3) < 0.03
    assert expected_error(wrong, (a, b)) < 0.01 < 0.1 < expected_error(wrong)


def test_calibration_of_nothing_changes_nothing():
    assert fitted(counted(np.array([1.0, 2.0]), np.array([False, False]))) == (1.0, 0.0)


def test_bins_of_parts_add_up():
    log_odds, truth = 5 * DRAW.standard_normal((40, 3)), DRAW.random((40, 3)) < 0.5
    whole, parts = counted(log_odds, truth), counted(log_odds[:11], truth[:11]) + counted(log_odds[11:], truth[11:])
    assert isinstance(parts, Bins) and (whole.pairs == parts.pairs).all() and (whole.true == parts.true).all()
