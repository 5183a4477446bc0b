"""Batches are halved where the memory of a GPU runs out: nothing is lost, and the size never rises."""

from __future__ import annotations

import pytest
import torch

from m2raap.core.errors import M2raapError
from m2raap.models.batches import Batches


def limited(most: int, sizes: list[int]):
    """A network whose GPU has room for `most` inputs."""

    def run(batch: list[int]) -> list[int]:
        if len(batch) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return [-n for n in batch]

    return run


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_every_input_is_computed_once_and_in_order(most: int):
    sizes: list[int] = []
    batches = Batches(16, "clips")
    outputs = [n for block in batches(limited(most, sizes), range(37)) for n in block]
    assert outputs == [-n for n in range(37)]
    assert max(sizes) <= most and batches.size == {1: 1, 3: 2, 4: 4, 100: 16}[most]
    assert sum(1 for _ in batches(limited(most, sizes), range(batches.size))) == 1, "it starts with the smaller size"


def test_where_one_input_does_not_fit_it_is_an_error():
    with pytest.raises(M2raapError, match=r"with one of the pictures at a time.*--devices cpu"):
        list(Batches(4, "pictures")(limited(0, []), range(3)))
