"""Writes one span of a video as a separate file: exactly the frames of the span, encoded again."""

from __future__ import annotations

import os
from pathlib import Path

from m2raap.video.ffmpeg import FfmpegFailed, FfmpegTimeout, descriptor_url, ffmpeg_exe, file_url, guard, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import open_regular
from m2raap.video.scenes import Scenes

CRF = 18  # x264's constant rate factor; at 18 the copy looks like the source
# Seeks are inexact in some containers, so they aim earlier than the I-frame that the span needs; frames before the span are
# trimmed by time.
_SEEK_BACK_S = 5.0
_MARGIN_S = 0.0005  # more than the rounding of times to microseconds, less than the distance of two frames
STILL_FPS = 5  # of a piece of a still
_NO_FRAME = "nothing was encoded"  # what ffmpeg says of an empty file, which it writes unless it is told to abort
_GLOBAL = ("-copyts", "-filter_complex_threads", "1", "-abort_on", "empty_output")
# `trim` rounds to the unit of time stamps, which may be as long as a frame.
_FINE_TIMES = "if(gt(intb,1/900),AVTB,intb)"


def cut(path: Path, start_s: float, end_s: float, scenes: Scenes, out: Path, limits: VideoConfig) -> None:
    """Writes the frames of [start_s, end_s) of the video at `path` to `out` as H.264 in MP4, without audio.

    The frames keep their distances in time. Of a span in which no frame begins, which may be a piece of a long still, it
    writes the frame that is displayed then, STILL_FPS times a second. `scenes` are those of the video. `out` is complete, or
    absent after an error. The same input gives the same bytes. Raises Refused: what `open_regular` raises, timeout and corrupt.
    """
    try:
        try:
            _write(path, start_s, end_s, scenes, out, limits)
        except FfmpegFailed as error:
            if _NO_FRAME not in str(error):
                raise
            _write(path, start_s, end_s, scenes, out, limits, STILL_FPS)
    except FfmpegTimeout as error:
        raise Refused("timeout", str(error)) from None
    except FfmpegFailed as error:
        raise Refused("corrupt", str(error)) from None


def _write(
    path: Path, start_s: float, end_s: float, scenes: Scenes, out: Path, limits: VideoConfig, fps: int | None = None
) -> None:
    import ffmpeg

    seek_s = max((key_s for key_s in scenes.keys_s if key_s <= start_s), default=0.0) - _SEEK_BACK_S
    seek = {"ss": f"{seek_s:.6f}"} if seek_s > 0 else {}
    source = ffmpeg.input("from", **guard(limits), **seek)
    frames = source[str(scenes.stream)]
    low_s, high_s = (scenes.origin_s + time_s - _MARGIN_S for time_s in (start_s, end_s))
    frames = frames.filter("settb", _FINE_TIMES)
    if fps is not None:
        frames = frames.filter("fps", fps, start_time=f"{low_s:.6f}")
    frames = frames.filter("trim", start=f"{low_s:.6f}", end=f"{high_s:.6f}").filter("setpts", "PTS-STARTPTS")
    frames = frames.filter("crop", "trunc(iw/2)*2", "trunc(ih/2)*2", 0, 0)  # 4:2:0 needs even sides
    out.parent.mkdir(parents=True, exist_ok=True)
    temp = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    coded = {
        "f": "mp4", "vcodec": "libx264", "crf": CRF, "preset": "veryfast", "pix_fmt": "yuv420p", "threads": 1,
        "fps_mode": "passthrough", "movflags": "+faststart", "map_metadata": -1, "map_chapters": -1,
        "fflags": "+bitexact", "flags:v": "+bitexact",
    }  # fmt: skip
    target = ffmpeg.output(frames, "to", **coded).global_args(*_GLOBAL)
    # The paths are filled in last, because ffmpeg-python fails on file names that are not UTF-8.
    file, _ = open_regular(path, limits)
    descriptor = file.fileno()
    urls = {"from": descriptor_url(descriptor), "to": file_url(temp)}
    argv = [urls.get(word, word) for word in map(str, target.compile(cmd=ffmpeg_exe()))]
    try:
        run_ffmpeg(argv, timeout_s=limits.timeout_s, limits=limits, descriptors=[descriptor])
        with open(temp, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temp, out)
    finally:
        file.close()
        temp.unlink(missing_ok=True)
