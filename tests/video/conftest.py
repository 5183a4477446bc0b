"""Small test clips, made once a session with ffmpeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ffmpeg
import pytest

from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg

Make = Callable[..., Path]


def encode(stream: Any, path: Path, **options: Any) -> Path:
    options = {"vcodec": "libx264", "preset": "ultrafast", "pix_fmt": "yuv420p", "threads": 1} | options
    options = {name: value for name, value in options.items() if value is not None}
    run_ffmpeg(ffmpeg.output(stream, str(path), **options).compile(cmd=ffmpeg_exe()))
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.mp4 (4 s, 25 fps, 160x90, moov last), copies in other containers, plain.avi (MPEG-4), colours.mp4."""
    folder = tmp_path_factory.mktemp("clips")
    source = ffmpeg.input("testsrc2=s=160x90:r=25:d=4", f="lavfi")
    plain = encode(source, folder / "plain.mp4", g=25)
    for name, options in {
        "faststart.mp4": {"movflags": "+faststart"},
        "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
        "plain.mkv": {},
        "plain.ts": {},
    }.items():
        copy = ffmpeg.output(ffmpeg.input(str(plain)), str(folder / name), c="copy", **options)
        run_ffmpeg(copy.compile(cmd=ffmpeg_exe()))
    encode(source, folder / "plain.avi", vcodec="mpeg4", preset=None)
    colours = [
        ffmpeg.input(f"color={c}:s=160x90:r=25:d={d}", f="lavfi") for c, d in (("red", 2), ("blue", 1), ("green", 3))
    ]
    encode(ffmpeg.concat(*colours), folder / "colours.mp4")
    return folder


@pytest.fixture(scope="session")
def make() -> Make:
    return encode
