from __future__ import annotations

import os
import pickle
import signal
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
        assert_next_call_works(worker, clips)
        assert worker.pid != pid
    assert worker.pid is None


def assert_next_call_works(worker: VideoWorker, clips: Path) -> None:
    for _ in range(2):
        try:
            assert worker.probe(clips / "plain.mp4").width == 160
            return
        except Refused as refusal:  # the call that finds the child dead in the middle of an answer
            assert refusal.reason == "out_of_memory"
    pytest.fail("two calls failed after one kill")


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


def test_a_child_that_dies_in_a_call(clips: Path) -> None:
    with VideoWorker() as worker:
        worker.probe(clips / "plain.mp4")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)  # so that the request is sent before the signal takes effect
        child = worker._child
        assert child is not None
        for number, reason in ((signal.SIGSEGV, "corrupt"), (signal.SIGXCPU, "timeout")):
            os.kill(child.pid, number)
            os.kill(child.pid, signal.SIGCONT)
            child.wait(timeout=30)
            refusal = worker._why_it_died(child)
            assert isinstance(refusal, Refused) and refusal.reason == reason
            worker.probe(clips / "plain.mp4")
            child = worker._child
            assert child is not None
            os.kill(child.pid, signal.SIGSTOP)


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
