"""Reads the header of a video file (`probe`, some milliseconds), or decodes the file to find its faults (`examine`)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from m2raap.video import colour
from m2raap.video.container import open_video
from m2raap.video.decode import decode
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.shape import SizeChanges, display_size, rotation_of
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
    transfer: str  # FFmpeg's name of the transfer function: bt709, smpte2084 (PQ), arib-std-b67 (HLG), unknown ...
    primaries: str  # FFmpeg's name of the colour primaries: bt709, bt2020, unknown ...
    hdr: bool  # the transfer function is PQ or HLG
    wide_gamut: bool  # the colour primaries are those of BT.2020


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
    transfer: str  # as in Probe; unknown where no frame could be decoded
    primaries: str
    hdr: bool
    wide_gamut: bool
    size_changes: int  # how often the displayed size or the shape of the pixels changes
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
        colour.refuse_dolby_vision_alone(first)
        width, height = display_size(first, opened.stream, rotation_of(first))
        return Probe(
            container=opened.format_name,
            codec=opened.stream.codec_context.name,
            duration_s=opened.stated_end_s,
            width=width,
            height=height,
            fps=opened.fps,
            rotation_deg=rotation_of(first),
            num_frames=int(opened.stream.frames or 0),
            num_bytes=opened.num_bytes,
            missing_share=missing_share,
            transfer=colour.transfer(first),
            primaries=colour.primaries(first),
            hdr=colour.is_hdr(first),
            wide_gamut=colour.has_wide_gamut(first),
        )


def examine(path: Path, cfg: VideoConfig) -> FileHealth:
    """Decodes the whole file at `path`. Raises Refused for a file that cannot be opened; other faults are in the result."""
    with open_video(path, cfg) as opened:
        tally, sizes = Tally(opened), SizeChanges()
        times_s = array("d")
        width = height = rotation_deg = 0
        first = None
        transfer, primaries, hdr, wide_gamut = colour.UNKNOWN, colour.UNKNOWN, False, False
        for item in decode(opened):
            tally.add(item)
            if item.frame is None:
                continue
            times_s.append(item.time_s)
            sizes.add(item.frame)
            if not width:
                rotation_deg = rotation_of(item.frame)
                width, height = display_size(item.frame, opened.stream, rotation_deg)
                first = item.frame
                transfer, primaries = colour.transfer(item.frame), colour.primaries(item.frame)
                hdr, wide_gamut = colour.is_hdr(item.frame), colour.has_wide_gamut(item.frame)
        fault, detail = None, ""
        try:
            tally.judge(cfg)
            if first is not None:
                colour.refuse_dolby_vision_alone(first)
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
            transfer=transfer,
            primaries=primaries,
            hdr=hdr,
            wide_gamut=wide_gamut,
            size_changes=sizes.count,
            variable_frame_rate=varies(times_s),
            frames_decoded=tally.decoded,
            frames_expected=tally.expected_frames,
            share_corrupt=round(tally.corrupt_share, 6),
            duration_header_s=round(opened.duration_s, 6) or None,
            duration_frames_s=round(tally.covered_s, 6),
        )
