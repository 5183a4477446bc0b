from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ffmpeg
import pytest

from m2raap.video import wire
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
        for start_s, end_s in ((3.0, 3.0), (float("nan"), None), (9e15, None), (1e308, 1.1e308)):
            for call in (
                partial(worker.extract, cfg=CFG),
                partial(worker.sample, places=[0.5], short_side_px=32),
                lambda *span: list(worker.thumbnails(*span)),
            ):
                with pytest.raises(Refused) as refusal:
                    call(clips / "plain.mp4", start_s, end_s)
                assert refusal.value.reason == "truncated" and f"{start_s:g} s" in refusal.value.detail.replace(
                    ".0", ""
                )
        assert worker.pid == pid
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


class Wire:
    """Lets a test change the messages between a worker and its children: see `wire.pack` and `wire.unpack`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.request: dict[str, Any] = {}  # the last one that was sent
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda request: request
        self.before_answer: Callable[[], dict[str, Any] | None] = lambda: None
        pack, unpack = wire.pack, wire.unpack

        def send(head: dict[str, Any], blobs: Sequence[bytes]) -> bytes:
            self.request = head
            return pack(self.change(head), blobs)

        def receive(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[bytes]]:
            answer = self.before_answer() if self.request["do"] != "start" else None
            return unpack(read) if answer is None else (answer, [])

        monkeypatch.setattr(wire, "pack", send)
        monkeypatch.setattr(wire, "unpack", receive)


def kill_children(lines: Wire, worker: VideoWorker, number: int, times: int) -> set[int]:
    """Sends `number` to each of the worker's next `times` children once they have a request; fills the set of their ids."""
    killed: set[int] = set()

    def kill() -> None:
        if worker.pid is not None and len(killed) < times:
            killed.add(worker.pid)
            os.kill(worker.pid, number)

    lines.before_answer = kill
    return killed


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


@pytest.fixture(scope="module")
def long_clip(make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes a second or so to decode."""
    source = ffmpeg.input("testsrc2=s=640x360:r=25:d=16", f="lavfi")
    return make(source, tmp_path_factory.mktemp("long") / "long.mp4")


def test_a_clip_is_not_refused_when_one_child_is_killed(long_clip: Path, lines: Wire) -> None:
    with VideoWorker() as worker:
        whole = worker.examine(long_clip)
        killed = kill_children(lines, worker, signal.SIGSEGV, 1)
        assert worker.examine(long_clip) == whole
        assert len(killed) == 1 and worker.pid not in killed


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGSEGV, "corrupt"), (signal.SIGKILL, "out_of_memory"), (signal.SIGXCPU, "timeout")]
)
def test_a_clip_that_kills_two_children_is_refused(
    long_clip: Path, clips: Path, lines: Wire, number: int, reason: str
) -> None:
    times = 1 if reason == "timeout" else 2
    with VideoWorker() as worker:
        killed = kill_children(lines, worker, number, times)
        with pytest.raises(Refused) as refusal:
            worker.examine(long_clip)
        assert refusal.value.reason == reason and len(killed) == times
        assert worker.probe(clips / "plain.mp4").width == 160


def test_a_clip_is_not_refused_for_memory_that_earlier_clips_used(clips: Path, lines: Wire) -> None:
    with VideoWorker() as worker:
        first = worker.probe(clips / "plain.mp4")
        answers = [{"refused": "out_of_memory", "detail": "a full heap"}]
        lines.before_answer = lambda: answers.pop() if answers else None
        pid = worker.pid
        assert worker.probe(clips / "plain.mp4") == first
        assert worker.pid != pid and not answers


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


def test_a_bug_is_not_reported_as_a_refusal(clips: Path, lines: Wire) -> None:
    with VideoWorker() as worker:
        lines.change = lambda request: {key: value for key, value in request.items() if key != "start_s"}
        with pytest.raises(WorkerBug, match="KeyError"):
            worker.extract(clips / "plain.mp4", 0.0, None, CFG)
        lines.change = lambda request: request
        assert worker.probe(clips / "plain.mp4").width == 160


def test_a_bug_costs_one_file(
    clips: Path, lines: Wire, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is refused and named, the traceback kept once, and the next file is read."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = {str(clips / name): name for name in ("plain.mp4", "plain.mkv", "plain.ts")}
    lines.before_answer = lambda: (
        {"bug": f"Traceback\nlines of it\nKeyError: {'x' * 3}"}
        if lines.request["path"].endswith(("mp4", "mkv"))
        else None
    )
    with VideoWorker() as worker:
        worker.stop_at_bugs = False
        monkeypatch.setattr(worker, "_start", lambda: worker._child or VideoWorker._start(worker))
        monkeypatch.setattr(worker, "close", lambda: None)  # spares the start of four children
        reasons = {}
        for path, name in names.items():
            try:
                reasons[name] = str(worker.probe(Path(path)).width)
            except Refused as refusal:
                reasons[name] = f"{refusal.reason} {refusal.detail}"
        assert reasons == dict.fromkeys(("plain.mp4", "plain.mkv"), "decoder_bug KeyError: xxx") | {"plain.ts": "160"}
        monkeypatch.undo()
    screen = capsys.readouterr().err
    (log,) = tmp_path.glob("m2raap-error-*.log")
    assert "lines of it" in log.read_text() and screen.count(str(log)) == 2
    assert all(str(clips / name) in screen for name in ("plain.mp4", "plain.mkv"))


def test_the_child_ends_with_its_parent() -> None:
    """Also while it decodes: a thread looks, so the pipe on which requests come need not be read."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "m2raap.video.child"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert child.stdin is not None
    try:
        start = {"do": "start", "limits": VideoConfig().model_dump(mode="json"), "parent": os.getpid() + 1}
        child.stdin.write(wire.pack(start, []))
        child.stdin.flush()
        assert child.wait(timeout=60) == 1
    finally:
        child.kill()
        child.stdin.close()


def test_refused_can_be_pickled() -> None:
    refusal = pickle.loads(pickle.dumps(Refused("timeout", "too long")))
    assert (refusal.reason, refusal.detail, str(refusal)) == ("timeout", "too long", "timeout: too long")
