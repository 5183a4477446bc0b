"""Work that runs ahead of the one who needs its results: decoding in threads while a device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], threads: int, num_ahead: int) -> Generator[R, None, None]:
    """`work` of every item, in their order. `threads` compute at most `num_ahead` results before they are needed; with 0 threads
    each is computed when it is needed. An exception of `work` is raised where its result would be."""
    if not threads:
        yield from map(work, items)
        return
    left = iter(items)
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        waiting.extend(pool.submit(work, item) for item in islice(left, num_ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(left, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
