"""The losses on the order of events against sums in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from m2raap.models.order_losses import clause_contrast, event_order_contrast


def units(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def clauses_by_hand(queries: np.ndarray, clauses: np.ndarray, texts: np.ndarray, scale: float) -> list[float]:
    costs = []
    for clip in range(len(queries)):
        total = 0.0
        for place in (0, 1):
            own = scale * float(queries[clip, place] @ clauses[clip, place])
            others = [
                scale * float(queries[clip, place] @ clauses[j, k])
                for j in range(len(clauses))
                for k in (0, 1)
                if texts[j, k] != texts[clip, place]
            ]
            total -= own - math.log(math.exp(own) + sum(math.exp(other) for other in others))
        costs.append(total / 2)
    return costs


@pytest.mark.parametrize("seed", range(4))
def test_clause_contrast_equals_the_sum_by_hand(seed: int) -> None:
    queries, vectors = units(5, 2, 6, seed=seed), units(10, 6, seed=seed + 100)
    texts = torch.from_numpy(np.random.default_rng(seed).integers(0, 7, (5, 2)))  # some clauses have the same text
    assert len(torch.unique(texts)) < 10
    clauses = vectors[texts]
    expected = clauses_by_hand(queries.numpy(), clauses.numpy(), texts.numpy(), 7.0)
    assert clause_contrast(queries, clauses, texts, 7.0).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_clause_of_the_other_event_is_a_negative_and_the_same_text_is_none() -> None:
    clauses = torch.eye(4).reshape(2, 2, 4)
    right, exchanged = clauses, clauses.flip(1)
    texts = torch.tensor([[0, 1], [2, 3]])
    assert float(clause_contrast(right, clauses, texts, 20.0).max()) < 1e-6
    assert float(clause_contrast(exchanged, clauses, texts, 20.0).min()) > 19
    alone = clause_contrast(exchanged, clauses, torch.tensor([[0, 0], [0, 0]]), 20.0)
    assert alone.tolist() == [0.0, 0.0]  # each clause has the text of each, so that nothing is left to confuse it with


@pytest.mark.parametrize("seed", range(4))
def test_event_order_contrast_equals_the_softmaxes_of_the_two_by_two_table(seed: int) -> None:
    video, swapped, text, swapped_text = (units(6, 5, seed=10 * seed + k) for k in range(4))
    expected = []
    for v, w, t, u in zip(*(x.numpy() for x in (video, swapped, text, swapped_text)), strict=True):
        table = 9.0 * np.array([[v @ t, v @ u], [w @ t, w @ u]], np.float64)
        rows, columns = (np.log(np.exp(x) / np.exp(x).sum(1, keepdims=True)) for x in (table, table.T))
        expected.append(-(np.trace(rows) + np.trace(columns)) / 4)
    actual = event_order_contrast(video, swapped, text, swapped_text, 9.0)
    assert actual.tolist() == pytest.approx(expected, abs=1e-5)


def test_event_order_contrast_is_log_2_at_least_for_a_clip_that_is_the_same_with_its_events_exchanged() -> None:
    video, text, swapped_text = (units(3, 8, seed=k) for k in range(3))
    assert float(event_order_contrast(video, video, text, swapped_text, 30.0).min()) >= math.log(2)
    assert event_order_contrast(video, video, text, text, 30.0).tolist() == pytest.approx([math.log(2)] * 3)
    # A term that appearance alone satisfies would not be symmetric: exchanging all of it costs the same.
    both = (units(3, 8, seed=k) for k in range(4, 8))
    v, w, t, u = both
    torch.testing.assert_close(event_order_contrast(v, w, t, u, 5.0), event_order_contrast(w, v, u, t, 5.0))
