"""Damage anywhere in a file gives an answer or a reason, in every call; bench/fuzz_media.py tries thousands of cases."""

from __future__ import annotations

import errno
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import UNREADABLE
from m2raap.core.runner import run_data_stage
from m2raap.core.view import View, open_view
from m2raap.stages import keyframes
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.video import container
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import examine, probe
from m2raap.video.worker import VideoWorker, WorkerBug, _ChildEnded
from tests.video.bad_media.case import Sources
from tests.video.bad_media.damage import CALLS, FILES, damaged
from tests.video.bad_media.surgery import patched, renamed

CASES_PER_FILE, CALLS_PER_CASE = 6, 2


@pytest.fixture(scope="module")
def worker() -> Iterator[VideoWorker]:
    with VideoWorker() as worker:
        yield worker


def reason_of(call: str, worker: VideoWorker, path: Path) -> str | None:
    """None for an answer. Raises what the call raises except Refused: a bug."""
    try:
        CALLS[call](worker, path)
    except Refused as refusal:
        return refusal.reason
    return None


@pytest.mark.parametrize("name", FILES)
def test_random_damage(media_sources: Sources, tmp_path: Path, worker: VideoWorker, name: str) -> None:
    """The decoder's process keeps running, too."""
    path = tmp_path / "x"
    for seed in range(CASES_PER_FILE):
        rng = random.Random(f"{name} {seed}")
        path.write_bytes(damaged(media_sources(name), rng))
        for call in rng.sample(list(CALLS), CALLS_PER_CASE):
            pid = worker.pid
            reason = reason_of(call, worker, path)
            assert reason is None or (reason in UNREADABLE and reason not in ("missing_file", "outside_root"))
            assert pid in (None, worker.pid) or reason in ("out_of_memory", "timeout")


def no_times(s: Sources) -> bytes:
    """FFmpeg cannot seek in it, which it reports as a missing permission."""
    return renamed(s("plain.mp4"), b"stts", b"skip")


def rate_of_avi(scale: int, rate: int) -> bytes:
    return struct.pack("<II", scale, rate)


def slow_avi(s: Sources) -> bytes:
    data = s("plain.avi")
    return patched(data, data.index(b"strh") + 28, rate_of_avi(0x7FFFFFFF, 1))


def fast_avi(s: Sources) -> bytes:
    data = s("plain.avi")
    return patched(data, data.index(b"strh") + 28, rate_of_avi(1, 0x7FFFFFFF))


@pytest.mark.parametrize("make", [no_times, slow_avi, fast_avi])
def test_every_call_on_an_impossible_header(media_sources: Sources, tmp_path: Path, worker: VideoWorker, make) -> None:
    path = tmp_path / "x"
    path.write_bytes(make(media_sources))
    reasons = {call: reason_of(call, worker, path) for call in CALLS}
    assert set(reasons.values()) <= {None, "truncated", "corrupt"}
    if make is no_times:
        assert None not in {reason for call, reason in reasons.items() if call.startswith(("extract", "sample"))}


def test_more_entries_than_ffmpeg_accepts_is_no_lack_of_memory(media_sources: Sources, tmp_path: Path) -> None:
    data = media_sources("plain.mp4")
    at = data.index(b"ctts") + 8
    (tmp_path / "x.mp4").write_bytes(patched(data, at, b"\xff" * 4))
    try:
        probe(tmp_path / "x.mp4", VideoConfig())
    except Refused as error:
        assert error.reason != "out_of_memory"


@pytest.mark.parametrize("allowed", [0, 12])
def test_a_failing_disk_is_no_bug(media_sources: Sources, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    path, reads = media_sources.folder / "busy.ts", []
    init = container._Nameless.__init__

    def start(self: object, raw: object) -> None:
        init(self, raw)  # type: ignore[arg-type]
        read = self.read  # type: ignore[attr-defined]

        def failing(num_bytes: int) -> bytes:
            reads.append(num_bytes)
            if len(reads) > allowed:
                raise OSError(errno.EIO, "Input/output error")
            return read(num_bytes)

        self.read = failing  # type: ignore[attr-defined]

    monkeypatch.setattr(container._Nameless, "__init__", start)
    monkeypatch.setattr(container, "_READ_BYTES", 4096)
    with pytest.raises(Refused, match="Input/output error") as refusal:
        examine(path, VideoConfig())
    assert refusal.value.reason == "missing_file"


def test_one_clip_fails_as_one_in_a_stage(
    media_sources: Sources, tmp_path: Path, worker: VideoWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip far behind every video, a file that cannot seek, and one that meets a bug: each is a row of `dropped`."""
    root = tmp_path / "videos"
    root.mkdir()
    for name, make in {
        "good.mp4": lambda s: s("plain.mp4"),
        "seek.mp4": no_times,
        "bug.mp4": lambda s: s("plain.mp4"),
    }.items():
        (root / name).write_bytes(make(media_sources))
    spans = {"good": 0.0, "late": 9e15, "seek": 0.7, "bug": 0.0}
    video_of = {"late": "good.mp4"}
    clips = [
        {"clip_id": name, "video": video_of.get(name, f"{name}.mp4"), "split": "train", "start_s": start_s or None}
        for name, start_s in spans.items()
    ]
    texts = [
        {"text_id": name, "clip_id": name, "lang": "en", "text": "x", "origin": "raw", "active": True} for name in spans
    ]
    write_corpus(tmp_path / "C", clips, texts, video_root=root, source={}, num_parts=1)
    attempt = VideoWorker._attempt

    def with_a_bug(worker: VideoWorker, request: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        if "bug.mp4" in request["path"]:
            raise _ChildEnded(WorkerBug("Traceback\nKeyError: 'x'"))
        return attempt(worker, request)

    monkeypatch.setattr(VideoWorker, "_attempt", with_a_bug)
    monkeypatch.setattr(keyframes, "video_worker", lambda limits: worker)  # spares the start of another child
    monkeypatch.setattr(VideoWorker, "stop_at_bugs", False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stage = KeyframesStage(KeyframesConfig(k=4, min_frames=1))
    assert run_data_stage(stage, View(tmp_path / "C"), tmp_path / "K", LocalEngine(1))
    after = open_view(tmp_path / "K")
    reasons = {row["clip_id"]: row["reason"] for row in after.dropped(0)}
    assert reasons == {"late": "truncated", "seek": "corrupt", "bug": "decoder_bug"} and set(reasons.values()) <= set(
        UNREADABLE
    )
    assert [clip["clip_id"] for clip in after.part(0).clips] == ["good"]
