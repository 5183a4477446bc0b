from __future__ import annotations

import time
from pathlib import Path

import ffmpeg
import pytest

from m2raap.core.errors import M2raapError
from m2raap.video.ffmpeg import FfmpegFailed, FfmpegTimeout, ffmpeg_exe, file_url, guard, run_ffmpeg
from m2raap.video.limits import VideoConfig


def test_bytes_in_bytes_out() -> None:
    raw = bytes(range(12)) * 2  # two 2x2 rgb24 frames
    stream = ffmpeg.input("pipe:", f="rawvideo", pix_fmt="rgb24", s="2x2", r=5)
    argv = ffmpeg.output(stream, "pipe:", f="rawvideo", pix_fmt="rgb24").compile(cmd=ffmpeg_exe())
    assert run_ffmpeg(argv, stdin=raw) == raw


def test_failure_and_timeout_say_why(tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match="no_such_file"):
        run_ffmpeg([ffmpeg_exe(), "-i", "no_such_file.mp4", "-f", "null", "-"])
    start = time.monotonic()
    with pytest.raises(FfmpegTimeout, match=r"0\.5 s: .*testsrc"):
        run_ffmpeg([ffmpeg_exe(), "-re", "-f", "lavfi", "-i", "testsrc=d=60", "-f", "null", "-"], timeout_s=0.5)
    assert time.monotonic() - start < 10


def test_guard_refuses_a_playlist(tmp_path: Path, clips: Path) -> None:
    playlist = tmp_path / "x.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{clips}/plain.ts\n#EXT-X-ENDLIST\n")
    stream = ffmpeg.input(file_url(playlist), **guard(VideoConfig()))
    with pytest.raises(M2raapError):
        run_ffmpeg(ffmpeg.output(stream, "pipe:", f="null").compile(cmd=ffmpeg_exe()))
    stream = ffmpeg.input(file_url(clips / "plain.mp4"), **guard(VideoConfig()))
    run_ffmpeg(ffmpeg.output(stream, "pipe:", f="null").compile(cmd=ffmpeg_exe()))


def test_limits_hold(tmp_path: Path) -> None:
    made = ffmpeg.output(ffmpeg.input("testsrc2=s=320x240:d=2", f="lavfi"), str(tmp_path / "x.avi"), vcodec="rawvideo")
    argv = made.compile(cmd=ffmpeg_exe())
    run_ffmpeg(argv, limits=VideoConfig())
    for limits in (VideoConfig(max_bytes=100_000), VideoConfig.model_construct(memory_mb=20, max_bytes=1 << 40)):
        with pytest.raises(FfmpegFailed):
            run_ffmpeg(argv, limits=limits)
    spin = [ffmpeg_exe(), "-f", "lavfi", "-i", "testsrc2=s=1920x1080:d=600", "-f", "null", "-"]
    start = time.monotonic()
    with pytest.raises(FfmpegFailed):
        run_ffmpeg(
            spin, timeout_s=1.0, limits=VideoConfig()
        )  # by the clock, or by CPU seconds where it uses many cores
    assert time.monotonic() - start < 10
