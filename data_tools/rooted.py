"""How importers find the video files below a corpus's video root."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row
from m2raap.video.fetch import check_url, is_url
from m2raap.video.paths import Refused, resolve_video

# If a folder holds one name with several endings, the first of these counts.
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".flv", ".wmv", ".ts", ".ogv")
# Paths that stay inside a folder on every system; resolve_video checks all others.
_HARMLESS = re.compile(r"(?:[A-Za-z0-9_@-][A-Za-z0-9_.@ -]*/)*[A-Za-z0-9_@-][A-Za-z0-9_.@ -]*")


def video_root(typed: Path | None, folder: Path, name: str = "") -> Path:
    """The folder that the user typed, else `name` in the folder of the list.

    Raises M2raapError if it is no folder, or if the user did not type it and it is a link out of the folder of the list.
    """
    root = typed or folder / name
    if not root.is_dir():
        raise M2raapError(f"{root}: no such folder; give the folder of the videos with --video-dir")
    if typed is None and not root.resolve().is_relative_to(folder.resolve()):
        raise M2raapError(
            f"{root}: is a link to {root.resolve()}; if the videos are there, give --video-dir {root.resolve()}"
        )
    return root


def files_by_stem(root: Path) -> dict[str, str]:
    """Name without ending -> name, of the video files directly in `root`: lists often leave the ending out."""
    file_of: dict[str, str] = {}
    with os.scandir(root) as entries:
        for name in sorted(entry.name for entry in entries):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                best = file_of.setdefault(stem, name)
                if SUFFIXES.index(suffix.lower()) < SUFFIXES.index(os.path.splitext(best)[1].lower()):
                    file_of[stem] = name
    return file_of


def find_missing(root: Path, clips: Iterable[Row]) -> list[Row]:
    """A `dropped`-shaped row for every clip whose file is absent or may not be opened; the clips themselves stay.

    `detail` is the clip's url if the list has one. Videos that are addresses are not fetched here: `keyframes` does that.
    """
    rows: list[Row] = []
    base = os.path.join(root.resolve(), "")
    judged: dict[str, tuple[str, str] | None] = {}  # by video, of which there may be many clips
    for clip in clips:
        video = clip["video"]
        if video not in judged:
            judged[video] = _refusal(root, base, video)
        if refused := judged[video]:
            reason, detail = refused
            url = clip.get("url") if reason == "missing_file" else None
            row = {"clip_id": clip["clip_id"], "stage": "import", "reason": reason}
            rows.append(row | {"detail": url or detail})
    return rows


def _refusal(root: Path, base: str, video: str) -> tuple[str, str] | None:
    """(reason, detail) of a video that cannot be opened. `base`: the real path of the root, with a slash."""
    try:
        if is_url(video):
            check_url(video)
        elif _HARMLESS.fullmatch(video) and not os.path.lexists(base + video):
            raise Refused("missing_file", "no such file")  # the fast way: of long lists many files may be absent
        else:
            resolve_video(root, video)
    except Refused as refused:
        return refused.reason, refused.detail
    return None
