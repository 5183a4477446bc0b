"""The terms on the order of events over a batch in which some captions say an order, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from m2raap.adapt.order_heads import OrderHeads
from m2raap.adapt.order_terms import clause_rows, event_order_rows

ROWS = np.array([[0, 1, 2], [-1, -1, -1], [1, 0, 3], [4, 5, -1], [0, 6, 7]])
SCALE = torch.tensor(6.0)


def units(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def softmax_cost(logits: list[float], target: int) -> float:
    return float(np.log(np.sum(np.exp(np.array(logits) - logits[target]))))


def test_clauses_equal_the_sum_by_hand_and_clips_without_them_take_no_part() -> None:
    heads, video, text, vectors = OrderHeads(6), units(5, 6, seed=0), units(5, 6, seed=1), units(8, 6, seed=2)
    heads.weight_2EE.data += 0.5 * torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3))
    clauses = vectors[np.maximum(ROWS[:, :2], 0)] * torch.from_numpy(ROWS[:, :2] >= 0)[..., None]
    actual = clause_rows(heads, video, text, clauses, ROWS, SCALE)
    counting = [i for i in range(5) if ROWS[i, 0] >= 0]
    expected = np.zeros(5)
    for x in (video.numpy(), text.numpy()):
        for i in counting:
            for place in (0, 1):
                query = heads.weight_2EE.detach().numpy()[place] @ x[i]
                query /= np.linalg.norm(query)
                others = [ROWS[j, k] for j in counting for k in (0, 1) if ROWS[j, k] != ROWS[i, place]]
                logits = [6.0 * float(query @ vectors[row].numpy()) for row in [ROWS[i, place], *others]]
                expected[i] += softmax_cost(logits, 0) / 4
    assert (actual.detach() * 4 / 5).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert float(actual.detach().mean()) == pytest.approx(expected[counting].mean(), abs=1e-5)
    text[1], clauses[1] = units(6, seed=9), units(2, 6, seed=10)
    torch.testing.assert_close(clause_rows(heads, video, text, clauses, ROWS, SCALE), actual)


def test_event_order_counts_only_captions_that_can_be_exchanged() -> None:
    video, swapped, text, swapped_text = (units(5, 6, seed=k) for k in range(4))
    actual = event_order_rows(video, text, swapped, swapped_text, ROWS, SCALE)
    expected = np.zeros(5)
    for i in (0, 2, 4):
        v, w, t, u = (6.0**0.5 * x[i].numpy() for x in (video, swapped, text, swapped_text))
        tables = ([v @ t, v @ u], [w @ u, w @ t], [t @ v, t @ w], [u @ w, u @ v])
        expected[i] = sum(softmax_cost(table, 0) for table in tables) / 4
    assert (actual * 3 / 5).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert float(actual.mean()) == pytest.approx(expected[[0, 2, 4]].mean(), abs=1e-5)


def test_a_batch_without_order_costs_nothing_and_moves_nothing() -> None:
    heads, video, text = OrderHeads(6), units(3, 6, seed=0).requires_grad_(), units(3, 6, seed=1)
    none = np.full((3, 3), -1)
    losses = (
        clause_rows(heads, video, text, None, none, SCALE)
        + event_order_rows(video, text, None, None, none, SCALE)
    )  # fmt: skip
    assert losses.tolist() == [0.0] * 3
    losses.sum().backward()
    assert video.grad is not None and not video.grad.any() and heads.weight_2EE.grad is None


def test_the_heads_learn_a_shared_direction_of_order_from_vectors_that_hold_it() -> None:
    """Vectors are a x first + b x second in two rotations: the identity cannot tell them apart, and matrices can."""
    generator = torch.Generator().manual_seed(4)
    nouns = F.normalize(torch.randn(6, 16, generator=generator), dim=-1)
    turn = [torch.linalg.qr(torch.randn(16, 16, generator=generator))[0] for _ in range(2)]
    pairs = torch.tensor([(a, b) for a in range(6) for b in range(6) if a != b])
    vectors = F.normalize(nouns[pairs[:, 0]] @ turn[0] + nouns[pairs[:, 1]] @ turn[1], dim=-1)
    rows = np.concatenate([pairs.numpy(), np.full((len(pairs), 1), -1)], 1)
    heads = OrderHeads(16)
    optimiser, losses = torch.optim.Adam(heads.parameters(), lr=0.02), []
    for _ in range(80):
        loss = clause_rows(heads, vectors, vectors, nouns[pairs], rows, torch.tensor(10.0)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 < 1.5 < losses[0], (losses[0], losses[-1])
