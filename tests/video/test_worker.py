from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from pathlib import Path

import ffmpeg
import pytest

from m2raap.core.errors import M2raapError
from m2raap.video.extract import KeyframeConfig, extract
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import probe
from m2raap.video.worker import VideoWorker, WorkerBug

CFG = KeyframeConfig(k=4)


def test_same_as_in_process_and_one_child_for_all(clips: Path) -> None:
    limits = VideoConfig()
    with VideoWorker(limits) as worker:
        assert worker.pid is None  # starts at the first call
        assert worker.probe(clips / "plain.mp4") == probe(clips / "plain.mp4", limits)
        pid = worker.pid
        assert worker.extract(clips / "plain.mp4", 1.0, 3.0, CFG) == extract(clips / "plain.mp4", 1.0, 3.0, CFG, limits)
        with pytest.raises(Refused) as refusal:
            worker.probe(clips / "not_there.mp4")
        assert refusal.value.reason == "missing_file"
        assert worker.pid == pid
        with pytest.raises(M2raapError, match="holds nothing"):
            worker.extract(clips / "plain.mp4", 3.0, 3.0, CFG)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert worker.probe(clips / "plain.mp4").width == 160
        assert worker.pid != pid
    assert worker.pid is None


def test_time_out_kills_and_the_next_call_works(clips: Path) -> None:
    with VideoWorker(VideoConfig(timeout_s=0.01)) as worker:
        start = time.monotonic()
        with pytest.raises(Refused) as refusal:
            worker.extract(clips / "plain.mp4", 0.0, None, CFG)
        assert refusal.value.reason == "timeout" and time.monotonic() - start < 60
        assert worker.pid is None
        with pytest.raises(Refused) as refusal:
            worker.extract(clips / "plain.mp4", 0.0, None, CFG)
        assert refusal.value.reason == "timeout"


class Killer(threading.Thread):
    """Sends `number` to each of the worker's children as it decodes, `times` times."""

    def __init__(self, worker: VideoWorker, number: int, times: int) -> None:
        super().__init__(daemon=True)
        self._worker, self._number, self._times = worker, number, times
        self.killed: set[int] = set()

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while len(self.killed) < self._times and time.monotonic() < deadline:
            pid = self._worker.pid
            if pid is not None and pid not in self.killed and self._worker._calls:
                time.sleep(0.05)  # the request is on its way
                os.kill(pid, self._number)
                self.killed.add(pid)
            time.sleep(0.001)


@pytest.fixture(scope="module")
def long_clip(make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes a second or so to decode."""
    source = ffmpeg.input("testsrc2=s=640x360:r=25:d=16", f="lavfi")
    return make(source, tmp_path_factory.mktemp("long") / "long.mp4")


def test_one_death_is_not_blamed_on_the_clip(long_clip: Path) -> None:
    with VideoWorker() as worker:
        whole = worker.examine(long_clip)
        killer = Killer(worker, signal.SIGSEGV, 1)
        killer.start()
        assert worker.examine(long_clip) == whole
        killer.join()
        assert len(killer.killed) == 1 and worker.pid not in killer.killed


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGSEGV, "corrupt"), (signal.SIGKILL, "out_of_memory"), (signal.SIGXCPU, "timeout")]
)
def test_a_clip_that_kills_two_children_is_refused(long_clip: Path, clips: Path, number: int, reason: str) -> None:
    with VideoWorker() as worker:
        killer = Killer(worker, number, 1 if reason == "timeout" else 2)
        killer.start()
        with pytest.raises(Refused) as refusal:
            worker.examine(long_clip)
        killer.join()
        assert refusal.value.reason == reason
        assert worker.probe(clips / "plain.mp4").width == 160


def test_memory_that_earlier_clips_used_up_is_not_held_against_a_clip(clips: Path, monkeypatch) -> None:
    with VideoWorker() as worker:
        first = worker.probe(clips / "plain.mp4")
        answers = [{"refused": "out_of_memory", "detail": "a full heap"}]
        ask = VideoWorker._exchange

        def exchange(self, child, request, timeout_s):
            return (answers.pop(), []) if answers and request["do"] == "probe" else ask(self, child, request, timeout_s)

        monkeypatch.setattr(VideoWorker, "_exchange", exchange)
        pid = worker.pid
        assert worker.probe(clips / "plain.mp4") == first
        assert worker.pid != pid


def test_memory_limit(make, tmp_path: Path) -> None:
    big = make(ffmpeg.input("color=gray:s=7680x4320:r=5:d=0.6", f="lavfi"), tmp_path / "big.mp4")
    with VideoWorker(VideoConfig(memory_mb=512)) as worker:
        with pytest.raises(Refused) as refusal:
            worker.extract(big, 0.0, None, CFG)
        assert refusal.value.reason == "out_of_memory"
    with VideoWorker() as worker:
        assert worker.extract(big, 0.0, None, KeyframeConfig(k=2)).height == 256


def test_children_are_replaced_and_get_no_secrets(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-the-child")
    with VideoWorker(VideoConfig(calls_per_child=2)) as worker:
        pids = []
        for _ in range(3):
            worker.probe(clips / "plain.mp4")
            pids.append(worker.pid)
        assert pids[0] == pids[1] != pids[2]
        environ = Path(f"/proc/{worker.pid}/environ")
        if environ.exists():
            assert b"not-for-the-child" not in environ.read_bytes()
            modules = Path(f"/proc/{worker.pid}/maps").read_text()
            assert "libtorch" not in modules and "pandas" not in modules


def test_our_own_faults_are_not_blamed_on_the_clip(clips: Path) -> None:
    with VideoWorker() as worker:
        with pytest.raises(WorkerBug, match="KeyError"):
            worker._call({"do": "extract", "path": str(clips / "plain.mp4")})
        assert worker.probe(clips / "plain.mp4").width == 160


def test_refused_travels_between_processes() -> None:
    refusal = pickle.loads(pickle.dumps(Refused("timeout", "too long")))
    assert (refusal.reason, refusal.detail, str(refusal)) == ("timeout", "too long", "timeout: too long")
