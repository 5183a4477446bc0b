"""The engine for more than one machine: the same `part -> part` functions as Ray tasks.

The corpus and the stage folders lie on a file system that all machines share; a task carries paths and settings, never
pictures. The bytes of a part do not depend on the machine that computes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from m2raap.core.engine import DEVICE, SAFE_PATH, THREAD_VARIABLES, available_cores
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.extension import ALLOWED_FROM

T = TypeVar("T")
R = TypeVar("R")
_MAX_RETRIES = 3  # of a task whose machine was lost


class RayEngine:
    """Joins the cluster of RAY_ADDRESS, or starts a Ray of `workers` CPUs on this machine.

    Work that runs a network asks Ray for a GPU where the cluster has some, or where `devices` names any: of GPUs only their
    number counts, not the names. With the device cpu it asks for none.
    Raises UsageError where Ray is not installed, M2raapError where its cluster cannot be reached.
    """

    is_stated = True

    def __init__(self, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise UsageError("--engine ray: Ray is not installed; pip install 'm2raap[ray]'") from None
        self._ray = ray
        address = os.environ.get("RAY_ADDRESS")
        devices = list(devices) or ([stated] if (stated := os.environ.get(DEVICE)) else [])
        gpus = [name for name in devices if name != "cpu"]
        local: dict[str, Any] = {}
        if not address:
            local = {"num_cpus": workers or available_cores(), "num_gpus": len(gpus) if devices else None}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends no statistics over the network
        os.environ[SAFE_PATH] = "1"
        variables: dict[str, str] = dict.fromkeys((*THREAD_VARIABLES, SAFE_PATH), "1")
        if code_from := os.environ.get(ALLOWED_FROM):
            variables[ALLOWED_FROM] = code_from
        # Ray workers import modules from the folder in which Ray was started, so it must not be one with files of others.
        started_in = os.getcwd()
        try:
            os.chdir("/")
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                runtime_env={"env_vars": variables},
                **local,
            )
        except ConnectionError as error:
            raise M2raapError(f"--engine ray: no cluster answers at RAY_ADDRESS={address}: {error}") from None
        finally:
            os.chdir(started_in)
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._has_gpus = bool(gpus) if devices else ray.cluster_resources().get("GPU", 0) > 0

    def has_gpus(self) -> bool:
        return self._has_gpus

    def map(self, work: Callable[[T], R], tasks: Sequence[T], runs_network: bool = False) -> Iterator[tuple[int, R]]:
        """As Engine.map. At most two tasks a worker are queued, so that the queue of a large corpus stays short."""
        ray: Any = self._ray
        on_gpu = runs_network and self._has_gpus
        remote = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=_MAX_RETRIES)(_run_task)
        left = iter(enumerate(tasks))
        waiting: dict[Any, int] = {}
        while True:
            while len(waiting) < 2 * self.workers and (item := next(left, None)) is not None:
                index, task = item
                waiting[remote.remote(os.getcwd(), on_gpu, work, task)] = index
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
                        "a Ray worker was killed, often because memory ran out; run the same command again: it resumes. "
                        "Fewer --workers need less memory"
                    ) from None

    def close(self) -> None:
        self._ray.shutdown()


def _run_task(folder: str, on_gpu: bool, work: Callable[[T], R], task: T) -> R:
    """Runs a task in a Ray worker. `folder`: where the command was given, to which the paths of the task are relative."""
    os.chdir(folder)
    # Ray shows a task no other GPU than the one that it reserved for it.
    os.environ[DEVICE] = "cuda:0" if on_gpu else "cpu"
    return work(task)
