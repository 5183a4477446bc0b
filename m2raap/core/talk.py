"""Messages and progress of a running command, on stderr: bars on a terminal, else a line every few seconds.

Names, captions and answers of models come from others, so control characters are replaced in all text that a terminal shows.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

_SECONDS_BETWEEN_LINES = 5.0
_JOINERS = "\u200c\u200d"  # zero-width; Persian words and combined emoji need them
_quiet = False


def plain(text: str) -> str:
    """The text with U+FFFD in place of each character that controls a terminal, or that hides or reorders the text beside it.

    These are control characters, escapes, direction marks and single surrogates. Line breaks, tabs and visible characters stay.
    """
    return text if text.isprintable() else "".join(c if _is_plain(c) else "\ufffd" for c in text)


def one_line(text: str) -> str:
    """As `plain`, for a name or a caption within a line: line breaks and tabs become U+FFFD, too."""
    return plain(text).replace("\n", "\ufffd").replace("\t", "\ufffd")


def _is_plain(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or char in _JOINERS or unicodedata.category(char) == "Zs"


def open_closed_streams() -> None:
    """Opens stdin, stdout and stderr on the null device where they are closed, as some schedulers start programs.

    Else print would fail, and a file that is opened later would get the stream's number and what child processes print.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def on_terminal(stream: TextIO) -> TextIO:
    """The stream for results: a terminal is given only `plain` text. Text for a pipe or file is data and stays unchanged."""
    if not stream.isatty():
        return stream
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # not every terminal can show U+FFFD and all scripts
    return cast(TextIO, _Terminal(stream))


class _Terminal:
    """Wraps a terminal's stream, so that all written text is `plain`; other attributes are those of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = (
            stream  # rich writes to the attribute of this name, with its colours; its cells are plain
        )

    def write(self, text: str) -> int:
        # In JSON the characters are escaped instead, so that it can be read back unchanged; also in text that looks like JSON.
        return self.rich_proxied_file.write(_escaped(text) if text.startswith(("{", "[")) else plain(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click writes to it directly for some encodings
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)


def _escaped(text: str) -> str:
    return "".join(c if _is_plain(c) else json.dumps(c)[1:-1] for c in text)


def write_trace(trace: str) -> str:
    """Writes the traceback of a bug to a new file in the temporary folder; returns the file's path."""
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", prefix="m2raap-error-", suffix=".log", delete=False, errors="replace"
    ) as file:
        file.write(trace)
    return file.name


def title(folder: Path, stage: str) -> str:
    """The title of a stage's messages: with the folder above it, which in a run is the arm or the benchmark."""
    return f"{folder.parent.name}/{stage}" if folder.parent.name else stage


class Advance(Protocol):
    """Is called with the amount done since the last call and, optionally, a short remark."""

    def __call__(self, amount: int = 1, remark: str = "") -> None: ...


def be_quiet(quiet: bool) -> None:
    global _quiet
    _quiet = quiet


def log(message: str) -> None:
    """Prints a message on stderr, unless the command is quiet. Results go to stdout and not through this function."""
    if not _quiet:
        print(plain(message), file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Shows progress up to `total`: a bar on a terminal, else a line every few seconds and one at the end."""
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
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    title_column, remark_column = (
        TextColumn(text, markup=False) for text in ("{task.description:<26}", "{task.fields[remark]}")
    )
    columns = (
        title_column, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), remark_column,
    )  # fmt: skip
    # Results go to stdout directly, never through the console of the bar.
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
    ended = threading.Event()

    def advance(amount: int = 1, remark: str = "") -> None:
        nonlocal last, done
        done += amount
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            last = now
            left = (now - start) / max(done, 1) * (total - done)
            log(f"{title}: {done}/{total}, about {left:.0f} s left{', ' + remark if remark else ''}")

    def beat() -> None:
        """A part may take minutes in which nothing advances: then a line tells that the command is at work."""
        nonlocal last
        while not ended.wait(_SECONDS_BETWEEN_LINES):
            if (now := time.monotonic()) - last >= _SECONDS_BETWEEN_LINES:
                last = now
                log(f"{title}: {done}/{total}, {now - start:.0f} s so far")

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield advance
    finally:
        ended.set()
        beating.join()
    log(f"{title}: {done}/{total} in {time.monotonic() - start:.1f} s")


class Phases:
    """The progress of work in several phases, one bar for each: it is called with (phase, amount done, total)."""

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
    """No messages are printed within the block."""
    before = _quiet
    be_quiet(True)
    try:
        yield
    finally:
        be_quiet(before)
