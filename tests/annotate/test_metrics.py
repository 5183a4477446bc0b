"""GAP, mAP, Hit@1 and PERR, against counting."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2raap.annotate.metrics import TOP, Judgement, draws_of, gap, hit_at_1, interval, joined, label_ap, perr

DRAW = np.random.default_rng(0)


def judged(p_NL: np.ndarray, true_NL: np.ndarray) -> Judgement:
    best = np.argsort(-p_NL, axis=1, kind="stable")[:, :TOP]
    return Judgement(np.take_along_axis(p_NL, best, 1), np.take_along_axis(true_NL, best, 1), true_NL.sum(1))


def gap_by_counting(p_NL: np.ndarray, true_NL: np.ndarray) -> float:
    """As the evaluation of the challenge: the best 20 of each clip in one list by p."""
    rows = []
    for p_L, true_L in zip(p_NL, true_NL, strict=True):
        rows += sorted(zip(p_L, true_L, strict=True), key=lambda row: -row[0])[:TOP]
    rows.sort(key=lambda row: -row[0])
    hits, total = 0, 0.0
    for place, (_, is_true) in enumerate(rows, 1):
        hits += is_true
        total += hits / place if is_true else 0.0
    return total / sum(min(TOP, int(true_L.sum())) for true_L in true_NL)


@given(st.integers(1, 12), st.integers(2, 40), st.integers(0, 1000))
def test_gap_is_what_counting_says(clips: int, labels: int, seed: int):
    draw = np.random.default_rng(seed)
    p_NL, true_NL = draw.permutation(clips * labels).reshape(clips, labels) / 1e3, draw.random((clips, labels)) < 0.2
    true_NL[0, 0] = True
    assert math.isclose(gap(judged(p_NL, true_NL)), gap_by_counting(p_NL, true_NL), abs_tol=1e-9)


def test_a_clip_counts_as_often_as_it_is_drawn():
    p_NL, true_NL = DRAW.random((30, 25)), DRAW.random((30, 25)) < 0.2
    times = DRAW.integers(0, 3, 30)
    rows = [
        (p, is_true, n)
        for p_L, true_L, n in zip(p_NL, true_NL, times, strict=True)
        for p, is_true in sorted(zip(p_L, true_L, strict=True))[-TOP:]
    ]
    above = [[(t, n) for q, t, n in rows if q >= p] for p, _, _ in rows]
    precision = [sum(n for t, n in part if t) / max(sum(n for _, n in part), 1) for part in above]
    total = sum(value * n for value, (_, is_true, n) in zip(precision, rows, strict=True) if is_true)
    assert math.isclose(gap(judged(p_NL, true_NL), times), total / (times * true_NL.sum(1)).sum(), abs_tol=1e-9)
    ap, low, high = label_ap(p_NL[:, 0], true_NL[:, 0], draws_of(30, 0, 200))
    assert low < ap < high


def test_hit_at_1_and_perr():
    p_NL = np.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3], [0.5, 0.4, 0.3]])
    true_NL = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0]], bool)
    assert hit_at_1(judged(p_NL, true_NL)) == 0.5  # the last clip has no label
    assert perr(judged(p_NL, true_NL)) == (0.5 + 0) / 2


def test_nothing_true_has_no_value():
    nothing = judged(DRAW.random((3, 4)), np.zeros((3, 4), bool))
    assert all(math.isnan(value) for value in (gap(nothing), hit_at_1(nothing), perr(nothing), *interval([math.nan])))


def test_an_empty_shard_joins_without_columns():
    first = judged(DRAW.random((3, 4)), DRAW.random((3, 4)) < 0.5)
    empty = Judgement(np.zeros((0, 0)), np.zeros((0, 0), bool), np.zeros(0, np.int64))
    assert gap(joined([first, empty])) == gap(first)
