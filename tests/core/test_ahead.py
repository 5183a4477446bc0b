"""Results in order, computed ahead in threads, and errors where their result would be."""

from __future__ import annotations

import threading

import pytest

from m2raap.core.ahead import ahead


@pytest.mark.parametrize("threads", [0, 3])
def test_results_keep_their_order(threads: int):
    assert list(ahead(lambda n: n * n, range(20), threads, 4)) == [n * n for n in range(20)]
    assert list(ahead(lambda n: n, [], threads, 4)) == []


def test_the_next_are_computed_before_they_are_needed_and_no_more():
    started: list[int] = []
    third = threading.Event()

    def work(n: int) -> int:
        started.append(n)
        if len(started) == 3:
            third.set()
        return n

    results = ahead(work, range(100), 1, 2)
    assert next(results) == 0 and third.wait(5)
    results.close()  # type: ignore[attr-defined]
    assert started == [0, 1, 2]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_in_its_place(threads: int):
    results = ahead(lambda n: 6 // (n - 2), range(5), threads, 5)
    assert [next(results), next(results)] == [-3, -6]
    with pytest.raises(ZeroDivisionError):
        next(results)
