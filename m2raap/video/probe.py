"""Reads the header of a video file (`probe`, some milliseconds), or decodes the file to find its faults (`examine`)."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from m2raap.video.container import open_video
from m2raap.video.decode import decode
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.tally import Tally, share_beyond_file, varies


@dataclass(frozen=True)
class Probe:
    """Header figures of a readable file."""

    container: str  # FFmpeg's first name of the format
    codec: str  # FFmpeg's name of the decoder
    duration_s: float  # from the container's start to the end of the video by the header; 0 where it does not state it
    width: int  # pixels, as displayed: rotated, with square pixels
    height: int
    fps: float  # average by the header; 0 where the header does not state it
    rotation_deg: int  # counter-clockwise rotation that makes the picture upright, 0..359, by the file
    num_frames: int  # by the header; 0 where the header does not state it
    num_bytes: int  # size of the file
    missing_share: float  # share of the frames in the header's table that lie past the end of the file (MP4 only)


@dataclass(frozen=True)
class FileHealth:
    """Figures and faults of a file by a full decode."""

    fault: str | None  # truncated, corrupt or another reason of a refusal; None for a file without fault
    detail: str  # describes the fault for people
    format: str  # FFmpeg's first name of the format
    codec: str  # FFmpeg's name of the decoder
    width: int  # pixels, as displayed; 0 where no frame could be decoded
    height: int
    rotation_deg: int  # as in Probe
    variable_frame_rate: bool
    frames_decoded: int
    frames_expected: int
    share_corrupt: float  # share of lost packets, damaged frames and frames that may be predicted from damaged ones
    duration_header_s: float | None  # None where the header does not state it
    duration_frames_s: float  # to the end of the last frame


def probe(path: Path, cfg: VideoConfig) -> Probe:
    """Header figures of the file at `path`. Raises Refused: what `open_video` raises, and truncated, corrupt or too_large
    where the header or the first packets show it."""
    with open_video(path, cfg) as opened:
        missing_share = share_beyond_file(opened)
        if 1 - missing_share < cfg.min_decoded_share:
            raise Refused("truncated", f"{missing_share:.0%} of the frames in the header lie past the end of the file")
        first, packets = None, 0
        for packets, item in enumerate(islice(decode(opened), 64), 1):  # noqa: B007 - the count is used after the loop
            if first := item.frame:
                break
        if first is None:
            raise opened.nothing_decoded(packets > 0)
        width, height = shown_size(first.width, first.height, pixel_aspect(opened.stream), first.rotation)
        return Probe(
            container=opened.format_name,
            codec=opened.stream.codec_context.name,
            duration_s=opened.stated_end_s,
            width=width,
            height=height,
            fps=opened.fps,
            rotation_deg=int(first.rotation) % 360,
            num_frames=int(opened.stream.frames or 0),
            num_bytes=opened.num_bytes,
            missing_share=missing_share,
        )


def examine(path: Path, cfg: VideoConfig) -> FileHealth:
    """Decodes the whole file at `path`. Raises Refused for a file that cannot be opened; other faults are in the result."""
    with open_video(path, cfg) as opened:
        tally = Tally(opened)
        times_s = array("d")
        width = height = rotation_deg = 0
        for item in decode(opened):
            tally.add(item)
            if item.frame is None:
                continue
            times_s.append(item.time_s)
            if not width:
                rotation_deg = int(item.frame.rotation) % 360
                aspect = pixel_aspect(opened.stream)
                width, height = shown_size(item.frame.width, item.frame.height, aspect, rotation_deg)
        fault, detail = None, ""
        try:
            tally.judge(cfg)
        except Refused as refusal:
            fault, detail = refusal.reason, refusal.detail
        return FileHealth(
            fault=fault,
            detail=detail,
            format=opened.format_name,
            codec=opened.stream.codec_context.name,
            width=width,
            height=height,
            rotation_deg=rotation_deg,
            variable_frame_rate=varies(times_s),
            frames_decoded=tally.decoded,
            frames_expected=tally.expected_frames,
            share_corrupt=round(tally.corrupt_share, 6),
            duration_header_s=round(opened.duration_s, 6) or None,
            duration_frames_s=round(tally.covered_s, 6),
        )


def pixel_aspect(stream: object) -> float:
    """Width divided by height of one pixel; 1 where the file states none, or one outside 0.25..4."""
    ratio = getattr(stream, "sample_aspect_ratio", None)
    value = float(ratio) if ratio else 1.0
    return value if 0.25 <= value <= 4 else 1.0


def is_mirrored(frame: Any) -> bool:
    """Whether the file's display matrix also mirrors a frame top to bottom before the rotation (front cameras of phones)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return a * d - b * c < 0


def shown_size(width: int, height: int, aspect: float, rotation_deg: int) -> tuple[int, int]:
    """(width, height) in square pixels after the rotation, which is rounded to quarter turns. `aspect`: see pixel_aspect."""
    wide = max(1, round(width * aspect))
    return (height, wide) if round(rotation_deg / 90) % 2 else (wide, height)
