"""Engines map a pure function over parts. `local` is a pool of processes that lives as long as the command.

Every worker computes with one thread, so that the bytes of the result do not depend on the number of workers.
`device` says on which torch device a process runs networks.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from m2raap.core.errors import M2raapError, UsageError

T = TypeVar("T")
R = TypeVar("R")
DEVICE = "M2RAAP_DEVICE"  # a torch device: cpu, cuda or cuda:N; --devices sets it
WORKER = "M2RAAP_WORKER"  # I/N: this process is worker I, from 0, of N on this machine


class Engine(Protocol):
    """Runs `work` on every task, in any order, and yields (task index, result) as each finishes."""

    workers: int
    is_stated: bool  # whether the user has stated the number of workers, or Ray

    def map(self, work: Callable[[T], R], tasks: Sequence[T], runs_network: bool = False) -> Iterator[tuple[int, R]]:
        """`runs_network`: whether the work runs a network, so that it is given a GPU where there is one."""
        ...

    def has_gpus(self) -> bool:
        """Whether work that runs a network is given GPUs."""
        ...

    def close(self) -> None: ...


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_threads(processes: int = 1) -> int:
    """Number of torch threads of this process: OMP_NUM_THREADS where it is set, else the cores divided by `processes`."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) else max(1, available_cores() // processes)


class LocalEngine:
    """Processes of this machine; with one worker the work is done in this process.

    `devices`: torch devices, dealt to the workers in turn, and the first of them to this process until `close`; without any,
    each process takes its turn of the machine's GPUs. `workers`: number of processes; None: the cores, and for networks on
    GPUs PROCESSES_A_GPU for each.
    """

    def __init__(self, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        self.workers = workers or available_cores()
        self.is_stated = workers is not None
        self._before = os.environ.get(DEVICE)
        self._sets_device = bool(devices)
        self._devices = list(devices) or ([self._before] if self._before else [])
        if devices:
            os.environ[DEVICE] = devices[0]
        self._pool: ProcessPoolExecutor | None = None
        self._pool_size = 0

    def has_gpus(self) -> bool:
        return self._num_gpus() > 0

    def _num_gpus(self) -> int:
        return sum(name != "cpu" for name in self._devices) if self._devices else machine_gpus()

    def processes(self, runs_network: bool) -> int:
        """Number of processes that work is spread over."""
        if self.is_stated or not runs_network or not (num_gpus := self._num_gpus()):
            return self.workers
        return min(self.workers, PROCESSES_A_GPU * num_gpus)

    def map(self, work: Callable[[T], R], tasks: Sequence[T], runs_network: bool = False) -> Iterator[tuple[int, R]]:
        size = self.processes(runs_network)
        if size == 1:
            for index, task in enumerate(tasks):
                yield index, work(task)
            release_gpu_memory()
            return
        try:
            pool = self._start(size)
            waiting = {pool.submit(work, task): index for index, task in enumerate(tasks)}
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=lambda f: waiting[f]):
                    yield waiting.pop(future), future.result()
            if runs_network and self.has_gpus():
                self._stop()  # the models of idle workers would stay in the memory of GPUs that a training needs
        except BrokenProcessPool:
            self._stop()
            raise M2raapError(
                "a worker process was killed, often because memory ran out; run the same command again: it resumes. "
                "Fewer --workers need less memory"
            ) from None

    def pool(self) -> ProcessPoolExecutor:
        """The processes, started where they are not, for work that is submitted task by task and runs no network."""
        return self._start(self.workers)

    def _start(self, size: int) -> ProcessPoolExecutor:
        if self._pool_size != size:
            self._stop()
        if self._pool is None:
            import multiprocessing

            # The libraries read these variables when they are imported, so they are set before the workers start. And a
            # worker must not import modules from the folder in which the command was given.
            variables = (*THREAD_VARIABLES, SAFE_PATH)
            saved = {name: os.environ.get(name) for name in variables}
            os.environ.update({name: "1" for name in variables})
            context = multiprocessing.get_context("spawn")
            places = context.SimpleQueue()
            for index in range(size):
                places.put((f"{index}/{size}", self._devices[index % len(self._devices)] if self._devices else None))
            self._pool, self._pool_size = ProcessPoolExecutor(size, context, _begin_worker, (os.getpid(), places)), size
            try:
                with _interrupts_held():
                    # A pool starts a process for a task only where no process is free, so none is until all have started.
                    started = [self._pool.submit(_await_the_others) for _ in range(size)]
                for future in started:
                    future.result()
            finally:
                for name, value in saved.items():
                    if value is None:
                        os.environ.pop(name)
                    else:
                        os.environ[name] = value
        return self._pool

    def close(self) -> None:
        self._stop()
        if self._sets_device and self._before is None:
            os.environ.pop(DEVICE, None)
        elif self._sets_device and self._before is not None:
            os.environ[DEVICE] = self._before

    def _stop(self) -> None:
        if self._pool is not None:
            # The futures are not cancelled first: the pool's own thread fails on cancelled futures when its processes end.
            for process in list((getattr(self._pool, "_processes", None) or {}).values()):
                process.terminate()
            self._pool.shutdown(wait=False)
            self._pool, self._pool_size = None, 0


# On one GPU one process reads and decodes while the other computes.
PROCESSES_A_GPU = 2
SAFE_PATH = "PYTHONSAFEPATH"  # 1: Python imports nothing from the folder in which it is started
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def map_networks(engine: Engine, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
    """As Engine.map, for work that runs a network with all threads of its process: on GPUs by the workers of the engine.

    On the CPU this process does it all: the last bits of a vector depend on the number of threads, and a worker has one. Where
    this process has one, too (OMP_NUM_THREADS=1), the workers make the same bytes, and do it where their number is stated: each
    has to load torch and the model, which takes longer than embedding a hundred clips.
    """
    if engine.has_gpus() or (torch_threads() == 1 and engine.is_stated):
        return engine.map(work, tasks, True)
    return ((index, work(task)) for index, task in enumerate(tasks))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A block in which Ctrl-C waits, in processes that it starts also afterwards: they would print a traceback each if it came
    while they import their modules."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_places: Any = None  # of a worker: the queue of the places that no process has taken yet


def _await_the_others() -> None:
    while not _places.empty():
        time.sleep(0.005)


def _begin_worker(parent: int, places: Any) -> None:
    global _places
    _places = places
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the pool
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.environ[WORKER], stated = places.get()
    if stated is not None:
        os.environ[DEVICE] = stated
    exit_with_parent(parent)


def exit_with_parent(parent: int) -> None:
    """From now on this process ends within half a second of its parent, whatever it does then: a parent that is killed with -9
    ends no child, and an orphan would go on with its work or wait for ever. `parent`: process id."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    before = threading.stack_size(256 * 1024)  # not the usual 8 MiB, because a decoder's memory is limited
    threading.Thread(target=watch, daemon=True).start()
    threading.stack_size(before)


def device() -> str:
    """The torch device on which this process runs networks: the one that `--devices` names for it (M2RAAP_DEVICE), else a GPU
    where torch can use one, else the CPU. Workers take the GPUs of the machine in turn.

    Raises UsageError where M2RAAP_DEVICE is no device, or a GPU where torch can use none.
    """
    if stated := os.environ.get(DEVICE):
        if not re.fullmatch(r"cpu|cuda(:\d+)?", stated):
            raise UsageError(f"{DEVICE}={stated}: expected cpu, cuda or cuda:N")
        if stated != "cpu" and not machine_gpus():
            raise UsageError(f"{DEVICE}={stated}: torch can use no GPU on this machine; set it to cpu, or leave it out")
        return stated
    if not (num_gpus := machine_gpus()):
        return "cpu"
    worker = os.environ.get(WORKER)
    return f"cuda:{int(worker.partition('/')[0]) % num_gpus}" if worker else "cuda"


@lru_cache(maxsize=1)
def machine_gpus() -> int:
    """Number of GPUs of this machine that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def describe_device() -> str:
    """`device()` as a reader knows it: cpu, or with the name of the GPU."""
    name = device()
    if name == "cpu":
        return name
    import torch

    return f"{name} ({torch.cuda.get_device_name(name)})"


def release_gpu_memory() -> None:
    """Returns the GPU memory that torch keeps for later tensors of this process, and that others may need."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def decoder_threads() -> int:
    """Number of threads that decode ahead while the device of this process computes; 0 on the CPU, where decoding and the
    network would wait for the same cores."""
    if device() == "cpu":
        return 0
    return max(2, available_cores() // int(os.environ.get(WORKER, "0/1").partition("/")[2]))
