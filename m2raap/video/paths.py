"""From a clip's relative `video` to a regular file below the corpus root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from m2raap.core.files import leads_out
from m2raap.video.limits import Refused


def resolve_video(root: Path, video: str) -> Path:
    """The real, absolute path of `video` below `root`.

    Raises Refused: outside_root (absolute path, drive, '..', NUL, URL, or a link that leaves the root), missing_file,
    not_media (a folder, pipe or device), empty.
    """
    if not video or video == ".":
        raise Refused("missing_file", "the video path is empty")
    if "\0" in video or "://" in video:
        raise Refused("outside_root", f"{video!r} is no relative path")
    if leads_out(video):
        raise Refused("outside_root", f"{video!r} is absolute or holds '..'")
    real_root = root.resolve()
    try:
        path = (real_root / video).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise Refused("missing_file", f"{video!r}: {error}") from None
    if not path.is_relative_to(real_root):
        raise Refused("outside_root", f"{video!r} is a link that leaves the root")
    try:
        info = os.stat(path)
    except OSError as error:
        raise Refused("missing_file", f"{video!r}: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise Refused("not_media", f"{video!r} is no regular file")
    if info.st_size == 0:
        raise Refused("empty", f"{video!r} has no bytes")
    return path
