"""What the frames of a corpus will cost, from a sample of its own files: some are looked at, a few of those are read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from m2raap.core.tables import Clip
from m2raap.core.view import View
from m2raap.stages.keyframes import KeyframesConfig
from m2raap.stages.videos import video_worker
from m2raap.video.clip import KeyframeConfig
from m2raap.video.fetch import is_url
from m2raap.video.limits import Refused
from m2raap.video.paths import resolve_video
from m2raap.video.planner import Outlook
from m2raap.video.worker import VideoWorker

LOOKED_AT = 24  # clips whose header (of long ones: packets) is read
READ = 4  # clips that are read as the stage would
READ_PIXELS = 1500 * 640 * 360  # decoded for that at most: two seconds' work
PACKET_S = 1.5e-5  # of demuxing
# Where no file could be read: measured on 640x360 H.264, one core.
PIXEL_S, BYTES_A_PIXEL = 4.5e-9, 0.25


@dataclass(frozen=True)
class FramesCost:
    """Means over a sample; `note` says what they rest on."""

    seconds_a_clip: float
    bytes_a_clip: float
    note: str


def frames_cost(view: View, cfg: KeyframesConfig) -> FramesCost:
    """Clips that cannot be read cost nothing. Videos behind URLs are not fetched: with only such, the figures are guesses."""
    worker = video_worker(cfg.decode)
    plain = KeyframeConfig(**cfg.model_dump(include=set(KeyframeConfig.model_fields)))
    seen: list[tuple[Clip, Outlook]] = []
    refused = 0
    for clip in islice(_local_clips(view), LOOKED_AT):
        try:
            path = resolve_video(view.corpus.video_root, clip["video"])
            seen.append((clip, worker.outlook(path, clip["start_s"] or 0.0, clip["end_s"], plain)))
        except Refused:
            refused += 1
    pixel_s, clip_bytes, read = _measured(worker, view, seen, plain)
    if not seen:
        frames = 125 * 640 * 360
        return FramesCost(frames * PIXEL_S, clip_bytes, f"no file could be looked at ({refused} refused): a guess")
    seconds = [
        one.frames * one.pixels * pixel_s + (one.full_frames * PACKET_S if one.reading == "sparse" else 0.0)
        for _, one in seen
    ]
    share = len(seen) / (len(seen) + refused)
    sparse = [one for _, one in seen if one.reading == "sparse"]
    note = f"{read} of {len(seen)} sampled clips read"
    if sparse:
        fewer = sum(one.full_frames for one in sparse) / max(1, sum(one.frames for one in sparse))
        note += f"; {len(sparse)} of them sparsely, {fewer:.0f} times fewer frames"
    if refused:
        note += f"; {refused} refused"
    return FramesCost(share * sum(seconds) / len(seconds), share * clip_bytes, note)


def _local_clips(view: View) -> Iterator[Clip]:
    """Clips in the order of parts, which is that of a hash: the first are a fair sample."""
    for index in range(view.num_parts):
        yield from (clip for clip in view.part(index, ()).clips if not is_url(clip["video"]))


def _measured(
    worker: VideoWorker, view: View, seen: list[tuple[Clip, Outlook]], cfg: KeyframeConfig
) -> tuple[float, float, int]:
    """(seconds a decoded pixel, bytes of JPEGs a clip, clips read)."""
    seconds, pixels, sizes = 0.0, 0, []
    known = [] if cfg.detector == "transnetv2" else None  # its network is not part of the measure
    for clip, one in seen:
        pixels_of_clip = one.frames * one.pixels
        if len(sizes) == READ or pixels + pixels_of_clip > READ_PIXELS:
            continue
        path = resolve_video(view.corpus.video_root, clip["video"])
        start = time.monotonic()
        try:
            found = worker.extract(path, clip["start_s"] or 0.0, clip["end_s"], cfg, known)
        except Refused:
            continue
        seconds, pixels = seconds + time.monotonic() - start, pixels + pixels_of_clip
        sizes.append(sum(map(len, found.jpegs)))
    if not sizes:
        return PIXEL_S, cfg.k * cfg.short_side_px**2 * 1.5 * BYTES_A_PIXEL, 0
    return seconds / pixels, sum(sizes) / len(sizes), len(sizes)
