"""What the program says while it works: to stderr, as bars on a terminal and as a line now and then otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

_SECONDS_BETWEEN_LINES = 5.0
_quiet = False


class Advance(Protocol):
    """Called with the amount done since the last call and, if there is one, a short remark."""

    def __call__(self, amount: int = 1, remark: str = "") -> None: ...


def be_quiet(quiet: bool) -> None:
    global _quiet
    _quiet = quiet


def say(message: str) -> None:
    """One line of talk; results never come here, they go to stdout."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar on a terminal, else a line every few seconds and one at the end."""
    if _quiet or total <= 0:
        yield lambda amount=1, remark="": None
    elif sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        with _lines(title, total) as advance:
            yield advance


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[remark]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, remark="")

        def advance(amount: int = 1, remark: str = "") -> None:
            if remark:
                bar.update(task, remark=remark)
            bar.advance(task, amount)

        yield advance


@contextmanager
def _lines(title: str, total: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def advance(amount: int = 1, remark: str = "") -> None:
        nonlocal last, done
        done += amount
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            last = now
            left = (now - start) / max(done, 1) * (total - done)
            say(f"{title}: {done}/{total}, about {left:.0f} s left{', ' + remark if remark else ''}")

    yield advance
    say(f"{title}: {done}/{total} in {time.monotonic() - start:.1f} s")


class Phases:
    """A callable for work that reports (what, done, total) and goes through several phases: one bar for each."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._stack = ExitStack()
        self._advance: Advance | None = None
        self._total = self._done = 0

    def __enter__(self) -> Phases:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._advance is None or total != self._total or done < self._done:
            self._stack.close()
            self._advance = self._stack.enter_context(progress(self._title, total))
            self._total, self._done = total, 0
        self._advance(done - self._done, what)
        self._done = done
