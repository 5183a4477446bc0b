"""Runs the ffmpeg program with a time-out and limits, and without a shell.

ffmpeg-python builds the arguments (`ffmpeg.input(...).output(...).compile(cmd=ffmpeg_exe())`); its `run()` has no time-out,
so it is not used.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from m2raap.core.errors import M2raapError
from m2raap.video.limits import CODECS, FORMATS, SOUND_CODECS, VideoConfig

# On Linux ffmpeg ends with the thread that started it, which waits for it: an orphan would go on to encode.
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class FfmpegFailed(M2raapError):
    """ffmpeg ended with an error; the message holds the end of its error output."""


class FfmpegTimeout(FfmpegFailed):
    """ffmpeg was killed because it took too long."""


def guard(limits: VideoConfig) -> dict[str, str | int]:
    """Keyword arguments for ffmpeg.input() of an untrusted file."""
    return {
        "protocol_whitelist": "file,pipe",
        "format_whitelist": FORMATS,
        "codec_whitelist": f"{CODECS},{SOUND_CODECS}",
        "max_pixels": limits.max_pixels,
        "threads": 1,
    }


def ffmpeg_exe() -> str:
    """Path of the ffmpeg program that imageio-ffmpeg ships, or that the variable IMAGEIO_FFMPEG_EXE names."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def file_url(path: Path) -> str:
    """`path` in the form in which ffmpeg takes names such as `-x`, `concat:y` or `http:z` for file names."""
    return f"file:{path.absolute()}"


def descriptor_url(descriptor: int) -> str:
    """The address under which ffmpeg opens a file that it inherits, whatever has become of the file's name."""
    return f"file:/dev/fd/{descriptor}"


def run_ffmpeg(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout_s: float = 120.0,
    limits: VideoConfig | None = None,
    descriptors: Sequence[int] = (),
) -> bytes:
    """Runs ffmpeg (`argv[0]` is the program) and returns its stdout. Output files are overwritten.

    After `timeout_s` seconds the whole process group is killed. `limits`, for an untrusted file, bounds memory, CPU time and
    the size of the output. `descriptors`: open files that ffmpeg inherits (`descriptor_url`). Raises FfmpegTimeout, and
    FfmpegFailed with the end of ffmpeg's error output.
    """
    argv = [argv[0], "-hide_banner", "-loglevel", "error", *(["-nostdin"] if stdin is None else []), "-y", *argv[1:]]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=descriptors,
        preexec_fn=None if limits is None else partial(_limit, limits.memory_mb * 1024**2, limits.max_bytes, timeout_s),
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except BaseException as error:  # also after Ctrl-C, so that no ffmpeg process is left running
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
    """Runs in the child between fork and exec, where only system calls are safe."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
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
