"""Poolings, against sums over the frames that are there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m2raap.annotate.config import FitConfig
from m2raap.annotate.pooling import make_pooling
from m2raap.annotate.shared_layers import SharedLayers

DRAW = np.random.default_rng(0)
CLIPS = [DRAW.standard_normal((length, 4)).astype(np.float32) for length in (1, 3, 2)]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    x_BKE, mask_BK = np.full((3, 3, 4), 9.0, np.float32), np.zeros((3, 3), bool)  # padding holds anything finite
    for row, clip in enumerate(CLIPS):
        x_BKE[row, : len(clip)], mask_BK[row, : len(clip)] = clip, True
    return torch.from_numpy(x_BKE), torch.from_numpy(mask_BK)


@pytest.mark.parametrize("name", ["mean", "swap", "attention"])
def test_a_pooling_is_its_formula_over_the_frames_that_are_there(name: str):
    pooling = make_pooling(name, 4)
    if name == "attention":
        torch.nn.init.constant_(pooling.score.weight, 0.3)
    expected = []
    for clip in CLIPS:
        if name == "mean":
            expected.append(clip.mean(0))
        elif name == "swap":
            expected.append([sum(x * abs(x) for x in column) / sum(abs(x) for x in column) for column in clip.T])
        else:
            weights = np.exp(0.3 * clip.sum(1))
            expected.append((weights[:, None] * clip).sum(0) / weights.sum())
    np.testing.assert_allclose(pooling(*padded()).detach().numpy(), np.array(expected), rtol=1e-5)


@pytest.mark.parametrize("frame_layer", ["none", "linear", "gate", "residual"])
def test_padding_changes_no_vector(frame_layer: str):
    shared = SharedLayers(4, FitConfig(frame_layer=frame_layer, hidden=6))
    together = shared(*padded())
    for row, clip in enumerate(CLIPS):
        alone = shared(torch.from_numpy(clip)[None], torch.ones(1, len(clip), dtype=torch.bool))
        torch.testing.assert_close(together[row], alone[0])
    assert together.shape == (3, 4 if frame_layer == "none" else 6)
