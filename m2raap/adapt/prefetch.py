"""Reads the inputs of the next steps while the model learns from the current ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Reads what has the numbers 1, 2, ... `last` ahead, `depth` of them at a time, each in a thread."""

    def __init__(self, read: Callable[[int], T], last: int, depth: int = 1) -> None:
        self._read, self._last, self._depth = read, last, depth
        self._pool = ThreadPoolExecutor(depth)
        self._pending: dict[int, Future[T]] = {}
        self.data_wait_s = 0.0

    def get(self, number: int) -> T:
        """What has this number. Adds the seconds spent waiting for it to `data_wait_s`, and starts to read those after it."""
        started = time.perf_counter()
        for ahead in range(number, min(number + self._depth, self._last) + 1):
            if ahead not in self._pending:
                self._pending[ahead] = self._pool.submit(self._read, ahead)
        try:
            return self._pending.pop(number).result()
        finally:
            self.data_wait_s += time.perf_counter() - started

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
