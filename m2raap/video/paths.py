"""Paths of video files: a clip's relative `video` becomes a path below the corpus root, and a path an open regular file.

Paths are judged without holding the file, so they are real paths: no part of one is a symbolic link. Whoever opens one follows
no link, so that a link that is swapped in after the judgement leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from m2raap.core.files import leads_out, open_without_links
from m2raap.video.limits import Refused, VideoConfig


def resolve_video(root: Path, video: str) -> Path:
    """The real, absolute path of `video` below `root`; symbolic links are followed.

    Raises Refused: outside_root (an absolute path, drive, '..', NUL, URL, or a link that leaves the root), missing_file,
    not_media (a folder, pipe or device), empty.
    """
    if not video or video == ".":
        raise Refused("missing_file", "the video path is empty")
    if "\0" in video or "://" in video:
        raise Refused("outside_root", f"{video!r} is not a relative path")
    if leads_out(video):
        raise Refused("outside_root", f"{video!r} is an absolute path or contains '..'")
    real_root = root.resolve()
    try:
        path = (real_root / video).resolve()
    except (OSError, RuntimeError) as error:  # such as a loop of links
        raise Refused("missing_file", f"{video!r}: {error}") from None
    if not path.is_relative_to(real_root):
        raise Refused("outside_root", f"{video!r} is a symbolic link that leaves the corpus root")
    try:
        info = os.stat(path)
    except OSError as error:
        raise Refused("missing_file", f"{video!r}: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise Refused("not_media", f"{video!r} is a folder, pipe or device")
    if info.st_size == 0:
        raise Refused("empty", f"{video!r} has no bytes")
    return path


def open_regular(path: Path, cfg: VideoConfig) -> tuple[BinaryIO, int]:
    """Opens the file at `path`, a real path, for reading; returns it, unbuffered, and its size in bytes.

    The open file is checked, not the path, so that nobody can exchange the file between check and reading. Raises Refused:
    missing_file, outside_root (a part of the path is a link), not_media (a folder, pipe or device), empty, too_large.
    """
    try:
        handle = open_without_links(path)
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _has_link(path)):
            raise Refused("outside_root", "a part of the path has become a symbolic link") from None
        raise Refused("missing_file", str(error.strerror)) from None
    info = os.fstat(handle)
    fault = None
    if not stat.S_ISREG(info.st_mode):
        fault = Refused("not_media", "the path is a folder, pipe or device")
    elif info.st_size == 0:
        fault = Refused("empty", "the file has 0 bytes")
    elif info.st_size > cfg.max_bytes:
        fault = Refused("too_large", f"the file has {info.st_size} bytes, at most {cfg.max_bytes} are allowed")
    if fault:
        os.close(handle)
        raise fault
    return os.fdopen(handle, "rb", buffering=0), info.st_size


def _has_link(path: Path) -> bool:
    """Whether a folder of the path is a link, which Linux reports as "not a directory"."""
    return any(folder.is_symlink() for folder in path.parents)


def read_at(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    """At most `num_bytes` bytes from `offset` on. The file's position stays, because FFmpeg reads from the same file."""
    return os.pread(file.fileno(), num_bytes, offset)
