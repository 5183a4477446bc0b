"""The child process that decodes: one for each worker and set of limits, which lives as long as the worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from m2raap.core.errors import WORTH_ANOTHER_TRY
from m2raap.core.tables import Clip
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View
from m2raap.video.fetch import RemoteConfig, fetched, is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.probe import Probe
from m2raap.video.worker import VideoWorker


@lru_cache(maxsize=2)
def video_worker(limits: VideoConfig) -> VideoWorker:
    return VideoWorker(limits)


class Headers:
    """The header figures of files. A process reads those of a file once, although the clips of a video lie in many parts."""

    def __init__(self, limits: VideoConfig) -> None:
        self._worker = video_worker(limits)
        self._known: dict[Path, tuple[tuple[int, ...], Probe | Refused]] = {}

    def of(self, path: Path) -> Probe:
        """The header figures of the file at `path` (from `resolve_video`). Raises Refused."""
        try:
            info = os.stat(path)
        except OSError:  # it is gone: the probe says so
            return self._worker.probe(path)
        stamp = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        known = self._known.get(path)
        if not known or known[0] != stamp:
            known = (stamp, self._probe(path))
            if len(self._known) < _MAX_HEADERS:
                self._known[path] = known
        if isinstance(known[1], Refused):
            raise Refused(known[1].reason, known[1].detail)
        return known[1]

    def _probe(self, path: Path) -> Probe | Refused:
        try:
            return self._worker.probe(path)
        except Refused as refused:
            if refused.reason in WORTH_ANOTHER_TRY:
                raise
            return refused


_MAX_HEADERS = 1 << 16


@lru_cache(maxsize=2)
def headers(limits: VideoConfig) -> Headers:
    return Headers(limits)


def file_digest(clip: Clip, view: View, videos: VideoDigests, limits: VideoConfig) -> str:
    """The digest of a clip's file below the corpus's video root; 'absent' where there is none that may be opened.

    A file that is too large for `limits` is not read."""
    video = clip["video"]

    def judge() -> str:
        try:
            path = resolve_video(view.corpus.video_root, video)
        except Refused:
            return "absent"
        return videos.of(video, path, limits.max_bytes)

    return videos.once(video, judge)


@contextmanager
def opened(root: Path, video: str, remote: RemoteConfig) -> Iterator[Path]:
    """The local file of a clip's video: below `root`, or a download that is removed when the block ends.

    The download is made in the parent of the process that decodes. Raises Refused.
    """
    if is_url(video):
        with fetched(video, remote) as path:
            yield path
    else:
        yield resolve_video(root, video)
