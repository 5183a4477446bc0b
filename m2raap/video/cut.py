"""Writes one span of a video as a separate file: exactly the frames of the span, encoded again."""

from __future__ import annotations

import os
from pathlib import Path

from m2raap.video.ffmpeg import FfmpegFailed, FfmpegTimeout, descriptor_url, ffmpeg_exe, file_url, guard, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import open_regular

CRF = 18  # x264's constant rate factor; at 18 the copy looks like the source
_SEEK_BACK_S = (
    5.0  # seeks are inexact in some containers, so they aim earlier; frames before the span are trimmed by time
)
_MARGIN_S = 0.0005  # more than the rounding of times to microseconds, less than the distance of two frames


def cut(path: Path, start_s: float, end_s: float, origin_s: float, out: Path, limits: VideoConfig) -> None:
    """Writes the frames of [start_s, end_s) of the video at `path` to `out` as H.264 in MP4, without audio.

    The frames keep their distances in time. `origin_s`: see m2raap.video.scenes.Scenes. `out` is complete, or absent after an
    error. The same input gives the same bytes. Raises Refused: what `open_regular` raises, timeout and corrupt.
    """
    import ffmpeg

    seek = {"ss": f"{start_s - _SEEK_BACK_S:.6f}"} if start_s > _SEEK_BACK_S else {}
    source = ffmpeg.input("from", **guard(limits), **seek)
    frames = source["V:0"]  # a capital V leaves out attached cover pictures
    low_s, high_s = origin_s + start_s - _MARGIN_S, origin_s + end_s - _MARGIN_S
    frames = frames.filter("trim", start=f"{low_s:.6f}", end=f"{high_s:.6f}").filter("setpts", "PTS-STARTPTS")
    frames = frames.filter("crop", "trunc(iw/2)*2", "trunc(ih/2)*2", 0, 0)  # 4:2:0 needs even sides
    out.parent.mkdir(parents=True, exist_ok=True)
    temp = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    coded = {
        "f": "mp4", "vcodec": "libx264", "crf": CRF, "preset": "veryfast", "pix_fmt": "yuv420p", "threads": 1,
        "fps_mode": "passthrough", "movflags": "+faststart", "map_metadata": -1, "map_chapters": -1,
        "fflags": "+bitexact", "flags:v": "+bitexact",
    }  # fmt: skip
    target = ffmpeg.output(frames, "to", **coded).global_args("-copyts", "-filter_complex_threads", "1")
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
    except FfmpegTimeout as error:
        raise Refused("timeout", str(error)) from None
    except FfmpegFailed as error:
        raise Refused("corrupt", str(error)) from None
    finally:
        file.close()
        temp.unlink(missing_ok=True)
