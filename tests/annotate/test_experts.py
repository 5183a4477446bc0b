"""Mixtures of experts, against their formula, and label by label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m2raap.annotate.experts import MoEHeads, experts_per_label, num_weights
from m2raap.annotate.job import label_groups

EXPERTS, NAMES = [3, 1, 2, 3, 1, 4], [f"label{i}" for i in range(6)]
PRIORS = [0.3, 0.1, 0.05, 0.2, 0.4, 0.01]


def heads_of(labels: list[int]) -> MoEHeads:
    heads = MoEHeads(8, [EXPERTS[i] for i in labels])
    return heads.begin([NAMES[i] for i in labels], [PRIORS[i] for i in labels], seed=3)


def by_formula(heads: MoEHeads, label: int, z_H: Tensor) -> float:
    """Of one clip and one label, with plain sums."""
    for places, weight_LXH, bias_LX in zip(heads.places, heads.weights, heads.biases, strict=True):
        if label in places:
            row = list(places).index(label)
            num = bias_LX.shape[1]
            scores = [float(weight.detach() @ z_H) for weight in weight_LXH[row]]
            gates = np.exp(scores[: num + 1]) / np.exp(scores[: num + 1]).sum()
            says_yes = [1 / (1 + np.exp(-(scores[num + 1 + x] + float(bias_LX[row, x])))) for x in range(num)]
            return float(sum(gate * p for gate, p in zip(gates, says_yes, strict=False)))  # the dummy says no
    raise AssertionError


def test_probabilities_and_loss_are_those_of_the_formula():
    heads, z_BH = heads_of(list(range(6))), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    p_BL = torch.tensor([[by_formula(heads, label, z) for label in range(6)] for z in z_BH])
    torch.testing.assert_close(heads(z_BH), p_BL, atol=1e-6, rtol=0)
    y_BL = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    cost_BL = -(torch.where(y_BL, p_BL, 1 - p_BL)).log()
    torch.testing.assert_close(heads.losses(z_BH, y_BL), cost_BL.sum(0), atol=1e-5, rtol=1e-5)


def test_a_new_head_begins_near_the_prior():
    heads = heads_of(list(range(6)))
    torch.testing.assert_close(heads(torch.zeros(1, 8))[0], torch.tensor(PRIORS), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("groups", [[[0, 1, 2], [3, 4, 5]], [[0], [1, 2], [3, 4], [5]]])
def test_labels_trained_together_and_apart_end_in_the_same_bits(groups: list[list[int]]):
    """200 steps of Adam. Sizes are multiples of 8, as a processor computes them: else a sum may take another order."""
    draw = torch.Generator().manual_seed(2)
    z_NH, y_NL = torch.randn(640, 8, generator=draw), torch.rand(640, 6, generator=draw) < 0.3
    torch.set_num_threads(1)

    def trained(labels: list[int]) -> MoEHeads:
        heads = heads_of(labels)
        optimiser = torch.optim.Adam(heads.parameters(), 0.02)
        for step in range(200):
            rows = slice(64 * (step % 10), 64 * (step % 10) + 64)
            optimiser.zero_grad()
            (heads.losses(z_NH[rows], y_NL[rows][:, labels]).sum() / 64 + 1e-4 * heads.squared()).backward()
            optimiser.step()
        return heads

    apart = torch.cat([trained(group)(z_NH) for group in groups], 1)
    assert torch.equal(trained(list(range(6)))(z_NH), apart)


def test_taking_the_weights_of_some_labels():
    first, second = heads_of(list(range(6))), MoEHeads(8, EXPERTS).begin(NAMES, PRIORS, seed=4)
    z_BH = torch.randn(3, 8)
    before, other = first(z_BH), second(z_BH)
    which = np.array([True, False, False, True, False, True])
    first.take(second, which)
    assert torch.equal(first(z_BH), torch.where(torch.from_numpy(which), other, before))


def test_experts_grow_with_the_positives():
    assert experts_per_label(np.array([0, 1, 100, 101, 250, 10_000]), 8, 100).tolist() == [1, 1, 1, 2, 3, 8]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_groups_hold_every_label_once_and_no_more_weights_than_allowed(sizes: list[int], most: int):
    groups = label_groups(np.array(sizes), most)
    assert [label for group in groups for label in group] == list(range(len(sizes)))
    for group in groups:
        assert len(group) == 1 or sum(sizes[label] for label in group) <= most


def test_the_number_of_weights_is_that_of_the_module():
    heads = MoEHeads(8, EXPERTS)
    assert num_weights(8, np.array(EXPERTS)).sum() == sum(weight.numel() for weight in heads.weights)
