from __future__ import annotations

import numpy as np
import pytest

from m2raap.core.config import build
from m2raap.core.errors import M2raapError, UsageError
from m2raap.curate.similarity import MismatchConfig, Reference, pair_scores, robust


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


def test_thresholds_are_a_bound_or_a_share_of_the_scores() -> None:
    share = build(MismatchConfig, {"limit": {"lowest": 0.5}}, "r.yaml")
    assert share.threshold([1.0, 2.0, 3.0]) == 2.0 and share.threshold([]) is None
    assert build(MismatchConfig, {"limit": False}, "r.yaml").threshold([1.0]) is None
    assert build(MismatchConfig, {"limit": 0.5}, "r.yaml").threshold([1.0, 2.0]) == 0.5
    assert MismatchConfig().threshold([]) == 0.93
    for limit in ({"max": 0.5}, {"quantile": 0.5}):
        with pytest.raises(UsageError, match=f"limit.*{next(iter(limit))}"):
            build(MismatchConfig, {"limit": limit}, "r.yaml")


def test_strangers_are_told_from_pairs_in_spite_of_hub_texts() -> None:
    rng = np.random.default_rng(1)
    num, k, dim = 200, 8, 32
    topics = unit(rng.normal(size=(num, dim)))
    hub = unit(rng.normal(size=dim))
    frames = unit(topics[:, None] + hub * 1.5 + 0.15 * rng.normal(size=(num, k, dim)))
    texts = unit(topics + 0.1 * rng.normal(size=(num, dim)) + hub * rng.uniform(0, 2, (num, 1)))
    wrong = rng.random(num) < 0.2
    given = np.where(wrong[:, None], np.roll(texts, 1, axis=0), texts)
    reference = Reference(range(64), given[:64], frames[:64])
    judged = reference.judge(given, list(range(num)), list(range(num)), list(frames))
    scores = np.array([row["sim_percentile"] for row in judged])
    plain = np.array([robust(frames[i] @ given[i]) for i in range(num)])
    assert np.mean(scores[wrong] < 0.95) >= 0.85 and np.mean(scores[~wrong] < 0.95) < 0.05
    at_same_loss = np.quantile(plain[~wrong], np.mean(scores[~wrong] < 0.95))
    assert np.mean(plain[wrong] < at_same_loss) < np.mean(scores[wrong] < 0.95)
    assert np.mean([row["sim_z"] for row in judged]) > 0


def test_a_text_is_judged_against_others_and_ties_count_half() -> None:
    frames = np.eye(2)[None, :1]
    texts = np.array([[1.0, 0.0], [0.0, 1.0]])
    reference = Reference([5, 6], texts, np.concatenate([frames, np.eye(2)[None, 1:]]))
    same, other = reference.judge(texts, [5, 6], [0, 0], list(frames))
    assert same["sim_percentile"] == 1.0 and other["sim_percentile"] == 0.0
    twin = reference.judge(texts[:1], [99], [0], list(frames))[0]  # another key, the same words for the model
    assert twin["sim_percentile"] == 0.75  # a tie with itself and one that fits worse
    assert reference.judge(texts[:1], [5], [0], list(frames))[0].keys() == {"sim_percentile", "sim_margin", "sim_z"}
    lonely = Reference([5], texts[:1], frames)
    assert lonely.judge(texts[:1], [5], [0], list(frames)) == [{}]


def test_scores_do_not_depend_on_company() -> None:
    rng = np.random.default_rng(2)
    frames, texts = unit(rng.normal(size=(9, 4, 16))), unit(rng.normal(size=(70, 16)))
    reference = Reference(range(70), texts, frames)
    keys, clips = list(range(70)), [i % 9 for i in range(70)]
    together = reference.judge(texts, keys, clips, list(frames))
    alone = [reference.judge(texts[i : i + 1], [i], [0], [frames[i % 9]])[0] for i in range(70)]
    assert together == alone
