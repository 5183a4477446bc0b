"""Atomic writes (temporary file in the same folder, fsync, rename), careful reads, and digests of files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from m2raap.core.errors import M2raapError


def write_atomic(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, whole or not at all, even where the machine fails. Raises M2raapError when the disk is full."""
    with open_atomic(path) as sink:
        sink.write(data)


@contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which comes to lie at `path` when the block ends, and not at all if it fails. Raises as `write_atomic`."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A killed process with the same id may have left it, or somebody else put it there, perhaps as a link.
        temp.unlink(missing_ok=True)
        handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temp, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # such as that the folder is a file
            temp.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error) from None
        raise


_DRAFT = re.compile(r"\..+\.[0-9]+\.tmp")


def remove_drafts(folder: Path) -> None:
    """Removes the temporary files that killed processes left below a folder. The caller holds the folder's exclusive lock."""
    for home, _, names in os.walk(folder):
        for name in names:
            if _DRAFT.fullmatch(name):
                Path(home, name).unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder`, whole, where the block ends without an error."""
    temp = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir()
    yield temp
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temp, folder)


def write_error(path: Path, error: OSError) -> M2raapError:
    """The error to raise for a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return M2raapError(f"{path}: the disk is full; free some space and run the same command again: it resumes")
    return M2raapError(f"{path}: cannot be written ({error.strerror or error})")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any, sort_keys: bool = True) -> None:
    """Writes a value as indented JSON, whole or not at all. Raises M2raapError when the disk is full."""
    text = json.dumps(value, sort_keys=sort_keys, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def create_json(path: Path, value: Any) -> None:
    """As `write_json`, but a file that is already at `path` stays: where several processes create it at once, one succeeds."""
    draft = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    write_json(draft, value)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


_MAX_BYTES = 1 << 30


def read_json(path: Path) -> Any:
    """The JSON in a file. Raises M2raapError naming a file that holds none, is too large, or is no regular file.

    As m2raap writes none of them, NaN, infinity, halves of surrogate pairs and more than MAX_DEPTH levels are refused.
    """
    data = read_regular(path)
    try:
        tree = json.loads(data, parse_constant=_no_constant)
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
            _refuse_deep(tree)
        if _SURROGATE.search(data):
            json.dumps(tree, ensure_ascii=False).encode()  # which fails for half a pair
        return tree
    except (ValueError, RecursionError) as error:
        raise M2raapError(f"{path}: cannot be read as JSON ({str(error)[:200]})") from None


MAX_DEPTH = 100
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


def _refuse_deep(tree: Any) -> None:
    """Raises ValueError for values that are nested more than MAX_DEPTH levels deep: code that walks them would fail."""
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def read_json_lines(path: Path) -> list[Any]:
    """The JSON of every line that is not empty. Raises M2raapError naming a file that holds something else."""
    try:
        return [json.loads(line) for line in read_regular(path).split(b"\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise M2raapError(f"{path}: cannot be read as lines of JSON ({error})") from None


def read_regular(path: Path, last_bytes: int | None = None) -> bytes:
    """The bytes of a file, or its last ones.

    Raises M2raapError for one that is absent, over 1 GiB, or a pipe or device, which may never end.
    """
    try:
        # Without O_NONBLOCK a named pipe would block here for ever; on a regular file it changes nothing.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as source:
            info = os.fstat(source.fileno())
            size = info.st_size if last_bytes is None else min(info.st_size, last_bytes)
            if stat.S_ISREG(info.st_mode) and size <= _MAX_BYTES:
                source.seek(info.st_size - size)
                return source.read()
    except FileNotFoundError:
        raise M2raapError(f"{path}: no such file") from None
    except OSError as error:
        raise M2raapError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise M2raapError(f"{path}: is no regular file, or larger than 1 GiB")


def as_named(path: Path) -> Path:
    """The absolute path of a path that a user gave: links before a '..' are resolved, as the system does, all others are kept."""
    parts = path.parts
    last = max((place for place, part in enumerate(parts) if part == ".."), default=-1)
    return Path(os.path.abspath(Path(*parts[: last + 1]).resolve() / Path(*parts[last + 1 :])))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises M2raapError naming a file that holds something else."""
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise M2raapError(f"{path}: holds no JSON object; m2raap did not write it, or it is damaged")
    return tree


def leads_out(name: str) -> bool:
    """Whether a path is absolute, or holds a drive, '..' or NUL, in the notation of any system: folders move between systems."""
    spellings = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" in name or any(pure.anchor or ".." in pure.parts for pure in spellings)


def inside(folder: Path, name: object) -> Path:
    """The path of `name` below `folder`. Every path that was read from a file of a folder is checked here: the folder may come
    from somebody else.

    Raises M2raapError for a name that is no text, is absolute, holds a drive, '..' or NUL, or leads out of `folder` by a link.
    """
    if isinstance(name, str) and not leads_out(name):
        with suppress(OSError, RuntimeError):  # such as a loop of links
            if (folder / name).resolve().is_relative_to(folder.resolve()):
                return folder / name
    raise M2raapError(
        f"{folder}: the path {str(name)[:200]!r} leads out of this folder; the folder is damaged or comes from somebody who is "
        "not to be trusted"
    )


def open_without_links(path: Path) -> int:
    """A descriptor, for reading, of the file at a path of which no component is a symbolic link.

    Each folder is opened relative to the one before it, so that a link which somebody puts into a path that was judged before is
    noticed, and not followed. It does not wait for the writer of a named pipe. Raises OSError; ELOOP or ENOTDIR for a link.
    """
    parts = Path(os.path.abspath(path)).parts
    # O_PATH, where there is one, needs no permission to list the folders.
    folder_flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(parts[0], folder_flags)
    try:
        for name in parts[1:-1]:
            inner = os.open(name, folder_flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Without O_NONBLOCK the opening of a named pipe would wait for a writer; on a regular file it changes nothing.
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def file_sha256(path: Path) -> str:
    """64 hex digits of SHA-256 over the bytes of a file."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def files_below(folder: Path, start: str) -> list[str]:
    """The regular files below `folder`/`start`, as paths within `folder`, in their order."""
    return sorted(path.relative_to(folder).as_posix() for path in (folder / start).rglob("*") if path.is_file())
