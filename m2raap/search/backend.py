"""What the server asks of a search. Hits and facts are plain dicts, ready to be JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from m2raap.core.errors import M2raapError

Hit = dict[str, Any]


class NotThere(M2raapError):
    """A clip, frame or video that the index does not hold, or that is no longer where it was."""


@dataclass(frozen=True)
class Only:
    """Which clips may be hits. A clip of unknown length is left out where a length is asked for."""

    source: str | None = None
    min_s: float | None = None
    max_s: float | None = None


EVERYTHING = Only()


class Backend(Protocol):
    """Safe for several threads. Bad queries raise M2raapError with a sentence for the user; `like`, `jpegs` and
    `video` raise NotThere."""

    def about(self) -> dict[str, Any]: ...

    def by_text(self, query: str, top: int, only: Only) -> list[Hit]: ...

    def by_picture(self, data: bytes, name: str, top: int, only: Only) -> list[Hit]: ...

    def like(self, clip_id: str, top: int, only: Only) -> list[Hit]: ...

    def jpegs(self, clip_id: str) -> list[bytes]: ...

    def video(self, clip_id: str) -> Path: ...
