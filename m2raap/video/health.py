"""Finds the faults of many video files by decoding each of them in full, in a sandboxed process."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from m2raap.core.errors import M2raapError
from m2raap.core.talk import one_line
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import FileHealth
from m2raap.video.worker import VideoWorker

HealthRow = dict[str, Any]


class MediaFile(NamedTuple):
    """A file as it is shown, and its real path, which alone was judged: whoever opens it follows no link."""

    path: Path
    real: Path


def find_files(paths: Sequence[Path]) -> tuple[list[MediaFile], list[str]]:
    """The files at and below `paths`, and a line for each entry that was left out, with the reason.

    Folders are walked in the order of their names' bytes. A symbolic link below a folder counts as a file where its target is
    a file in that folder; links to folders, links that leave the folder and broken links are left out. A link among `paths`
    is followed wherever it leads. Raises M2raapError for a path that does not exist or may not be read.
    """
    files: list[MediaFile] = []
    left_out: list[str] = []
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
            if not is_folder and not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise M2raapError(f"{one_line(printable(path))}: {reason}; name a file or a folder") from None
        if is_folder:
            _walk(path, Path(os.path.realpath(path)), files, left_out)
        else:
            files.append(MediaFile(path, Path(os.path.realpath(path))))
    return files, left_out


def _walk(folder: Path, root: Path, files: list[MediaFile], left_out: list[str]) -> None:
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if path.is_symlink() and path != folder:
            target = Path(os.path.realpath(path))
            if not target.is_relative_to(root):
                left_out.append(f"{printable(path)}: a link that leaves the folder")
            elif not target.exists():
                left_out.append(f"{printable(path)}: a link whose target does not exist")
            elif target.is_dir():
                left_out.append(f"{printable(path)}: a link to a folder")
            else:
                files.append(MediaFile(path, target))
        elif path.is_dir():
            try:
                names = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            except OSError as error:
                left_out.append(f"{printable(path)}: {error.strerror}")
                continue
            waiting.extend(path / name for name in names)
        elif path.is_file() and not os.access(path, os.R_OK):
            left_out.append(f"{printable(path)}: no permission to read it")
        else:
            files.append(MediaFile(path, root / path.relative_to(folder)))


def examine_files(files: Sequence[MediaFile], limits: VideoConfig, workers: int) -> Iterator[HealthRow]:
    """One row for each of the `files` of `find_files`, in order: `path`, `class` (ok, or a reason of core.errors.UNREADABLE),
    `detail` and the figures of video.probe.FileHealth, which are None where the file could not be opened. A file that was deleted
    in the meantime has the class missing_file, one that became a link outside_root."""
    local = threading.local()
    started: list[VideoWorker] = []

    def start() -> None:
        local.worker = VideoWorker(limits)
        started.append(local.worker)

    def health_of(file: MediaFile) -> HealthRow:
        return _row(file.path, file.real, local.worker)

    pool = ThreadPoolExecutor(max(1, min(workers, len(files))), initializer=start)
    try:
        yield from pool.map(health_of, files)
    finally:
        pool.shutdown(cancel_futures=True)
        for worker in started:
            worker.close()


def _row(file: Path, real: Path, worker: VideoWorker) -> HealthRow:
    row: HealthRow = {"path": printable(file), "class": "ok"}
    if row["path"] != str(file):
        row["path_bytes"] = os.fsencode(file).hex()  # the exact name, which is not UTF-8
    figures: HealthRow = dict.fromkeys(f.name for f in fields(FileHealth) if f.name not in ("fault", "detail"))
    try:
        examined = worker.examine(real)
    except Refused as refusal:
        return row | {"class": refusal.reason, "detail": refusal.detail} | figures
    figures = {name: getattr(examined, name) for name in figures}
    return row | {"class": examined.fault or "ok", "detail": examined.detail} | figures


def printable(path: Path) -> str:
    """The path as text that JSON can hold: bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def health_line(row: HealthRow) -> str:
    """A row as one line of text."""
    if row["codec"] is None:
        return f"{row['class']:<17} {one_line(row['path'])}  ({one_line(row['detail'])})"
    figures = (
        f"{row['frames_decoded']}/{row['frames_expected']} frames, {row['duration_frames_s']:.2f} s, "
        f"{row['width']}x{row['height']} {row['codec']} in {row['format']}"
    )
    extra = [f"{row['share_corrupt']:.1%} damaged"] if row["share_corrupt"] else []
    extra += [f"rotated by {row['rotation_deg']} degrees"] if row["rotation_deg"] else []
    extra += [f"HDR ({row['transfer']})"] if row["hdr"] else []
    extra += [f"size changes {row['size_changes']} times"] if row["size_changes"] else []
    extra += ["variable frame rate"] if row["variable_frame_rate"] else []
    extra += [one_line(row["detail"])] if row["detail"] else []
    return f"{row['class']:<17} {one_line(row['path'])}  ({', '.join([figures, *extra])})"
