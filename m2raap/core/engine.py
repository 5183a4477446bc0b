"""Engines map a pure function over parts. `local` is a pool of processes that lives as long as the command.

Every worker computes with one thread, so that the bytes of the result do not depend on the number of workers.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from m2raap.core.errors import M2raapError

T = TypeVar("T")
R = TypeVar("R")


class Engine(Protocol):
    """Runs `work` on every task, in any order, and yields (task index, result) as each finishes."""

    workers: int

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]: ...

    def close(self) -> None: ...


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_threads(processes: int = 1) -> int:
    """Number of torch threads of this process: OMP_NUM_THREADS where it is set, else the cores divided by `processes`."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) else max(1, available_cores() // processes)


class LocalEngine:
    """Processes of this machine; with one worker the work is done in this process."""

    def __init__(self, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        self.workers = workers or max(1, min(available_cores(), len(devices) or available_cores()))
        self._devices = list(devices)
        self._pool: ProcessPoolExecutor | None = None

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        if self.workers == 1:
            if self._devices:
                os.environ[DEVICE] = self._devices[0]
            for index, task in enumerate(tasks):
                yield index, work(task)
            return
        try:
            pool = self._start()
            waiting = {pool.submit(work, task): index for index, task in enumerate(tasks)}
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=lambda f: waiting[f]):
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            self.close()
            raise M2raapError(
                "a worker process was killed, often because memory ran out; run the same command again: it resumes. "
                "Fewer --workers need less memory"
            ) from None

    def pool(self) -> ProcessPoolExecutor:
        """The processes, started where they are not, for work that is submitted task by task."""
        return self._start()

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing

            # The libraries read these variables when they are imported, so they are set before the workers start. And a
            # worker must not import modules from the folder in which the command was given.
            variables = (*THREAD_VARIABLES, SAFE_PATH)
            saved = {name: os.environ.get(name) for name in variables}
            os.environ.update({name: "1" for name in variables})
            context = multiprocessing.get_context("spawn")
            devices = context.SimpleQueue()
            for index in range(self.workers):
                devices.put(self._devices[index % len(self._devices)] if self._devices else "cpu")
            self._pool = ProcessPoolExecutor(self.workers, context, _begin_worker, (os.getpid(), devices))
            try:
                with _interrupts_held():
                    started = [self._pool.submit(time.sleep, 0.05) for _ in range(self.workers)]
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
        if self._pool is not None:
            # The futures are not cancelled first: the pool's own thread fails on cancelled futures when its processes end.
            for process in list((getattr(self._pool, "_processes", None) or {}).values()):
                process.terminate()
            self._pool.shutdown(wait=False)
            self._pool = None


DEVICE = "M2RAAP_DEVICE"
SAFE_PATH = "PYTHONSAFEPATH"  # 1: Python imports nothing from the folder in which it is started
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A block in which Ctrl-C waits, in processes that it starts also afterwards: they would print a traceback each if it came
    while they import their modules."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int, devices: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the pool
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.environ[DEVICE] = devices.get()
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
    """The torch device of this process: the one that `--devices` names for it, else the CPU."""
    return os.environ.get(DEVICE, "cpu")
