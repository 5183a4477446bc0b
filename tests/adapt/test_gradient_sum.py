"""Sums over processes when a GPU's memory runs out in the last backward pass of a step: nothing is sent too early."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from m2raap.adapt.distributed import DistContext
from m2raap.adapt.gradcache import GradCache
from m2raap.adapt.objective import Features, StepLoss


class Twins(DistContext):
    """Two processes of which the other computes what this one does, so that a mean is the value itself."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def local_slice(self, batch: int) -> tuple[int, int]:
        return 0, batch

    def all_gather(self, features: Features, batch: int) -> Features:
        return features

    def mean_tensors(self, tensors: Any) -> None:
        pass

    def send_sum(self, tensor: Tensor) -> Any:
        return None

    def wait(self, work: Any) -> None:
        pass


class FullOnce(torch.autograd.Function):
    """The identity; its backward pass runs out of memory in the call of this number."""

    calls, fails_at = 0, 0

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # autograd's own takes any
        FullOnce.calls += 1
        if FullOnce.calls == FullOnce.fails_at:
            raise torch.cuda.OutOfMemoryError
        return gradient


def gradient(fails_at: int) -> Tensor:
    """Of the second of two steps over six clips."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    inputs = torch.arange(12.0).reshape(6, 2)
    FullOnce.calls, FullOnce.fails_at = 0, fails_at

    def encode(start: int, stop: int) -> Features:
        values = FullOnce.apply(inputs[start:stop] * weight)
        return Features(torch.ones(stop - start, 1, dtype=torch.bool), values, torch.zeros(stop - start, 1, 2))

    def loss_of(features: Features) -> StepLoss:
        return StepLoss(features.video_BE.square().sum(), {})

    cache = GradCache([weight], [], Twins(), None)
    for _ in range(2):
        cache(6, encode, loss_of)
    assert weight.grad is not None
    return weight.grad


def test_the_step_that_is_repeated_in_halves_has_the_gradient_of_the_whole() -> None:
    torch.testing.assert_close(gradient(fails_at=2), gradient(fails_at=0))
    assert FullOnce.calls == 2
