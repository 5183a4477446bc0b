"""One folder, one writer: the lock that a command takes on a folder before it changes anything in it.

It is the kernel's lock on the file `.m2raap.lock` in the folder, so that it lasts while its process is paused and ends with that
process, however it ends. What the file says is for people only. The file goes when the lock is given back.
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
# Folders that the running call has locked already: what it calls writes into them as the same writer.
_locked: ContextVar[tuple[Path, ...]] = ContextVar("folders that this call has locked, as they were named", default=())
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
# How long, and how often, a share tries again: shares that begin or end hold the lock alone for a moment.
PATIENCE_S, PAUSE_S = 3.0, 0.02
_MAX_LOCK_BYTES = 500  # largest lock file: one line about the process that holds it
has_warned_of_no_locks = False


class Locked(M2raapError):
    """Another command is writing the folder."""


class FolderLock:
    """A lock that is held. `folder` may be locked by several at once where all of them asked for it `shared`."""

    def __init__(self, folder: Path, shared: bool) -> None:
        self.folder, self._path = folder, folder / FILE
        self._handle: int | None = None
        self._acquire(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def try_exclusive(self) -> bool:
        """From shared to alone; False where others share it, and it stays shared then.

        For a moment in between it is nobody's: look again at what was read before.
        """
        try:
            self._acquire(fcntl.LOCK_EX)
        except Locked:
            self._acquire(fcntl.LOCK_SH)
            return False
        return True

    def wait_exclusive(self) -> None:
        """From shared to alone, as soon as no other shares it. For a moment in between it is nobody's."""
        self._acquire(fcntl.LOCK_EX, wait=True)

    def make_shared(self) -> None:
        """Lets others in that asked for it shared. For a moment in between it is nobody's."""
        self._acquire(fcntl.LOCK_SH)

    def release(self) -> None:
        """Gives the lock back and removes its file, unless others still hold it."""
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
        """Raises Locked. Without effect where a file system knows no locks, or nothing in the folder can be written."""
        if self._handle is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # two that go from shared to alone must not wait for each other
        deadline = time.monotonic() + PATIENCE_S
        while self._handle is not None or self._open():
            assert self._handle is not None
            try:
                fcntl.flock(self._handle, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(self._handle)
                if kind == fcntl.LOCK_SH and not holder and time.monotonic() < deadline:
                    time.sleep(PAUSE_S)  # a share that ends holds it alone, without a word, to remove the file
                    continue
                self._close()
                raise Locked(
                    f"{self.folder}: another m2raap{holder} is writing it; run this again when that one has ended"
                ) from None
            except OSError as error:
                self._close()
                if error.errno not in _NO_LOCKS:
                    raise write_error(self._path, error) from None
                self._path.unlink(missing_ok=True)
                _warn_of_no_locks(self.folder)
                return
            if self._is_current(self._handle):  # else the one before us removed the file as it gave the lock back
                _write_holder(self._handle, kind == fcntl.LOCK_EX)
                return
            self._close()

    def _open(self) -> bool:
        """False where the folder cannot be written: whoever cannot write is no second writer, and a finished folder is read."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._handle = os.open(self._path, flags, 0o666)
        except FileNotFoundError:  # a whole folder that another writer has just moved to its place
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._open()
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise write_error(self._path, error) from None
            if not self._path.exists() or not os.access(self.folder, os.W_OK):
                return False
            try:  # another user's file in a folder of both: reading is enough to lock it
                self._handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError as second:
                raise write_error(self._path, second) from None
        info = os.fstat(self._handle)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1 or info.st_size > _MAX_LOCK_BYTES:
            self._close()
            raise M2raapError(f"{self._path}: is no lock of m2raap, but something of that name; move it elsewhere")
        return True

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.lstat(self._path))
        except OSError:
            return False


def _write_holder(handle: int, alone: bool) -> None:
    with suppress(OSError):  # such as a full disk, or another user's file: the lock is held all the same
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
        talk.log(f"{folder}: this file system knows no locks; let no other command write there")
    has_warned_of_no_locks = True


@contextmanager
def locked(
    folder: Path, shared: bool = False, written: Iterable[str] | None = None, below: Path | None = None
) -> Iterator[FolderLock | None]:
    """`folder`, made if need be, for this writer alone, or for all that ask for it `shared`. None: the caller's caller has it.

    `written`: the names in it that will be written; None for any. `below`: the folder that the user named, where it is not
    this one. Raises Locked naming the process that has it, M2raapError where it cannot be written, and for links among those
    names and on the way from the folder that the user named: what is written must not land elsewhere because of what lay
    there. (The folder that the user named may be a link.)
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
                with suppress(OSError):  # not empty: it was made for something
                    folder.rmdir()


def _refuse_links_between(named: Path, folder: Path) -> None:
    """Raises M2raapError where the way from a folder that was named down to another one leads through a link."""
    if folder.is_relative_to(named):
        for path in [folder, *folder.parents][: len(folder.parts) - len(named.parts)]:
            refuse_link(path)


def refuse_link(path: Path) -> None:
    """Raises M2raapError where a path is a link."""
    if path.is_symlink():
        raise M2raapError(
            f"{path}: is a link, and what is written there would land elsewhere; put the real file or folder there"
        )


def _refuse_links(path: Path) -> None:
    """Raises M2raapError where a path or anything below it is a link, or neither file nor folder: a pipe may never end."""
    refuse_link(path)
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):  # of all the files nothing more is asked
                    _refuse_links(Path(entry.path))
    elif path.exists() and not path.is_file():
        raise M2raapError(f"{path}: is neither file nor folder; it does not belong there")
