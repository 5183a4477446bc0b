"""Digests of the content of video files, cached by size and modification time, so that a file is read once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from m2raap.core.files import open_without_links, read_json, write_json


class VideoDigests:
    """Remembers (size, mtime) -> digest in a cache file of the stage folder, outside every signed digest."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[int | str]] = read_json(cache) if cache.exists() else {}
        self._changed = False

    def of(self, video: str, path: Path | None, max_bytes: int) -> str:
        """The digest of the bytes at `path`, a real path, or 'absent', also for a file that cannot be read: `score` reports the
        reason. A file of more than `max_bytes`, which the decoder refuses, is not read; its size stands for its content."""
        if path is None:
            return "absent"
        try:
            with os.fdopen(open_without_links(path), "rb") as source:
                info = os.fstat(source.fileno())
                if not stat.S_ISREG(info.st_mode):
                    return "absent"
                if info.st_size > max_bytes:
                    return f"too_large:{info.st_size}"
                known = self._known.get(video)
                if known and known[:2] == [info.st_size, info.st_mtime_ns]:
                    return str(known[2])
                value = hashlib.file_digest(source, "blake2b").hexdigest()[:32]
        except OSError:
            return "absent"
        self._known[video] = [info.st_size, info.st_mtime_ns, value]
        self._changed = True
        return value

    def of_url(self, url: str, ask: Callable[[], str]) -> str:
        """The digest that `ask` returns for an address; called once for each stage folder, unless it returns 'absent'."""
        if (known := self._known.get(url)) is not None:
            return str(known[2])
        value = ask()
        if value != "absent":
            self._known[url] = [-1, -1, value]
            self._changed = True
        return value

    def save(self) -> None:
        if self._changed:
            write_json(self._cache, self._known)
