"""How fast this machine computes, measured in a moment: what `run --dry-run` says about the time of a training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache

from m2raap.core import engine
from m2raap.core.engine import torch_threads

# The share of the rate of a matrix product that training reaches; the same as for the GPU of pipeline.train_cost.
SHARE = 0.4
_SIZES = {"cpu": 1024, "cuda": 8192}  # rows and columns of the matrices


@dataclass(frozen=True)
class Rate:
    """What was measured: `flops` is the rate of a matrix product in FLOP/s, on `device` as a reader knows it."""

    device: str
    flops: float

    def hours(self, flop: float) -> float:
        return flop / (self.flops * SHARE) / 3600


@lru_cache(maxsize=4)
def training_rate(device: str, precision: str, threads: int = 0) -> Rate:
    """The rate of the device on which adapt would train, for its `adapt.device`, `adapt.precision` and `adapt.threads`."""
    import torch

    kind = (engine.device() if device == "auto" else device).partition(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        return Rate("a GPU, which this machine does not have", 0.0)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size, cores = _SIZES[kind], threads or torch_threads()
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        matrix = torch.ones(size, size, device=kind, dtype=dtype if kind == "cuda" else torch.float32)
        seconds = math.inf
        for _ in range(4):
            start = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # waits until the product is computed
            seconds = min(seconds, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    name = torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {cores} thread{'s' if cores > 1 else ''}"
    return Rate(name, 2 * size**3 / seconds)


def clock(hours: float) -> str:
    """A time in whole seconds below a minute, in whole minutes below an hour, else as h:mm; always rounded up."""
    seconds, minutes = math.ceil(hours * 3600), math.ceil(hours * 60)
    if seconds < 60:
        return f"{seconds} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,}:{minutes % 60:02d} h"
