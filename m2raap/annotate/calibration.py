"""Probabilities that mean what they say: of the tags with p = 0.3, three in ten are true.

The log-odds of a tagger become a x + b (Platt scaling), with a and b by maximum likelihood over all pairs of a clip and a label
of clips that it was not trained on. Pairs are counted in bins of their log-odds: 16,000 labels of a million clips are as few
numbers as 10 of a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EDGES = np.linspace(-16, 16, 321)
CENTRES = np.concatenate([[_EDGES[0]], (_EDGES[:-1] + _EDGES[1:]) / 2, [_EDGES[-1]]])


@dataclass(frozen=True)
class Bins:
    """For each bin of log-odds: how many pairs there are, and how many of them are true."""

    pairs: np.ndarray
    true: np.ndarray

    def __add__(self, other: Bins) -> Bins:
        return Bins(self.pairs + other.pairs, self.true + other.true)


def counted(log_odds: np.ndarray, truth: np.ndarray) -> Bins:
    """Bins of pairs with these log-odds."""
    places = np.searchsorted(_EDGES, log_odds.ravel())
    size = len(CENTRES)
    return Bins(
        np.bincount(places, minlength=size), np.bincount(places, truth.ravel(), minlength=size).astype(np.int64)
    )


def fitted(bins: Bins) -> tuple[float, float]:
    """(a, b), by Newton's method. Where nothing, or everything, is true the log-odds stay as they are: (1, 0)."""
    pairs, true = bins.pairs.astype(float), bins.true.astype(float)
    if not 0 < true.sum() < pairs.sum():
        return 1.0, 0.0
    x = np.stack([CENTRES, np.ones_like(CENTRES)])
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = _sigmoid(weights @ x)
        gradient = x @ (pairs * p - true) + 1e-3 * (weights - (1.0, 0.0))
        hessian = (x * (pairs * p * (1 - p))) @ x.T + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:  # worse than nothing on these clips: the order of tags stays as it is
        return 1.0, 0.0
    return float(weights[0]), float(weights[1])


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))


def expected_error(bins: Bins, calibration: tuple[float, float] = (1.0, 0.0)) -> float:
    """Expected calibration error: the mean over pairs of |share that is true - p| in their bin, of the pairs with p above
    0.01; without this bound the millions of tags that nobody has hide all others."""
    p = _sigmoid(calibration[0] * CENTRES + calibration[1])
    counts = (bins.pairs > 0) & (p > 0.01)
    pairs = bins.pairs[counts]
    return float((np.abs(bins.true[counts] / pairs - p[counts]) * pairs).sum() / max(pairs.sum(), 1))
