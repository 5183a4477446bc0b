"""Our runner for ffmpeg: argv in, bytes out, with a time-out, limits and no shell.

ffmpeg-python builds the argv (`ffmpeg.input(...).output(...).compile(cmd=ffmpeg_exe())`); its own `run()` has no
time-out, so it is not used.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.video.limits import CODECS, FORMATS, VideoConfig


class FfmpegFailed(M2raapError):
    """ffmpeg ended with an error; the message holds its last words."""


class FfmpegTimeout(FfmpegFailed):
    """ffmpeg was killed because it took too long."""


def guard(limits: VideoConfig) -> dict[str, str | int]:
    """Keyword arguments for ffmpeg.input() of a file that comes from a stranger."""
    return {
        "protocol_whitelist": "file,pipe",
        "format_whitelist": FORMATS,
        "codec_whitelist": f"{CODECS},aac,mp3,ac3,opus,vorbis",
        "max_pixels": limits.max_pixels,
        "threads": 1,
    }


def ffmpeg_exe() -> str:
    """Path of the ffmpeg that imageio-ffmpeg ships (or that its IMAGEIO_FFMPEG_EXE names)."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def file_url(path: Path) -> str:
    """`path` for ffmpeg: names such as `-x`, `concat:y` or `http:z` stay file names."""
    return f"file:{path.absolute()}"


def run_ffmpeg(
    argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 120.0, limits: VideoConfig | None = None
) -> bytes:
    """Runs ffmpeg (`argv[0]` is the program) and returns its stdout. Output files are overwritten.

    On time-out the whole process group is killed. `limits`, for a stranger's file: memory, CPU seconds and the size of
    what is written. Raises FfmpegTimeout, and FfmpegFailed with the tail of ffmpeg's own words.
    """
    argv = [argv[0], "-hide_banner", "-loglevel", "error", *(["-nostdin"] if stdin is None else []), "-y", *argv[1:]]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=None if limits is None else partial(_limit, limits.memory_mb * 1024**2, limits.max_bytes, timeout_s),
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except BaseException as error:  # Ctrl-C too: never leave an ffmpeg behind
            kill_group(process)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise FfmpegTimeout(f"ffmpeg took longer than {timeout_s:g} s: {' '.join(argv)[:300]}") from None
            raise
    if process.returncode != 0:
        tail = err.decode("utf-8", "replace").strip()[-500:]
        raise FfmpegFailed(f"ffmpeg failed (exit code {process.returncode}): {tail}")
    return out


def _limit(memory_bytes: int, file_bytes: int, cpu_s: float) -> None:
    """In the child, between fork and exec: nothing but system calls."""
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CPU, int(cpu_s) + 1),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process group that `process` leads (it was started with start_new_session=True)."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
