"""iRProp+, against the algorithm written out for one weight at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m2raap.adapt.rprop import IRpropPlus


def loss_of(w: torch.Tensor) -> torch.Tensor:
    """A narrow, bent valley in which steps of one size overshoot."""
    return (w[0] - 1) ** 2 + 30 * (w[1] - w[0] ** 2) ** 2 + 0.1 * torch.sin(5 * w[2])


def written_out(start: list[float], steps: int) -> list[float]:
    """Igel and Huesken's algorithm 2, weight by weight."""
    w, before, sizes, moves, last = list(start), [0.0] * 3, [1e-2] * 3, [0.0] * 3, float("inf")
    for _ in range(steps):
        t = torch.tensor(w, dtype=torch.float64, requires_grad=True)
        loss = loss_of(t)
        loss.backward()
        assert t.grad is not None
        for i, g in enumerate(t.grad.tolist()):
            if g * before[i] > 0:
                sizes[i] = min(1.2 * sizes[i], 1.0)
                moves[i] = -np.sign(g) * sizes[i]
            elif g * before[i] < 0:
                sizes[i] = max(0.5 * sizes[i], 1e-6)
                moves[i] = -moves[i] if float(loss.detach()) > last else 0.0
                g = 0.0
            else:
                moves[i] = -np.sign(g) * sizes[i]
            w[i] += moves[i]
            before[i] = g
        last = float(loss.detach())
    return w


def stepped(w: torch.nn.Parameter, optimiser: IRpropPlus, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = loss_of(w)
        loss.backward()
        losses.append(optimiser.step(float(loss.detach())))
    return losses


@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_it_is_the_algorithm_written_out(steps: int):
    w = torch.nn.Parameter(torch.tensor([-1.0, 0.5, 0.2], dtype=torch.float64))
    stepped(w, IRpropPlus([w], first_step=1e-2), steps)
    np.testing.assert_allclose(w.detach().numpy(), written_out([-1.0, 0.5, 0.2], steps), atol=1e-12)


def test_it_goes_down_the_valley_further_than_rprop_without_the_undo():
    ours, theirs = (torch.nn.Parameter(torch.tensor([-1.0, 0.5, 0.2])) for _ in "ab")
    losses = stepped(ours, IRpropPlus([ours], first_step=1e-2), 150)
    rprop = torch.optim.Rprop([theirs], lr=1e-2)
    for _ in range(150):
        rprop.zero_grad()
        loss_of(theirs).backward()
        rprop.step()
    assert losses[-1] < 0.05 * losses[0] and losses[-1] <= float(loss_of(theirs).detach()) + 1e-6


def test_it_goes_on_from_its_state():
    whole, first = (torch.nn.Parameter(torch.tensor([-1.0, 0.5, 0.2])) for _ in "ab")
    stepped(whole, IRpropPlus([whole], first_step=1e-2), 20)
    optimiser = IRpropPlus([first], first_step=1e-2)
    stepped(first, optimiser, 9)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = IRpropPlus([second], first_step=1e-2)
    resumed.load_state_dict(optimiser.state_dict())
    stepped(second, resumed, 11)
    assert torch.equal(second, whole)


def test_a_step_without_the_loss_is_refused():
    with pytest.raises(ValueError, match="give the loss"):
        IRpropPlus([torch.nn.Parameter(torch.zeros(2))]).step()
