"""What a file's header says, and whether its first frame can be decoded. A few milliseconds a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from m2raap.video.decode import decode, open_video, share_beyond_file
from m2raap.video.limits import Refused, VideoConfig


@dataclass(frozen=True)
class Probe:
    """Figures of a readable file. Width and height are as shown: rotated, with square pixels."""

    container: str
    codec: str
    duration_s: float  # announced; 0 where the header does not say
    width: int
    height: int
    fps: float  # average, by the header; 0 where it does not say
    rotation_deg: int  # counter-clockwise, as stored in the file
    num_frames: int  # announced; 0 where the header does not say
    num_bytes: int
    missing_share: float  # share of the announced frames that lie past the end of the file (MP4 only)


def probe(path: Path, cfg: VideoConfig) -> Probe:
    """Header figures of `path`. Raises Refused; truncated only where the header alone proves it."""
    with open_video(path, cfg) as opened:
        num_bytes = os.path.getsize(path)
        missing_share = share_beyond_file(opened, num_bytes)
        if 1 - missing_share < cfg.min_decoded_share:
            raise Refused("truncated", f"{missing_share:.0%} of the frames lie past the end of the file")
        first = next((d.frame for d in islice(decode(opened), 64) if d.frame is not None), None)
        if first is None:
            raise Refused("corrupt", "no frame among the first packets can be decoded")
        width, height = shown_size(first.width, first.height, pixel_aspect(opened.stream), first.rotation)
        return Probe(
            container=opened.container.format.name.split(",")[0],
            codec=opened.stream.codec_context.name,
            duration_s=opened.duration_s,
            width=width,
            height=height,
            fps=opened.fps,
            rotation_deg=int(first.rotation),
            num_frames=int(opened.stream.frames or 0),
            num_bytes=num_bytes,
            missing_share=missing_share,
        )


def pixel_aspect(stream: object) -> float:
    """Width / height of one pixel; 1 where unset or absurd."""
    ratio = getattr(stream, "sample_aspect_ratio", None)
    value = float(ratio) if ratio else 1.0
    return value if 0.25 <= value <= 4 else 1.0


def shown_size(width: int, height: int, aspect: float, rotation_deg: int) -> tuple[int, int]:
    """(width, height) with square pixels and the rotation applied (quarter turns only)."""
    wide = max(1, round(width * aspect))
    return (height, wide) if round(rotation_deg / 90) % 2 else (wide, height)
