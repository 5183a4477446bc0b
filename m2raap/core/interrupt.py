"""Signals that end a command: Ctrl-C, and those that a scheduler sends some time before it kills (SIGTERM, SIGUSR1).

All end a command as Ctrl-C does: finished parts are kept and the same command resumes. Work that keeps nothing by itself asks
`StopRequest` between two steps and saves before it ends.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_kept: list[str] = []


def note_kept(sentence: str) -> None:
    """Adds a sentence on what an interrupted command has kept; the command line prints it when the command ends."""
    _kept.append(sentence)


def take_notes() -> str:
    """The sentences of `note_kept`, which are then forgotten."""
    text = "; ".join(_kept)
    _kept.clear()
    return text


def end_as_ctrl_c() -> None:
    """From now on SIGTERM and SIGUSR1 interrupt this process as Ctrl-C does."""
    for number in SIGNALS[1:]:
        signal.signal(number, _interrupt)


def ignore_all() -> None:
    """From now on none of the signals interrupts this process, which cleans up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Within the block the first signal only sets `requested`; a second one interrupts at once.

    Outside of the main thread signals cannot be handled, and the block changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._before = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_main:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
