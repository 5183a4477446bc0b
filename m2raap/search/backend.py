"""The interface through which the server searches an index. Hits and facts are plain dicts that can be written as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from m2raap.core.errors import M2raapError

Hit = dict[str, Any]
HAS_TAG_P = 0.5  # probability from which a clip has a tag, where the user gives no other
MOST_FACETS = 20


class NotThere(M2raapError):
    """A clip, frame or video that the index does not hold, or whose file has been moved or deleted."""


@dataclass(frozen=True)
class ClipFilter:
    """Which clips may be hits. A clip of unknown length is left out where `min_s` or `max_s` is given.

    `tags`: a hit has all of them, each with a probability of at least `tag_p`.
    """

    source: str | None = None
    min_s: float | None = None
    max_s: float | None = None
    tags: tuple[str, ...] = ()
    tag_p: float = HAS_TAG_P


NO_FILTER = ClipFilter()


class Backend(Protocol):
    """Safe for several threads. An invalid query raises M2raapError with a sentence for the user; `like`, `jpegs` and
    `video` raise NotThere."""

    def about(self) -> dict[str, Any]: ...

    def by_tags(self, top: int, clip_filter: ClipFilter) -> list[Hit]: ...

    def facets(self, hits: list[Hit], clip_filter: ClipFilter) -> list[dict[str, Any]]: ...

    def by_text(self, query: str, top: int, clip_filter: ClipFilter) -> list[Hit]: ...

    def by_picture(self, data: bytes, name: str, top: int, clip_filter: ClipFilter) -> list[Hit]: ...

    def like(self, clip_id: str, top: int, clip_filter: ClipFilter) -> list[Hit]: ...

    def jpegs(self, clip_id: str) -> list[bytes]: ...

    def video(self, clip_id: str) -> Path: ...
