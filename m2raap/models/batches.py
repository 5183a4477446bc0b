"""Batches of a network's inputs: as large as fills a GPU, and halved where its memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch

from m2raap.core import talk
from m2raap.core.errors import M2raapError

T = TypeVar("T")
R = TypeVar("R")

# On a GPU. 256 pictures are 12,800 tokens of ViT-B/32 and 65,800 of ViT-L/14: every matrix product then has hundreds of tiles
# for each processor of an H100, so that larger batches would not be faster. In fp32 the largest tensor, that of the hidden
# layer of L/14, takes 1.1 GB.
PICTURES_ON_GPU, TEXTS_ON_GPU = 256, 1024


class Batches:
    """Cuts inputs into batches of at most `size`. Where the memory of a GPU runs out the size is halved, and never rises again.

    `what`: name of the inputs, for messages. Vectors of smaller batches may differ in the last bits.
    """

    def __init__(self, size: int, what: str) -> None:
        self.size, self._what = size, what

    def __call__(self, run: Callable[[list[T]], R], inputs: Iterable[T]) -> Iterator[R]:
        """`run` of every batch, in their order. Raises M2raapError where memory does not suffice for one input."""
        left = iter(inputs)
        while unfinished := list(islice(left, self.size)):
            while unfinished:
                batch = unfinished[: self.size]
                try:
                    result = run(batch)
                except torch.cuda.OutOfMemoryError:
                    pass  # the exception, and the tensors that it holds, are released before the batch gets smaller
                else:
                    yield result
                    unfinished = unfinished[len(batch) :]
                    continue
                self._halve(len(batch))

    def _halve(self, size: int) -> None:
        if size == 1:
            raise M2raapError(
                f"out of GPU memory with one of the {self._what} at a time: other processes use this GPU (fewer --workers), or "
                "it is too small for the model (--devices cpu)"
            )
        self.size = (size + 1) // 2
        gc.collect()
        torch.cuda.empty_cache()
        talk.log(f"out of GPU memory; from now on at most {self.size} {self._what} are computed at a time")
