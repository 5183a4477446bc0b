"""Writes frames as mp4 with ffmpeg: the same frames give the same bytes."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from m2raap.core.errors import M2raapError

_TIMEOUT_S = 60


@cache
def _exe() -> str:
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def encode(
    frames: np.ndarray,
    fps: int,
    path: Path,
    crf: int = 16,
    index_first: bool = False,
    sound: tuple[np.ndarray, int] | None = None,
) -> None:
    """Writes uint8 (T, H, W, 3) as h264 in mp4; `index_first` puts the moov atom before the data. `sound`: float32 (N,) from -1
    to 1 and its rate in Hz, written as AAC.

    Raises M2raapError if ffmpeg fails.
    """
    import ffmpeg

    height, width = frames.shape[1:3]
    source = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)
    options = {
        "vcodec": "libx264", "crf": crf, "preset": "veryfast", "pix_fmt": "yuv420p", "threads": 1, "g": 24,
        "fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1, "loglevel": "error",
    }  # fmt: skip
    if index_first:
        options["movflags"] = "+faststart"
    with tempfile.TemporaryDirectory(prefix="m2raap-world-") as temp:
        streams = [source]
        if sound is not None:
            samples = Path(temp) / "sound.f32"
            samples.write_bytes(sound[0].astype("<f4").tobytes())
            streams.append(ffmpeg.input(str(samples), format="f32le", ar=sound[1], ac=1))
            options |= {"acodec": "aac", "b:a": "64k", "flags:a": "+bitexact"}
        output = ffmpeg.output(*streams, str(path), **options).global_args("-nostdin").overwrite_output()
        argv = output.compile(cmd=_exe())
        done = subprocess.run(argv, input=frames.tobytes(), capture_output=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise M2raapError(
            f"{path}: ffmpeg could not write the video: {done.stderr.decode(errors='replace').strip()[-400:]}"
        )
