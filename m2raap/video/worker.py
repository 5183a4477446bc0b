"""Starts and controls the decoder's process: a child that reads all untrusted video files, and that can be killed.

Messages are JSON and raw bytes over pipes (m2raap.video.wire), never pickle, because the child handles hostile data. A child
that exceeds its time, crashes or runs out of memory is killed with its process group and replaced at the next call. A clip is
refused for the end of a child only when a second child ends as well: the first may have been killed for another reason, or
earlier clips may have used up its memory.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import m2raap
from m2raap.core import talk
from m2raap.video import wire
from m2raap.video.extract import ClipKeyframes, KeyframeConfig
from m2raap.video.ffmpeg import kill_group
from m2raap.video.limits import MAX_TIME_S, Refused, VideoConfig
from m2raap.video.motion import MOTION_BYTES
from m2raap.video.picture import DecodedPicture
from m2raap.video.probe import FileHealth, Probe
from m2raap.video.sample import SampledFrames
from m2raap.video.scenes import THUMB_BYTES, Scenes, Thumbnails
from m2raap.video.shots import Detector
from m2raap.video.sound import SOUND_BYTES

_log_of: dict[str, str] = {}  # traceback of a bug -> the log with it, so that a bug of many files fills no disk
_START_TIMEOUT_S = 120.0  # for the imports on a busy machine; they do not count against a clip's time


class WorkerBug(RuntimeError):
    """The child failed in a way that no input should cause, which is a bug in m2raap; the message holds its traceback.

    For a file that causes it twice, `VideoWorker` refuses the file as decoder_bug, unless its `stop_at_bugs` is set.
    """


class _ChildEnded(Exception):
    """The child has ended. `cause` is the exception to raise if the next child ends as well."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


def _refuse_span(start_s: float, end_s: float | None) -> None:
    if not (0 <= start_s < (float("inf") if end_s is None else end_s)):  # NaN too
        raise Refused("truncated", f"the span from {start_s} s to {end_s} s is empty")
    if start_s > MAX_TIME_S:
        raise Refused("truncated", f"the span begins at {start_s:g} s; no video is longer than {MAX_TIME_S:g} s")


def _refused_for(bug: WorkerBug, path: str) -> Refused:
    """The refusal of a file that caused a bug twice. The file is named on the screen, the traceback written to a log."""
    _, _, trace = str(bug).partition("\n")
    last = str(bug).strip().splitlines()[-1]
    log = _log_of.get(trace)
    if log is None:
        log = _log_of[trace] = talk.write_trace(str(bug))
    talk.log(f"{talk.one_line(path)}: refused for a bug in m2raap: {last}; the traceback is in {log}")
    return Refused("decoder_bug", last)


class VideoWorker:
    """Decodes videos in a long-lived child process, which the first call starts. Not for several threads at once.

    Each call returns, or raises Refused, within `cfg.timeout_s` seconds plus the start of a child, or twice that where a child
    ends. Use it as a context manager, or call close().
    """

    stop_at_bugs = False  # True, for tests: a bug of m2raap raises WorkerBug, and is not counted as one refused video

    def __init__(self, cfg: VideoConfig | None = None) -> None:
        self.cfg = cfg or VideoConfig()
        self._child: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._calls = 0
        self._owner = 0

    def __enter__(self) -> VideoWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while no child runs."""
        return self._child.pid if self._child else None

    def probe(self, path: Path) -> Probe:
        """Header figures of the file at `path` (from `resolve_video`). Raises Refused."""
        head, _ = self._call({"do": "probe", "path": str(path)})
        return Probe(**head)

    def examine(self, path: Path) -> FileHealth:
        """Figures and faults of the file by a full decode. Raises Refused for a file that cannot be opened."""
        head, _ = self._call({"do": "examine", "path": str(path)})
        return FileHealth(**head)

    def extract(
        self,
        path: Path,
        start_s: float,
        end_s: float | None,
        cfg: KeyframeConfig,
        cuts_s: Sequence[float] | None = None,
    ) -> ClipKeyframes:
        """Key-frames and signals of the span [start_s, end_s): m2raap.video.extract.extract. Raises Refused, also for a
        span without length or one that begins after MAX_TIME_S."""
        _refuse_span(start_s, end_s)
        request = {
            "do": "extract",
            "path": str(path),
            "start_s": start_s,
            "end_s": end_s,
            "cfg": cfg.model_dump(mode="json"),
            "cuts_s": None if cuts_s is None else list(cuts_s),
        }
        head, blobs = self._call(request)
        count = len(head.get("times_s", ()))
        jpegs, motion = blobs[:count], blobs[count] if len(blobs) > count else None
        if motion is not None and len(motion) != MOTION_BYTES:
            self.close()
            raise Refused("corrupt", "the decoder's process sent an invalid answer: the size of the motion is wrong")
        return ClipKeyframes(**head, jpegs=jpegs, motion=motion)

    def sound(self, path: Path, start_s: float, length_s: float) -> bytes | None:
        """The sound of the span, float16 (96, 64) as m2raap.video.sound.read_sound; None where there is none. Raises Refused,
        also for a span without length or one that begins after MAX_TIME_S."""
        _refuse_span(start_s, start_s + length_s)
        head, blobs = self._call({"do": "sound", "path": str(path), "start_s": start_s, "length_s": length_s})
        if head["state"] == "none":
            return None
        if [len(blob) for blob in blobs] != [SOUND_BYTES]:
            self.close()
            raise Refused("corrupt", "the decoder's process sent an invalid answer: the size of the sound is wrong")
        return blobs[0]

    def sample(
        self, path: Path, start_s: float, end_s: float | None, places: Sequence[float], short_side_px: int
    ) -> SampledFrames:
        """Pixels of frames at `places` (0..1) of the span [start_s, end_s): m2raap.video.sample.sample. Raises as `extract`
        does."""
        _refuse_span(start_s, end_s)
        head, blobs = self._call(
            {
                "do": "sample",
                "path": str(path),
                "start_s": start_s,
                "end_s": end_s,
                "places": list(places),
                "short_side_px": short_side_px,
            }
        )
        sampled = SampledFrames(**head, pixels=blobs)
        if not blobs or any(len(blob) != sampled.width * sampled.height * 3 for blob in blobs):
            self.close()
            raise Refused("corrupt", "the decoder's process sent an invalid answer: the size of the pixels is wrong")
        return sampled

    def scenes(self, path: Path, detector: Detector, min_shot_s: float) -> Scenes:
        """Cuts of the whole video: m2raap.video.scenes.find_scenes. Raises Refused."""
        head, _ = self._call({"do": "scenes", "path": str(path), "detector": detector, "min_shot_s": min_shot_s})
        return Scenes(**head)

    def thumbnails(self, path: Path, start_s: float, end_s: float | None) -> Iterator[Thumbnails]:
        """Thumbnails of all undamaged frames of [start_s, end_s), some thousands at a time. Raises as `extract`
        does."""
        _refuse_span(start_s, end_s)
        after_s = -1.0
        while True:
            head, blobs = self._call(
                {"do": "thumbnails", "path": str(path), "start_s": start_s, "end_s": end_s, "after_s": after_s}
            )
            thumbs = Thumbnails(head["times_s"], blobs[0], head["more"])
            if len(thumbs.pixels) != len(thumbs.times_s) * THUMB_BYTES or (thumbs.more and not thumbs.times_s):
                self.close()
                raise Refused(
                    "corrupt", "the decoder's process sent an invalid answer: the number of thumbnails is wrong"
                )
            yield thumbs
            if not thumbs.more:
                return
            after_s = thumbs.times_s[-1]

    def picture(self, data: bytes, name: str) -> DecodedPicture:
        """An encoded picture as RGB: m2raap.video.picture.decode_picture. `name` is that of messages. Raises Refused."""
        head, blobs = self._call({"do": "picture", "path": name}, [data])
        picture = DecodedPicture(head["width"], head["height"], blobs[0])
        if len(picture.pixels) != picture.width * picture.height * 3:
            self.close()
            raise Refused("corrupt", "the decoder's process sent an invalid answer: the size of the pixels is wrong")
        return picture

    def close(self) -> None:
        """Ends the child. A later call starts a new one."""
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            kill_group(child)
            child.wait()
            assert child.stdin and child.stdout
            child.stdout.close()
            child.stdin.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner != os.getpid():
            # This object was copied by a fork: the child belongs to the other process.
            self._child = None
        if self._child is not None and (self._calls >= self.cfg.calls_per_child or self._child.poll() is not None):
            self.close()
        if self._child is None:
            self._owner, self._calls = os.getpid(), 0
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
            # Only what the child needs, so that no keys or tokens reach the process that reads untrusted files.
            keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")
            env = {name: os.environ[name] for name in keep if name in os.environ}
            paths = [str(Path(m2raap.__path__[0]).parent), os.environ.get("PYTHONPATH", "")]
            env["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
            # One thread per child, because the engine chooses the number of children and OpenBLAS reserves memory per thread.
            env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
            env["PYDANTIC_DISABLE_PLUGINS"] = "1"  # or it reads the metadata of all installed packages
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "m2raap.video.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=env,
                start_new_session=True,
            )
            try:
                request = {"do": "start", "limits": self.cfg.model_dump(mode="json"), "parent": os.getpid()}
                self._exchange(self._child, request, _START_TIMEOUT_S)
            except (TimeoutError, EOFError, BrokenPipeError) as error:
                stderr = self._end_of_stderr()
                self.close()
                raise WorkerBug(f"the decoder's process did not start ({error!r}): {stderr}") from None
        self._calls += 1
        return self._child

    def _call(self, request: dict[str, Any], data: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        with suppress(_ChildEnded):
            return self._attempt(request, data)
        try:
            return self._attempt(request, data)
        except _ChildEnded as ended:
            if isinstance(ended.cause, WorkerBug) and not self.stop_at_bugs:
                raise _refused_for(ended.cause, request["path"]) from None
            raise ended.cause from None

    def _attempt(self, request: dict[str, Any], data: Sequence[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        child = self._start()
        try:
            head, blobs = self._exchange(child, request, self.cfg.timeout_s, data)
        except TimeoutError:
            self.close()
            raise Refused("timeout", f"{request['do']} took longer than {self.cfg.timeout_s:g} s") from None
        except (EOFError, BrokenPipeError):
            cause = self._why_it_ended(child)
            if isinstance(cause, Refused) and cause.reason == "timeout":
                raise cause from None
            raise _ChildEnded(cause) from None
        except wire.BadMessage as error:
            self.close()
            raise Refused("corrupt", f"the decoder's process sent an invalid answer: {error}") from None
        except BaseException:  # after Ctrl-C, the pipe may hold the rest of an answer
            self.close()
            raise
        if "refused" in head:
            refusal = Refused(head["refused"], head["detail"])
            if refusal.reason == "out_of_memory":
                self.close()  # a heap that has reached its limit stays fragmented
                if self._calls > 1:
                    raise _ChildEnded(refusal)
            raise refusal
        if "bug" in head:
            self.close()
            raise _ChildEnded(WorkerBug(f"{request['do']} of {request['path']}:\n{head['bug']}"))
        return head, blobs

    def _exchange(
        self, child: subprocess.Popen[bytes], request: dict[str, Any], timeout_s: float, data: Sequence[bytes] = ()
    ) -> tuple[dict[str, Any], list[bytes]]:
        assert child.stdin and child.stdout
        deadline = time.monotonic() + timeout_s
        child.stdin.write(wire.pack(request, data))
        child.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)

            def read(num_bytes: int) -> bytes:
                parts, missing = [], num_bytes
                while missing:
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        raise TimeoutError
                    part = os.read(child.stdout.fileno(), min(missing, 1 << 20))  # type: ignore[union-attr]  # it was opened with a pipe
                    if not part:
                        raise EOFError
                    parts.append(part)
                    missing -= len(part)
                return b"".join(parts)

            return wire.unpack(read)

    def _why_it_ended(self, child: subprocess.Popen[bytes]) -> Exception:
        stderr = self._end_of_stderr()
        try:
            code = child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code == -signal.SIGXCPU:
            return Refused("timeout", "the decoder's process used more CPU time than the limit")
        if code == -signal.SIGKILL or "MemoryError" in stderr or "bad_alloc" in stderr:
            return Refused("out_of_memory", "the decoder's process was killed or ran out of memory")
        if code is not None and code < 0:
            return Refused("corrupt", f"the decoder's process crashed ({signal.Signals(-code).name})")
        return WorkerBug(f"the decoder's process ended with exit code {code}: {stderr}")

    def _end_of_stderr(self) -> str:
        assert self._stderr is not None
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 2000))
        return self._stderr.read().decode("utf-8", "replace")
