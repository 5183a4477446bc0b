"""Which files of a folder are opened or read, by any process: inotify through the C library. Linux only."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

_IN_ACCESS, _IN_OPEN = 0x1, 0x20


class Watch:
    """Watches from its creation on. `touched()` returns the files opened or read since the call before."""

    supported = sys.platform == "linux"

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._handle >= 0, os.strerror(ctypes.get_errno())
        # The files are watched, not the folder, which may be opened to list it.
        self._names: dict[int, str] = {}
        for path in sorted(folder.iterdir()):
            number = libc.inotify_add_watch(self._handle, os.fsencode(path), _IN_ACCESS | _IN_OPEN)
            assert number >= 0, os.strerror(ctypes.get_errno())
            self._names[number] = path.name

    def touched(self) -> set[str]:
        found: set[str] = set()
        while True:
            try:
                data = os.read(self._handle, 65536)
            except BlockingIOError:
                return found
            while data:
                number, _, _, length = struct.unpack("iIII", data[:16])
                found.add(self._names[number])
                data = data[16 + length :]

    def close(self) -> None:
        os.close(self._handle)
