"""Which clips a round reads: a window that slides over the corpus in a random order (sliding-window subset sampling)."""

from __future__ import annotations

import numpy as np


def window_rows(num_clips: int, window: int | None, stride: float, seed: int, number: int) -> np.ndarray:
    """(W,) ascending clips of round `number` (from 0). Windows that follow each other share 1 - stride of their clips.

    Rounds that go once around the corpus read every clip, in as many rounds as the window fits into it by its stride.
    """
    if window is None or window >= num_clips:
        return np.arange(num_clips)
    step = max(1, round(stride * window))
    order = np.random.default_rng([seed, 31]).permutation(num_clips)
    return np.sort(order[(number * step + np.arange(window)) % num_clips])
