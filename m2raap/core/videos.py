"""Digests of the content of video files, cached by size and modification time, so that a file is read once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.files import open_without_links, read_json, write_json
from m2raap.core.records import as_object

# Real path -> stamp and digest of the files that this process has read: the clips of one video lie in many parts, each of which
# has a cache of its own.
_hashed: dict[Path, tuple[tuple[int, ...], str]] = {}
_MAX_HASHED = 1 << 16


class VideoDigests:
    """Remembers (size, mtime) -> digest in a cache file of the stage folder, outside every signed digest."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        # Size, modification time in ns, digest; -1 for the sizes and times of addresses.
        self._known: dict[str, tuple[int, int, str]] = {}
        self._changed = False
        self._judged: dict[str, str] = {}
        if cache.exists():
            try:
                self._known = as_object(dict[str, tuple[int, int, str]], read_json(cache), cache)
            except M2raapError as error:  # a cache can always be made again
                talk.log(f"{error}: it is a cache, and is made again")

    def once(self, video: str, judge: Callable[[], str]) -> str:
        """What `judge` returns for a video, of which it is asked once: many clips may be of one video."""
        if video not in self._judged:
            self._judged[video] = judge()
        return self._judged[video]

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
                if known and known[:2] == (info.st_size, info.st_mtime_ns):
                    return known[2]
                stamp = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                hashed = _hashed.get(path)
                if hashed and hashed[0] == stamp:
                    value = hashed[1]
                else:
                    value = hashlib.file_digest(source, "blake2b").hexdigest()[:32]
                    if len(_hashed) < _MAX_HASHED:
                        _hashed[path] = (stamp, value)
        except OSError:
            return "absent"
        self._known[video] = (info.st_size, info.st_mtime_ns, value)
        self._changed = True
        return value

    def of_url(self, url: str, ask: Callable[[], str]) -> str:
        """The digest that `ask` returns for an address; called once for each stage folder, unless it returns 'absent'."""
        if (known := self._known.get(url)) is not None:
            return known[2]
        value = ask()
        if value != "absent":
            self._known[url] = (-1, -1, value)
            self._changed = True
        return value

    def save(self) -> None:
        if self._changed:
            write_json(self._cache, self._known)
