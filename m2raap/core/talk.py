"""What the program says while it works: to stderr, as bars on a terminal and as a line now and then otherwise.

Names, captions and answers of models come from strangers: what a terminal would obey is taken out of all that reaches one.
"""

from __future__ import annotations

import io
import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TextIO, cast

_SECONDS_BETWEEN_LINES = 5.0
_JOINERS = "\u200c\u200d"  # without them Persian words and families of emoji fall apart
_quiet = False


def plain(text: str) -> str:
    """The text with U+FFFD for each character that a terminal would obey, or that hides or turns what stands beside it.

    Line breaks, tabs and all that can be seen stay; controls, escapes, marks of direction and halves of characters go.
    """
    return text if text.isprintable() else "".join(c if _is_plain(c) else "\ufffd" for c in text)


def one_line(text: str) -> str:
    """`plain`, for a name or a caption within a line: line breaks and tabs become U+FFFD, too."""
    return plain(text).replace("\n", "\ufffd").replace("\t", "\ufffd")


def _is_plain(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or char in _JOINERS or unicodedata.category(char) == "Zs"


def on_terminal(stream: TextIO) -> TextIO:
    """The stream for results: on a terminal only `plain` text passes. What is piped is data and passes as it is."""
    if not stream.isatty():
        return stream
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # not every terminal has U+FFFD, or all of the world's scripts
    return cast(TextIO, _Terminal(stream))


class _Terminal:
    """A terminal's stream; what is not about writing text is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # rich looks for this name: its colours are ours, its cells are plain already

    def write(self, text: str) -> int:
        # JSON has escapes of its own, with which it can be read back whole. To call other text JSON does no harm.
        return self.rich_proxied_file.write(_escaped(text) if text.startswith(("{", "[")) else plain(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click would write past us where the encoding is not to its liking
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)


def _escaped(text: str) -> str:
    return "".join(c if _is_plain(c) else json.dumps(c)[1:-1] for c in text)


class Advance(Protocol):
    """Called with the amount done since the last call and, if there is one, a short remark."""

    def __call__(self, amount: int = 1, remark: str = "") -> None: ...


def be_quiet(quiet: bool) -> None:
    global _quiet
    _quiet = quiet


def log(message: str) -> None:
    """One line of talk; results never come here, they go to stdout."""
    if not _quiet:
        print(plain(message), file=sys.stderr, flush=True)


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

    title_column, remark_column = (
        TextColumn(text, markup=False) for text in ("{task.description:<26}", "{task.fields[remark]}")
    )
    columns = (title_column, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), remark_column)
    # Results go to stdout, bar or no bar, and not by way of the bar's console.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(one_line(title), total=total, remark="")

        def advance(amount: int = 1, remark: str = "") -> None:
            if remark:
                bar.update(task, remark=one_line(remark))
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
            log(f"{title}: {done}/{total}, about {left:.0f} s left{', ' + remark if remark else ''}")

    yield advance
    log(f"{title}: {done}/{total} in {time.monotonic() - start:.1f} s")


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


@contextmanager
def quietly() -> Iterator[None]:
    """Nothing is said within the block."""
    before = _quiet
    be_quiet(True)
    try:
        yield
    finally:
        be_quiet(before)
