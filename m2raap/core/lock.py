"""One folder, one writer: the lock that a command takes on a folder before it changes anything in it.

It is the kernel's lock (flock) on the file `.m2raap.lock` in the folder: a paused process keeps it, and it ends with its process,
however that ends. The text in the file is for people only. The file is removed when the lock is released.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.files import as_named, write_error

FILE = ".m2raap.lock"
# Folders that a caller of the running function has locked: functions that it calls may write into them, too.
_locked: ContextVar[tuple[Path, ...]] = ContextVar("folders that this call has locked, as they were named", default=())
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
# How long a share tries again, and the pause between: shares that begin or end hold the lock exclusively for a moment.
PATIENCE_S, PAUSE_S = 3.0, 0.02
_MAX_LOCK_BYTES = 500  # largest lock file: one line about the process that holds it
has_warned_of_no_locks = False


class Locked(M2raapError):
    """Another command is writing the folder."""


class FolderLock:
    """The lock of a folder, held from the start. Several commands may hold it at once where all of them took it `shared`."""

    def __init__(self, folder: Path, shared: bool) -> None:
        self.folder, self._path = folder, folder / FILE
        self._handle: int | None = None
        self._acquire(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def try_exclusive(self) -> bool:
        """Changes a shared lock into an exclusive one; returns False, and keeps it shared, where others share it.

        For a moment in between the lock is not held: read again what was read before.
        """
        try:
            self._acquire(fcntl.LOCK_EX)
        except Locked:
            self._acquire(fcntl.LOCK_SH)
            return False
        return True

    def wait_exclusive(self) -> None:
        """Waits until no other shares the lock, and makes it exclusive. For a moment in between it is not held."""
        self._acquire(fcntl.LOCK_EX, wait=True)

    def make_shared(self) -> None:
        """Makes the lock a shared one. For a moment in between it is not held."""
        self._acquire(fcntl.LOCK_SH)

    def release(self) -> None:
        """Releases the lock and removes its file, unless others still hold it."""
        if self._handle is None:
            return
        with suppress(OSError):
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current(self._handle):
                self._path.unlink()
        self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _acquire(self, kind: int, wait: bool = False) -> None:
        """Raises Locked. No lock is taken where the file system has no locks, or where the folder cannot be written."""
        if self._handle is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # else two that want it exclusively would wait for each other
        deadline = time.monotonic() + PATIENCE_S
        while self._handle is not None or self._open():
            assert self._handle is not None
            try:
                fcntl.flock(self._handle, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(self._handle)
                if kind == fcntl.LOCK_SH and not holder and time.monotonic() < deadline:
                    time.sleep(PAUSE_S)  # a share that ends holds it exclusively, without its name in the file
                    continue
                self._close()
                raise Locked(
                    f"{self.folder}: another m2raap{holder} is writing to this folder; run this again when it has ended"
                ) from None
            except OSError as error:
                self._close()
                if error.errno not in _NO_LOCKS:
                    raise write_error(self._path, error) from None
                self._path.unlink(missing_ok=True)
                _warn_of_no_locks(self.folder)
                return
            if self._is_current(self._handle):  # else the previous holder has removed the file meanwhile
                _write_holder(self._handle, kind == fcntl.LOCK_EX)
                return
            self._close()

    def _open(self) -> bool:
        """False where the folder cannot be written: then this process cannot be a second writer, and needs no lock."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._handle = os.open(self._path, flags, 0o666)
        except FileNotFoundError:  # another writer has just renamed the whole folder
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._open()
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise write_error(self._path, error) from None
            if not self._path.exists() or not os.access(self.folder, os.W_OK):
                return False
            try:  # another user's file in a shared folder: opening it for reading is enough to lock it
                self._handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError as second:
                raise write_error(self._path, second) from None
        info = os.fstat(self._handle)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1 or info.st_size > _MAX_LOCK_BYTES:
            self._close()
            raise M2raapError(f"{self._path}: is not a lock file of m2raap; move it to another folder")
        return True

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.lstat(self._path))
        except OSError:
            return False


def _write_holder(handle: int, alone: bool) -> None:
    with suppress(OSError):  # such as a full disk, or another user's file: the lock itself needs no text
        os.ftruncate(handle, 0)
        if alone:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)


def _holder(handle: int) -> str:
    with suppress(OSError):
        if text := os.pread(handle, 200, 0).decode("utf-8", "replace").strip():
            return f" ({text})"
    return ""


def _warn_of_no_locks(folder: Path) -> None:
    global has_warned_of_no_locks
    if not has_warned_of_no_locks:
        talk.log(f"{folder}: this file system has no locks; make sure that no other command writes to this folder")
    has_warned_of_no_locks = True


@contextmanager
def locked(
    folder: Path, shared: bool = False, written: Iterable[str] | None = None, below: Path | None = None
) -> Iterator[FolderLock | None]:
    """A block that holds the lock of `folder`, which is created where it is absent: exclusively, or `shared` with other commands.

    Yields None where a caller of the block's function holds the lock already. `written`: the names in the folder that the block
    writes; None for any. `below`: the folder that the user named, where it is not this one. Raises Locked naming the process
    that holds the lock, and M2raapError where the folder cannot be written, or where one of those names, or a folder between the
    one that the user named and this one, is a link: files must not be written outside the folder. (The folder that the user
    named may itself be a link.)
    """
    absolute = as_named(folder)
    is_held = absolute.resolve() in [path.resolve() for path in _locked.get()]
    for named in (*_locked.get(), *([] if below is None else [as_named(below)])):
        _refuse_links_between(named, absolute)
    is_new = not folder.exists()
    if not is_new and not folder.is_dir():
        raise M2raapError(f"{folder}: is a file; give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None
    lock = None if is_held else FolderLock(folder, shared)
    token = _locked.set((*_locked.get(), absolute))
    try:
        for path in folder.iterdir() if written is None else [folder / name for name in written]:
            _refuse_links(path)
        yield lock
    finally:
        _locked.reset(token)
        if lock is not None:
            lock.release()
            if is_new:
                with suppress(OSError):  # not empty
                    folder.rmdir()


def _refuse_links_between(named: Path, folder: Path) -> None:
    """Raises M2raapError where `folder`, or a folder between it and `named` above it, is a link."""
    if folder.is_relative_to(named):
        for path in [folder, *folder.parents][: len(folder.parts) - len(named.parts)]:
            refuse_link(path)


def refuse_link(path: Path) -> None:
    """Raises M2raapError where a path is a link."""
    if path.is_symlink():
        raise M2raapError(
            f"{path}: is a link, so that files would be written elsewhere; replace it by a real file or folder"
        )


def _refuse_links(path: Path) -> None:
    """Raises M2raapError where a path or anything below it is a link, or no file or folder: reading a pipe may never end."""
    refuse_link(path)
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):  # regular files need no further check
                    _refuse_links(Path(entry.path))
    elif path.exists() and not path.is_file():
        raise M2raapError(f"{path}: is neither file nor folder; remove it")
