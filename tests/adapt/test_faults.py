"""What is no fault of the settings: GPUs that fail, processes without a GPU, and decoders when the preparation fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m2raap.adapt import distributed, loop
from m2raap.adapt.checkpoint import Progress
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext, local_gpu
from m2raap.adapt.pixels import Decoding
from m2raap.adapt.readers import video_decoders
from m2raap.core.errors import M2raapError
from m2raap.models.config import BackboneConfig
from tests.adapt.world import ordered


@pytest.mark.parametrize(
    ("error", "step", "words"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 7, "ran out after step 7 .*2 GiB.*lora"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), None, "ran out before the first step"),
        (RuntimeError("CUDA error: unspecified launch failure"), 7, "process 1 failed after step 7 .*launch failure.*resumes"),
    ],
)  # fmt: skip
def test_a_fault_of_the_gpu_is_no_bug(error: RuntimeError, step: int | None, words: str) -> None:
    with pytest.raises(M2raapError, match=words), loop._GpuFaults(1) as faults:
        faults.progress = None if step is None else Progress(step=step)
        raise error


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape"), loop._GpuFaults(0):
        raise RuntimeError("shape '[2]' is invalid")


def test_decoders_end_when_the_preparation_fails(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Decoding] = []

    def failing(*args: Any) -> None:
        made.append(next(arg for arg in args if isinstance(arg, Decoding)))
        made[0].executor.submit(int).result()
        raise M2raapError("no room")

    monkeypatch.setattr(loop, "prepare", failing)
    cfg = AdaptConfig(backbone=BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), decoders=1)
    with pytest.raises(M2raapError, match="no room"):
        loop.adapt(cfg, ordered(4, 0), None, tmp_path)
    with pytest.raises(RuntimeError, match="closed"):
        _ = made[0].executor


def test_a_process_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_gpu(DistContext(1, 4, local_rank=1, local_world_size=4)) == "cuda:1"
    with pytest.raises(M2raapError, match="process 2 of 4 on this machine has no GPU: there are 2.*--nproc_per_node 2"):
        local_gpu(DistContext(2, 4, local_rank=2, local_world_size=4))


def test_decoders_of_raw_video_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2raap.adapt.readers.available_cores", lambda: 16)
    assert [video_decoders(AdaptConfig(), processes) for processes in (1, 8, 32)] == [16, 2, 1]
    assert video_decoders(AdaptConfig(decoders=5), 8) == 5


def test_weights_that_are_not_contiguous_are_those_of_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(tensor: Tensor, _: int) -> None:
        assert tensor.is_contiguous(), "as the library wants it"
        tensor.fill_(3.0)

    monkeypatch.setattr(distributed.dist, "broadcast", fill)
    weights = nn.Parameter(torch.zeros(2, 3).T), nn.Parameter(torch.zeros(2))
    DistContext(1, 2).broadcast_weights(weights)
    assert all(bool((p == 3).all()) for p in weights)
