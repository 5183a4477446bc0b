"""Bytes and seconds: everything that is read out of video files. No torch.

`keyframes(path, k=8)` is the door to the room for a program that has one video at hand. Nothing heavy is imported before
it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2raap.video.clip import ClipFrames
    from m2raap.video.worker import VideoWorker


def keyframes(
    path: str | Path,
    k: int = 8,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    worker: VideoWorker | None = None,
    **settings: Any,
) -> ClipFrames:
    """The k frames which stand for the video at `path`, or for its span [start_s, end_s), as the keyframes stage chooses them.

    >>> import m2raap.video
    >>> clip = m2raap.video.keyframes("clip.mp4", k=4)
    >>> len(clip.times_s), len(clip.jpegs), (clip.width, clip.height)
    (4, 4, (160, 90))
    >>> clip.jpegs[0][:2].hex()
    'ffd8'

    `start_s` and `end_s` are seconds since the start of the video; an `end_s` of None is the end of the video. `settings`
    are further fields of `m2raap.video.clip.KeyframeConfig`, such as `strategy="uniform"` or `short_side_px=224`.

    Every list of the result has one entry a frame, ascending in time: `times_s` (seconds since `start_s`), `jpegs` (RGB,
    upright, square pixels, all of `width` x `height` pixels), `scores` (0..1), `why` (words for people), `shots` (number of
    the shot, -1 where shots are unknown) and `hashes` (64-bit dHash). `signals` holds the measures of the whole span. A span
    with fewer than k sound frames gives all of them, and `signals["shortfall"]` says how many are missing.

    The bytes are read by a sandboxed child process, which is started for this call and ended after it. A caller with many
    videos keeps one child, which also has its limits:

        with VideoWorker(VideoConfig(timeout_s=600)) as worker:
            clips = [keyframes(path, worker=worker) for path in paths]

    Raises M2raapError, which names the file, the reason and what to do, for a video that cannot be used: its `__cause__` is
    the `m2raap.video.limits.Refused` with the code of the reason, one of `m2raap.core.errors.UNREADABLE`. Raises M2raapError
    for a span without length, and UsageError for settings that do not exist or do not fit. The detector transnetv2 is a
    network, which this room does not run.

    Source: the choice is `m2raap.video.choose`; shots are those of PySceneDetect's detectors (`m2raap.video.shots`).
    """
    from contextlib import nullcontext

    from m2raap.core.config import build
    from m2raap.core.errors import UNREADABLE, M2raapError, UsageError
    from m2raap.video.clip import KeyframeConfig
    from m2raap.video.limits import Refused
    from m2raap.video.worker import VideoWorker

    cfg = build(KeyframeConfig, {"k": k, **settings}, "m2raap.video.keyframes")
    if cfg.detector == "transnetv2":
        raise UsageError(
            "m2raap.video.keyframes: the detector transnetv2 runs in the stage 'keyframes' only; choose another"
        )
    with VideoWorker() if worker is None else nullcontext(worker) as decoder:
        try:
            return decoder.extract(Path(path).absolute(), start_s, end_s, cfg)
        except Refused as refusal:
            detail = f" ({refusal.detail})" if refusal.detail else ""
            if refusal.reason in ("timeout", "too_large", "out_of_memory"):
                remedy = "pass a VideoWorker whose VideoConfig has higher limits"
            else:
                remedy = f"give another file; 'm2raap data probe {path}' decodes all of it and says more"
            raise M2raapError(f"{path}: {refusal.reason}: {UNREADABLE[refusal.reason]}{detail}; {remedy}") from refusal
