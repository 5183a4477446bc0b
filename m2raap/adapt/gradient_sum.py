"""Sums gradients over the processes, bucket by bucket, from when the last backward pass of a step has a bucket's gradients.

As in DistributedDataParallel (Li et al., VLDB 2020, arXiv 2006.15704) the sums of one bucket travel while the gradients of the
next are computed. That class wraps one forward pass of a module, and gradient caching has many: hence this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from m2raap.adapt.distributed import DistContext

BUCKET = 2**24  # gradients, as single numbers, that are summed in one call


class GradientSum:
    """Sums `.grad` of `weights` over the processes of `dist_context`. It stays None for a weight without one in any process."""

    def __init__(self, weights: Iterable[nn.Parameter], dist_context: DistContext) -> None:
        self._dist_context = dist_context
        # The weights of the last layers have their gradients first.
        learning = [p for p in weights if p.requires_grad]
        self._buckets = buckets(reversed(learning)) if dist_context.world_size > 1 else []
        self._bucket_of = {id(p): number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._armed = False
        self._missing: list[int] = []
        self._sent: list[tuple[Tensor, Any]] = []
        for bucket in self._buckets:
            for p in bucket:
                p.register_post_accumulate_grad_hook(self._has_gradient)

    @property
    def is_under_way(self) -> bool:
        """Whether sums were sent of which `finish` has not yet made gradients."""
        return bool(self._sent)

    def arm(self) -> None:
        """The backward pass that follows is the last one of the step: a bucket is sent once all its gradients are there."""
        self._armed = bool(self._buckets)
        self._missing = [len(bucket) for bucket in self._buckets]

    def disarm(self) -> None:
        """The backward pass that was the last one has failed before anything was sent, and is repeated in parts."""
        assert not self.is_under_way
        self._armed = False

    def finish(self) -> None:
        """Sends what was not sent, and puts the sums into `.grad`. Raises M2raapError where another process died."""
        self._armed = False
        while len(self._sent) < len(self._buckets):
            self._send()
        for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
            self._dist_context.wait(work)
            *sums, has_gradient = flat.split([*(p.numel() for p in bucket), len(bucket)])
            for p, summed, count in zip(bucket, sums, has_gradient.tolist(), strict=True):
                p.grad = summed.reshape(p.shape).clone() if count else None
        self._sent = []

    def _has_gradient(self, p: Tensor) -> None:
        if not self._armed:
            return
        self._missing[self._bucket_of[id(p)]] -= 1
        # All processes send the buckets in one order, whatever becomes ready first.
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] <= 0:
            self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        flags = torch.tensor([float(p.grad is not None) for p in bucket])
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in bucket]
        flat = torch.cat([*parts, flags.to(parts[0])])
        self._sent.append((flat, self._dist_context.send_sum(flat)))


def buckets(weights: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Runs of weights of the same dtype with at most BUCKET numbers together. A larger weight is a run of its own."""
    runs: list[list[nn.Parameter]] = []
    size = 0
    for p in weights:
        if not runs or size + p.numel() > BUCKET or p.dtype != runs[-1][0].dtype:
            runs.append([])
            size = 0
        runs[-1].append(p)
        size += p.numel()
    return runs
