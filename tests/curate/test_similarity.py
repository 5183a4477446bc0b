from __future__ import annotations

import numpy as np
import pytest

from m2raap.core.errors import M2raapError
from m2raap.curate.similarity import (
    MismatchConfig,
    calibrate,
    contrastive_scores,
    draw_others,
    mismatch,
    pair_scores,
    text_norm,
)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_one_lucky_frame_moves_the_maximum_only() -> None:
    flat, lucky = np.full(8, 0.2), np.array([0.9] + [0.2] * 7)
    assert pair_scores(lucky)["sim_max"] == 0.9
    assert pair_scores(lucky)["sim_robust"] - pair_scores(flat)["sim_robust"] < 0.2
    off_topic = np.array([0.0] * 3 + [0.3] * 5)  # another shot for three frames
    assert pair_scores(off_topic)["sim_robust"] == pytest.approx(0.3)
    for bad in ([], [np.nan, 1.0], [[0.1]]):
        with pytest.raises(M2raapError, match="finite"):
            pair_scores(np.array(bad))


def test_calibration_and_quantile() -> None:
    calibration = calibrate(np.random.default_rng(0).normal(0.2, 0.05, 1000))
    assert calibration.z(0.3) == pytest.approx(2.0, abs=0.2)
    with pytest.raises(M2raapError, match="two shuffled"):
        calibrate([0.1])
    assert MismatchConfig(quantile=0.5).threshold([1.0, 2.0, 3.0]) == 2.0
    assert MismatchConfig(value=None).threshold([1.0]) == -np.inf


def test_strangers_are_told_from_pairs_in_spite_of_hub_texts() -> None:
    rng = np.random.default_rng(1)
    num, k, dim = 200, 8, 32
    topics = unit(rng.normal(size=(num, dim)))
    hub = unit(rng.normal(size=dim))
    frames = unit(topics[:, None] + hub * 1.5 + 0.15 * rng.normal(size=(num, k, dim)))
    texts = unit(topics + 0.1 * rng.normal(size=(num, dim)) + hub * rng.uniform(0, 2, (num, 1)))
    wrong = rng.random(num) < 0.2
    texts_given = np.where(wrong[:, None], np.roll(texts, 1, axis=0), texts)
    norm = text_norm(texts_given, frames[:64])
    scores = {"plain": [], "normed": []}
    for i in range(num):
        others = draw_others(np.arange(num), i, 64, np.random.default_rng([0, i]))
        assert i not in others and len(others) == 64
        for name, by in (("plain", None), ("normed", norm)):
            scores[name].append(contrastive_scores(frames[i], texts_given, i, others, by)["sim_percentile"])
    caught = {name: np.mean((np.array(s) < 0.95)[wrong]) for name, s in scores.items()}
    lost = {name: np.mean((np.array(s) < 0.95)[~wrong]) for name, s in scores.items()}
    assert caught["normed"] > 0.85 and lost["normed"] < 0.05, (caught, lost)
    assert lost["plain"] > 2 * lost["normed"], (caught, lost)


def test_twins_count_half_and_no_others_is_an_error() -> None:
    frame, text = np.eye(2)[:1], np.array([1.0, 0.0])
    texts = np.stack([text, text, [0.0, 1.0]])
    assert contrastive_scores(frame, texts, 0, np.array([1]))["sim_percentile"] == 0.5
    assert contrastive_scores(frame, texts, 0, np.array([2]))["sim_percentile"] == 1.0
    with pytest.raises(M2raapError, match="there are none"):
        contrastive_scores(frame, texts, 0, np.zeros(0, int))
    assert list(draw_others([5, 5, 6], 5, 10, np.random.default_rng(0))) == [2]


def test_verdict() -> None:
    cfg = MismatchConfig()
    assert mismatch({"sim_percentile": 0.2}, cfg, 0.5)[0][:2] == ("mismatch", "sim_percentile")
    assert mismatch({"sim_percentile": 0.5}, cfg, 0.5) == []
