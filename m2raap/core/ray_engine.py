"""The engine for more than one machine: the same `part -> part` functions as Ray tasks.

The corpus and the stage folders lie on a file system that all machines share; a task carries paths and settings, never
pictures. Which machine a part runs on changes no byte of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from m2raap.core.engine import DEVICE, SAFE_PATH, THREAD_VARIABLES, available_cores
from m2raap.core.errors import M2raapError, UsageError

T = TypeVar("T")
R = TypeVar("R")
_TRIES_AFTER_A_LOST_MACHINE = 3


class RayEngine:
    """Joins the cluster of RAY_ADDRESS, or starts a Ray of `workers` CPUs on this machine.

    `devices` of the command line are counted, not named: every task then asks Ray for one GPU.
    Raises UsageError where Ray is not installed, M2raapError where its cluster cannot be reached.
    """

    def __init__(self, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise UsageError("--engine ray: Ray is not installed; pip install 'm2raap[ray]'") from None
        self._ray = ray
        address = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {}
        if not address:
            local = {"num_cpus": workers or available_cores(), "num_gpus": len(devices)}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        os.environ[SAFE_PATH] = "1"
        # Ray tells its workers to import from the folder in which it was started: not from one that holds strangers' files.
        started_in = os.getcwd()
        try:
            os.chdir("/")
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                runtime_env={"env_vars": dict.fromkeys((*THREAD_VARIABLES, SAFE_PATH), "1")},
                **local,
            )
        except ConnectionError as error:
            raise M2raapError(f"--engine ray: no cluster answers at RAY_ADDRESS={address}: {error}") from None
        finally:
            os.chdir(started_in)
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._gpus = 1 if devices else 0

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """At most two tasks a worker are under way, so that a corpus of a million parts is not queued at once."""
        ray: Any = self._ray
        remote = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=_TRIES_AFTER_A_LOST_MACHINE)(_run_task)
        left = iter(enumerate(tasks))
        waiting: dict[Any, int] = {}
        while True:
            while len(waiting) < 2 * self.workers and (item := next(left, None)) is not None:
                index, task = item
                waiting[remote.remote(os.getcwd(), bool(self._gpus), work, task)] = index
            if not waiting:
                return
            finished, _ = ray.wait(list(waiting), num_returns=1)
            for reference in finished:
                index = waiting.pop(reference)
                try:
                    yield index, ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, M2raapError):
                        raise error.cause from None
                    raise
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                    raise M2raapError(
                        "a Ray worker was killed (often: out of memory); run the same command again, it resumes; "
                        "fewer --workers need less memory"
                    ) from None

    def close(self) -> None:
        self._ray.shutdown()


def _run_task(folder: str, on_gpu: bool, work: Callable[[T], R], task: T) -> R:
    """In a Ray worker: paths are relative to where the command was given."""
    os.chdir(folder)
    os.environ[DEVICE] = "cuda:0" if on_gpu else "cpu"  # Ray shows a task only the GPU that is its own
    return work(task)
