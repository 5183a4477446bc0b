"""The program of the decoder's child process: it reads requests from stdin until that is closed, and answers on stdout.

`VideoWorker` starts it as `python -m m2raap.video.child`.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from m2raap.core.engine import exit_with_parent
from m2raap.video import wire
from m2raap.video.extract import KeyframeConfig, extract
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.picture import decode_picture
from m2raap.video.probe import examine, probe
from m2raap.video.sample import sample
from m2raap.video.scenes import find_scenes, thumbnails
from m2raap.video.sound import read_sound

_CPU_SLACK_S = 5


def main() -> None:
    # Answers go out on a copy of stdout; stdout itself becomes stderr, so that a library that prints cannot disturb them.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def read(num_bytes: int) -> bytes:
        data = sys.stdin.buffer.read(num_bytes)
        if len(data) < num_bytes:
            raise SystemExit(0)  # the parent has closed the pipe
        return data

    request, _ = wire.unpack(read)
    exit_with_parent(request["parent"])
    limits = VideoConfig.model_validate(request["limits"])
    _import_packages()
    _limit(resource.RLIMIT_AS, limits.memory_mb * 1024**2)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 16 * 1024**2)  # only error messages are written
    answers.write(wire.pack({}, []))
    answers.flush()
    while True:
        request, data = wire.unpack(read)
        _allow_cpu(limits.timeout_s)
        head, blobs = _answer(request, data, limits)
        answers.write(wire.pack(head, blobs))
        answers.flush()


def _answer(request: dict[str, Any], data: list[bytes], limits: VideoConfig) -> tuple[dict[str, Any], list[bytes]]:
    try:
        if request["do"] == "picture":
            picture = decode_picture(data[0])
            return {"width": picture.width, "height": picture.height}, [picture.pixels]
        path = Path(request["path"])
        if request["do"] == "probe":
            return dataclasses.asdict(probe(path, limits)), []
        if request["do"] == "examine":
            return dataclasses.asdict(examine(path, limits)), []
        if request["do"] == "sample":
            names = ("path", "do")
            sampled = sample(path, limits=limits, **{key: value for key, value in request.items() if key not in names})
            return {"times_s": sampled.times_s, "width": sampled.width, "height": sampled.height}, sampled.pixels
        if request["do"] == "scenes":
            return dataclasses.asdict(find_scenes(path, request["detector"], request["min_shot_s"], limits)), []
        if request["do"] == "thumbnails":
            thumbs = thumbnails(path, request["start_s"], request["end_s"], request["after_s"], limits)
            return {"times_s": thumbs.times_s, "more": thumbs.more}, [thumbs.pixels]
        if request["do"] == "sound":
            sound = read_sound(path, request["start_s"], request["length_s"], limits)
            return {"state": sound.state}, [] if sound.db_SF is None else [sound.db_SF.tobytes()]
        cfg = KeyframeConfig.model_validate(request["cfg"])
        clip = extract(path, request["start_s"], request["end_s"], cfg, limits, request["cuts_s"])
        head = {f.name: getattr(clip, f.name) for f in dataclasses.fields(clip) if f.name not in ("jpegs", "motion")}
        return head, clip.jpegs + ([clip.motion] if clip.motion is not None else [])
    except Refused as refusal:
        return {"refused": refusal.reason, "detail": refusal.detail}, []
    except MemoryError as error:
        return {"refused": "out_of_memory", "detail": str(error)}, []
    except Exception as error:
        # OpenCV and Python report a lack of memory by these messages. Every other exception is a bug in m2raap: the parent
        # tries the file once more in a new child, and then refuses it.
        if "Insufficient memory" in str(error) or "can't start new thread" in str(error):
            return {"refused": "out_of_memory", "detail": str(error)}, []
        return {"bug": traceback.format_exc()}, []


def _import_packages() -> None:
    """Imports the large packages, whose time and memory are then not counted against the first clip."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("tqdm", None)  # PySceneDetect does without; its progress bars import asyncio and ssl
    import av
    import cv2
    import scenedetect.detectors
    from PIL import Image

    cv2.setNumThreads(1)
    Image.preinit()
    assert av and scenedetect
    # Garbage collections go through all modules otherwise, and come every few frames.
    gc.freeze()
    gc.set_threshold(10_000)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, hard))


def _allow_cpu(timeout_s: float) -> None:
    """Limits the CPU time of the next call. The system's limit counts from the start of the process, so each call raises it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + timeout_s) + _CPU_SLACK_S)


if __name__ == "__main__":
    main()
