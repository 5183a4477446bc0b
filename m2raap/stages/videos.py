"""The decoder's process as the stages share it: one for each worker and set of limits, kept as long as the worker."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from m2raap.core.tables import Row
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.worker import VideoWorker


def video_worker(limits: VideoConfig) -> VideoWorker:
    return _video_worker(limits.model_dump_json())


@lru_cache(maxsize=2)
def _video_worker(limits: str) -> VideoWorker:
    return VideoWorker(VideoConfig.model_validate_json(limits))


def path_or_none(root: Path, clip: Row) -> Path | None:
    try:
        return resolve_video(root, clip["video"])
    except Refused:
        return None
