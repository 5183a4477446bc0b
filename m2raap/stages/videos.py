"""The child process that decodes: one for each worker and set of limits, which lives as long as the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from m2raap.core.tables import Clip
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View
from m2raap.video.fetch import RemoteConfig, fetched, is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.worker import VideoWorker


@lru_cache(maxsize=2)
def video_worker(limits: VideoConfig) -> VideoWorker:
    return VideoWorker(limits)


def file_digest(clip: Clip, view: View, videos: VideoDigests, limits: VideoConfig) -> str:
    """The digest of a clip's file below the corpus's video root; 'absent' where there is none that may be opened.

    A file that is too large for `limits` is not read."""
    try:
        path = resolve_video(view.corpus.video_root, clip["video"])
    except Refused:
        return "absent"
    return videos.of(clip["video"], path, limits.max_bytes)


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
