"""Dolby Vision whose base layer is no picture by itself is refused; with a base layer of HDR10 it is read as HDR10."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import ffmpeg
import pytest

from m2raap.video.extract import KeyframeConfig, extract
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import examine, probe
from m2raap.video.sample import sample
from m2raap.video.scenes import find_scenes
from tests.video.conftest import encode

LIMITS = VideoConfig()


def exp_golomb(value: int) -> str:
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def metadata_unit(profile: int, full_range: int) -> bytes:
    """The smallest reference processing unit that FFmpeg parses, as a NAL unit (libavcodec/dovi_rpudec.c): identity curves."""
    bits = f"{25:08b}{2:06b}{18:011b}{profile:04b}{0:04b}1" + "0" + "00" + exp_golomb(23) + "01" + str(full_range)
    bits += exp_golomb(2) * 2 + exp_golomb(4) + "0" + "000" + "0" + "1" + "00" + exp_golomb(0) * 3
    bits += 3 * (exp_golomb(0) + f"{0:010b}{1023:010b}") + 2 * exp_golomb(0)
    bits += 3 * (2 * exp_golomb(0) + "0" + "1" + f"{0:023b}" + "010" + f"{0:023b}")
    bits += "0" * (-len(bits) % 8) + f"{0x5A5A5A5A:032b}" + "10000000"  # FFmpeg does not compare the checksum
    unit = bytearray(b"\x7c\x01")
    for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
        if unit[-2:] == b"\0\0" and byte < 4:
            unit.append(3)  # emulation prevention
        unit.append(byte)
    return struct.pack(">I", len(unit)) + unit


def dolby_vision(plain: Path, out: Path, profile: int, full_range: int) -> Path:
    with av.open(str(plain)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                copy = av.Packet(bytes(packet) + metadata_unit(profile, full_range))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                target.mux(copy)
    return out


def test_profile_5_is_refused_everywhere(tmp_path: Path) -> None:
    source = ffmpeg.input("testsrc2=s=64x48:r=10:d=0.5", f="lavfi")
    coded = {"vcodec": "libx265", "pix_fmt": "yuv420p10le", "x265-params": "log-level=none:pools=1", "tag:v": "hvc1"}
    plain = encode(source, tmp_path / "plain.mp4", **coded)
    for name in ("five.mp4", "five.mkv"):
        path = dolby_vision(plain, tmp_path / name, profile=0, full_range=1)
        assert examine(path, LIMITS).fault == "unsupported_codec"
        for read in (
            lambda path=path: probe(path, LIMITS),
            lambda path=path: extract(path, 0.0, None, KeyframeConfig(k=2), LIMITS),
            lambda path=path: sample(path, 0.0, None, [0.5], 48, LIMITS),
            lambda path=path: find_scenes(path, "none", 0.6, LIMITS),
        ):
            with pytest.raises(Refused, match="unsupported_codec"):
                read()
    eight = dolby_vision(plain, tmp_path / "eight.mp4", profile=1, full_range=0)
    assert examine(eight, LIMITS).fault is None
    assert len(extract(eight, 0.0, None, KeyframeConfig(k=2), LIMITS).times_s) == 2
