"""What drop path draws, whatever runs of a batch are encoded together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class DropPathRng:
    """Uniform numbers for the rows of a chunk: those that the rows of the whole batch would get, cut out.

    So chunks of a batch, and shares of several processes, learn exactly what the whole batch would. A row belongs to a
    clip, and every clip has as many.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator()
        self.batch, self.start, self.stop = 1, 0, 1

    def begin(self, seed: list[int], batch: int, start: int, stop: int) -> None:
        """For clips start .. stop of a batch; the same numbers every time that this seed begins."""
        self.generator.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
        self.batch, self.start, self.stop = batch, start, stop

    def __call__(self, rows: int) -> Tensor:
        each, left_over = divmod(rows, self.stop - self.start)
        assert left_over == 0, f"{rows} rows of {self.stop - self.start} clips"
        return torch.rand(self.batch * each, generator=self.generator)[self.start * each : self.stop * each]
