"""One folder, one writer: the lock that a command takes on a folder before it changes anything in it.

It is the kernel's lock on the file `.lock` in the folder, so that it lasts while its process is paused and ends with that
process, however it ends. What the file says is for people only. The file goes when the lock is given back.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_error

FILE = ".lock"
# Folders that the running call has locked already: what it calls writes into them as the same writer.
_locked: ContextVar[frozenset[Path]] = ContextVar("folders that this call has locked", default=frozenset())
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class FolderLock:
    """A lock that is held. `folder` may be locked by several at once where all of them asked for it `shared`."""

    def __init__(self, folder: Path, shared: bool) -> None:
        self.folder, self._path = folder, folder / FILE
        self._handle = self._acquire(fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait=False)

    def make_exclusive(self, wait: bool) -> None:
        """From a shared lock to one alone. For a moment in between it is nobody's: look again at what was read before.

        Raises M2raapError where others hold it and `wait` is False; nothing is locked then.
        """
        self._handle = self._acquire(fcntl.LOCK_EX, wait, self._handle)

    def make_shared(self) -> None:
        """Lets others in that asked for it shared. For a moment in between it is nobody's."""
        self._handle = self._acquire(fcntl.LOCK_SH, False, self._handle)

    def release(self) -> None:
        """Gives the lock back and removes its file, unless others still hold it."""
        if self._handle is None:
            return
        with suppress(OSError):
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current(self._handle):
                self._path.unlink()
        os.close(self._handle)
        self._handle = None

    def _acquire(self, kind: int, wait: bool, handle: int | None = None) -> int | None:
        """An open file whose lock is held; None on a file system that knows no locks or is not to be written."""
        while True:
            if handle is None:
                try:
                    handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                except FileNotFoundError:  # a whole folder that another writer has just moved to its place
                    self.folder.mkdir(parents=True, exist_ok=True)
                    continue
                except OSError as error:
                    if error.errno in _READ_ONLY:  # whoever cannot write is no second writer; a finished folder is read
                        return None
                    raise write_error(self._path, error) from None
            try:
                fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(handle)
                os.close(handle)
                self._handle = None
                raise M2raapError(
                    f"{self.folder}: another m2raap{holder} is writing it; run this again when that one has ended"
                ) from None
            except OSError as error:
                os.close(handle)
                self._handle = None
                if error.errno in _NO_LOCKS:
                    self._path.unlink(missing_ok=True)
                    talk.say(f"{self.folder}: this file system knows no locks; let no other command write there")
                    return None
                raise write_error(self._path, error) from None
            if self._is_current(handle):  # else the one before us removed the file as it gave the lock back
                if kind == fcntl.LOCK_EX:
                    _write_holder(handle)
                return handle
            os.close(handle)
            handle = None

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.lstat(self._path))
        except OSError:
            return False


def _write_holder(handle: int) -> None:
    with suppress(OSError):  # such as a full disk: the lock is held all the same
        os.ftruncate(handle, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)


def _holder(handle: int) -> str:
    with suppress(OSError):
        if text := os.pread(handle, 200, 0).decode("utf-8", "replace").strip():
            return f" ({text})"
    return ""


@contextmanager
def locked(folder: Path, shared: bool = False, written: Iterable[str] | None = None) -> Iterator[FolderLock | None]:
    """`folder`, made if need be, for this writer alone, or for all that ask for it `shared`. None: the caller's caller has it.

    `written`: the names in it that will be written; None for any. Raises M2raapError naming the process that has it, where
    it cannot be written, and for links among those names: what is written into a folder must not land elsewhere because of
    what lay there. (The folder itself may be a link.)
    """
    real = folder.resolve()
    is_mine = real in _locked.get()
    if folder.exists() and not folder.is_dir():
        raise M2raapError(f"{folder}: is a file; give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None
    lock = None if is_mine else FolderLock(folder, shared)
    token = _locked.set(_locked.get() | {real})
    try:
        for path in folder.iterdir() if written is None else [folder / name for name in written]:
            _refuse_links(path)
        yield lock
    finally:
        _locked.reset(token)
        if lock is not None:
            lock.release()
            with suppress(OSError):  # a folder that is empty now was made above, for nothing
                folder.rmdir()


def _refuse_links(path: Path) -> None:
    """Raises M2raapError where a path or anything below it is a link."""
    below = (os.path.join(parent, name) for parent, folders, files in os.walk(path) for name in (*folders, *files))
    for name in itertools.chain([str(path)], below):
        if os.path.islink(name):
            raise M2raapError(
                f"{name}: is a link, and what is written there would land elsewhere; put the real file or folder there"
            )
