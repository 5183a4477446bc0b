"""Reading of video files: headers, shots, key-frames and sampled frames. Nothing in this package imports torch.

`keyframes(path, k=8)` is the function for a program that has one video. Large packages are imported only when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2raap.video.clip import ClipKeyframes
    from m2raap.video.worker import VideoWorker


def keyframes(
    path: str | Path,
    k: int = 8,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    worker: VideoWorker | None = None,
    **settings: Any,
) -> ClipKeyframes:
    """Chooses k key-frames of the video at `path`, or of its span [start_s, end_s), as the keyframes stage does.

    >>> import m2raap.video
    >>> clip = m2raap.video.keyframes("clip.mp4", k=4)
    >>> len(clip.times_s), len(clip.jpegs), (clip.width, clip.height)
    (4, 4, (160, 90))
    >>> clip.jpegs[0][:2].hex()
    'ffd8'

    `start_s` and `end_s` are seconds since the start of the video; an `end_s` of None is the end of the video. `settings`
    are further fields of `m2raap.video.clip.KeyframeConfig`, such as `strategy="uniform"` or `short_side_px=224`.

    Returns a `m2raap.video.clip.ClipKeyframes`, whose fields are documented there with their units. Its `times_s` are seconds
    since `start_s`, and its `signals` are those of the span. A span with fewer than k undamaged frames gives all of them.

    A sandboxed child process reads the file; it is started for this call and ended after it. A caller with many videos
    keeps one child process, whose limits can be set:

        with VideoWorker(VideoConfig(timeout_s=600)) as worker:
            clips = [keyframes(path, worker=worker) for path in paths]

    Raises M2raapError, which names the file, the reason and what to do, for a video that cannot be used; its `__cause__` is
    a `m2raap.video.limits.Refused` with the reason's code, one of `m2raap.core.errors.UNREADABLE`. Raises M2raapError for a
    span without length. Raises UsageError for settings that are unknown or out of range, and for the detector transnetv2, a
    network that only the keyframes stage runs.

    Source: `m2raap.video.choose` chooses the frames; PySceneDetect's detectors find the shots (`m2raap.video.shots`).
    """
    from contextlib import nullcontext

    from m2raap.core.config import build
    from m2raap.core.errors import UNREADABLE, M2raapError, UsageError
    from m2raap.video.clip import KeyframeConfig
    from m2raap.video.limits import Refused
    from m2raap.video.worker import VideoWorker

    if not (0 <= start_s < (float("inf") if end_s is None else end_s)):  # NaN too
        raise M2raapError(f"{path}: the span from {start_s} s to {end_s} s is empty; give 0 <= start_s < end_s")
    cfg = build(KeyframeConfig, {"k": k, **settings}, "m2raap.video.keyframes")
    if cfg.detector == "transnetv2":
        raise UsageError(
            "m2raap.video.keyframes: detector: only the stage 'keyframes' runs transnetv2; choose another detector"
        )
    with VideoWorker() if worker is None else nullcontext(worker) as decoder:
        try:
            return decoder.extract(Path(path).resolve(), start_s, end_s, cfg)
        except Refused as refusal:
            detail = f" ({refusal.detail})" if refusal.detail else ""
            if refusal.reason in ("timeout", "too_large", "out_of_memory"):
                remedy = "pass a VideoWorker whose VideoConfig has higher limits"
            else:
                remedy = f"use another file; 'm2raap data probe {path}' decodes the whole file and reports its faults"
            raise M2raapError(f"{path}: {refusal.reason}: {UNREADABLE[refusal.reason]}{detail}; {remedy}") from refusal
