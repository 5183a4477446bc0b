"""Several processes train one model: `torchrun --nproc_per_node N -m m2raap.cli.main adapt ...`.

Every process holds the whole model and encodes its share of each batch; features are gathered, gradients summed, so that
all take the step that a single process would take. The main process (rank 0) alone validates, logs and writes. All
processes have to see the same folders. The others run no stage: they wait until the main process names the adapt folder
that it trains, and train with it.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from m2raap.core.errors import M2raapError
from m2raap.models.shared_rows import Rows

if TYPE_CHECKING:
    from m2raap.adapt.objective import Features

T = TypeVar("T")
# torch 2.14 has renamed it.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
# How long a process waits for the data stages of the main process. That another process died is noticed at once.
PATIENCE = timedelta(days=30)


class DistContext:
    """The processes that train together; in a single process nothing is exchanged.

    Calls that involve all processes raise M2raapError when another process died.
    """

    def __init__(
        self, rank: int = 0, world_size: int = 1, store: Any = None, local_rank: int = 0, local_world_size: int = 1
    ) -> None:
        self.rank, self.world_size, self.store = rank, world_size, store
        self.local_rank, self.local_world_size = local_rank, local_world_size
        self._tasks = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def local_slice(self, batch: int) -> tuple[int, int]:
        """Start and stop of the clips of a batch that this process encodes. Raises M2raapError where the clips are too few."""
        if batch < self.world_size:
            raise M2raapError(
                f"a batch of {batch} clips cannot be shared by {self.world_size} processes: start fewer processes, or raise "
                "adapt.batch_size"
            )
        return self.slice_of(batch)

    def all_gather(self, features: Features, batch: int) -> Features:
        """The features of the whole batch of `batch` clips, joined from the shares of all processes."""
        if self.world_size == 1:
            return features
        return features.replace({name: self.gather_rows(part, batch) for name, part in features.present().items()})

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """All `count` rows, of which each process has those of its `slice_of`. No gradient passes."""
        if self.world_size == 1:
            return rows
        sizes = [stop - start for start, stop in (self.slice_of(count, rank) for rank in range(self.world_size))]
        most = max(sizes)
        numbers = (rows.detach().byte() if rows.dtype == torch.bool else rows.detach()).contiguous()
        if len(rows) < most:  # the calls of the library take shares of one size
            numbers = torch.cat([numbers, numbers.new_zeros(most - len(rows), *rows.shape[1:])])
        gathered = numbers.new_empty(self.world_size * most, *rows.shape[1:])
        self._guarded(lambda: _all_gather(gathered, numbers))
        if min(sizes) < most:
            blocks = gathered.split(most)
            gathered = torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])
        return gathered.to(rows.dtype)

    def slice_of(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """Start and stop of the rows, of `count`, that are of a process (None: this one); it may be none."""
        rank = self.rank if rank is None else rank
        return count * rank // self.world_size, count * (rank + 1) // self.world_size

    def shared_rows(self, count: int, rows: Rows) -> Tensor:
        """All rows, of which each process computes those of its `slice_of`.

        What reads them is computed by all processes alike. The gradient that a process has of what the rows are computed from is
        that of its own rows times the number of processes: the mean over the processes is that of all rows.
        """
        if self.world_size == 1:
            return rows(slice(0, count))
        return _SharedRows.apply(rows(slice(*self.slice_of(count))), self, count)

    def mean_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes."""
        for tensor in tensors if self.world_size > 1 else ():
            self._sum(tensor)
            tensor /= self.world_size

    def mean_of_sums(self, weights: Iterable[nn.Parameter]) -> None:
        """Divides `.grad`, which was summed over the processes, by their number: all have computed it alike."""
        for p in weights:
            if self.world_size > 1 and p.grad is not None:
                p.grad /= self.world_size

    def send_sum(self, tensor: Tensor) -> Any:
        """Begins to replace the tensor by its sum over the processes; `wait` for what this returns before reading it."""
        work: list[Any] = []
        self._guarded(lambda: work.append(dist.all_reduce(tensor, async_op=True)))
        return work[0]

    def wait(self, work: Any) -> None:
        self._guarded(work.wait)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor of the main process, in every process."""
        if self.world_size > 1:
            tensor = tensor.contiguous()
            self._guarded(lambda: dist.broadcast(tensor, 0))
        return tensor

    def broadcast_weights(self, weights: Iterable[nn.Parameter]) -> None:
        """Gives all processes the weights of the main process."""
        with torch.no_grad():
            for p in weights:
                p.copy_(self.broadcast(p.data))  # a weight that is not contiguous was sent as a copy

    def assert_same(self, what: str, digest: str) -> None:
        """Raises M2raapError where `digest` differs from that of the main process; `what` names what differs."""
        if self.world_size == 1:
            return
        mine = torch.tensor([int(digest[i : i + 7], 16) for i in range(0, 28, 7)], dtype=torch.int64)
        if not torch.equal(self.broadcast(mine.clone()), mine):
            raise M2raapError(
                f"process {self.rank} sees other {what} than the main process: give all processes the same folders"
            )

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any of the processes."""
        if self.world_size == 1:
            return flag
        count = torch.tensor([float(flag)])
        self._sum(count)
        return bool(count.item())

    def barrier(self) -> None:
        """Waits until all processes have called it."""
        if self.world_size > 1:
            self._guarded(lambda: dist.all_reduce(torch.zeros(1)))

    def main_process_first(self, make: Callable[[], T]) -> T:
        """Calls `make` in the main process, then in the others, which then find the files that it has written."""
        if not self.is_main:
            self.barrier()
        value = make()
        if self.is_main:
            self.barrier()
        return value

    # -- tasks from the main process to the others ----------------------------------------------------------------------

    def send_task(self, task: str) -> None:
        """The main process gives a task to all others; '' ends them."""
        if self.world_size > 1 and self.store is not None:
            self.store.set(f"task/{self._tasks}", task)
            self._tasks += 1

    def next_task(self) -> str:
        """The next task from the main process, which this waits for; '' after the last one."""
        key = f"task/{self._tasks}"
        self._tasks += 1
        self._guarded(lambda: self.store.wait([key], PATIENCE))
        return self.store.get(key).decode()

    def _sum(self, tensor: Tensor) -> None:
        self._guarded(lambda: dist.all_reduce(tensor))

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except RuntimeError as error:  # also DistBackendError, DistStoreError
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise M2raapError(
                f"process {self.rank} of {self.world_size} stopped because another process died "
                f"({str(error).splitlines()[0][:120]}). The message of that process gives the cause; the same command resumes"
            ) from None


class _SharedRows(torch.autograd.Function):
    """Rows of all processes, from those of this one; the gradient of its own rows, times the number of processes, goes back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, dist_context: DistContext, count: int) -> Tensor:
        ctx.share, ctx.world_size = dist_context.slice_of(count), dist_context.world_size
        return dist_context.gather_rows(rows, count)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]  # autograd's own takes any
        return gradient[slice(*ctx.share)] * ctx.world_size, None, None


def local_gpu(dist_context: DistContext) -> str:
    """The GPU of this process, of those of its machine. Raises M2raapError where there are fewer GPUs than processes."""
    if dist_context.local_rank >= (count := torch.cuda.device_count()):
        raise M2raapError(
            f"process {dist_context.local_rank} of {dist_context.local_world_size} on this machine has no GPU: there are "
            f"{count}: start as many processes (torchrun --nproc_per_node {count}), or set adapt.device to cpu"
        )
    return f"cuda:{dist_context.local_rank}"


@cache
def join() -> DistContext:
    """The context that the launcher's environment describes (RANK, WORLD_SIZE and so on, as torchrun sets them)."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return DistContext()
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank < torch.cuda.device_count():  # else `local_gpu` refuses, unless the CPU trains
        torch.cuda.set_device(local_rank)
    return start(rank, size, store, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def start(rank: int, size: int, store: Any, local_rank: int = 0, local_world_size: int = 1) -> DistContext:
    """Opens the process group. `store` is the key-value store that all processes share."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=PATIENCE)
    dist_context = DistContext(rank, size, PrefixStore("team", store), local_rank, local_world_size)
    atexit.register(_leave, dist_context)
    return dist_context


def _leave(dist_context: DistContext) -> None:
    if dist_context.is_main:
        dist_context.send_task("")
    if dist.is_initialized():
        dist.destroy_process_group()
