"""Bad files: each is refused in bounded time with its class, opens no other file, and affects no file after it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import UNREADABLE
from m2raap.core.runner import run_data_stage
from m2raap.core.view import View, open_view
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.video import container
from m2raap.video.clip import KeyframeConfig
from m2raap.video.extract import extract
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.probe import examine, probe
from m2raap.video.worker import VideoWorker
from tests.video.bad_media.case import Case, Sources
from tests.video.bad_media.corpus import CASES, UNDECODABLE
from tests.video.bad_media.disguises import DISGUISES
from tests.video.bad_media.watch import Watch

CFG = KeyframeConfig(k=4)
CLASSES = [
    "ok", "empty", "not_media", "no_video_stream", "header_missing", "truncated", "corrupt", "timeout", "out_of_memory",
    "too_large", "unsupported_codec", "refused_format",
]  # fmt: skip
MAX_S = 20.0  # for a file of two seconds, on a busy machine
DEFAULT = [case for case in CASES if not case.limits]
LIMITED = [case for case in CASES if case.limits]
GOOD = [
    case for case in DEFAULT if case.name in ("plain.mp4", "plain.avi", "vp9.webm", "sound.ts", "-i.mp4", "odd.mp4")
]


@pytest.fixture(scope="module")
def worker() -> Iterator[VideoWorker]:
    with VideoWorker() as worker:
        yield worker


@pytest.fixture
def canary(media_sources: Sources) -> Iterator[Watch]:
    if not Watch.supported:
        pytest.skip("watching files needs inotify, which only Linux has")
    watch = Watch(media_sources.canary)
    yield watch
    watch.close()


def test_every_class_has_cases() -> None:
    assert len(CASES) >= 60
    assert {case.reason for case in CASES} == {*CLASSES, "missing_file", "outside_root"}
    assert set(CLASSES) - {"ok"} < set(UNREADABLE)


def class_of(bad_media: Path, case: Case, worker: VideoWorker) -> tuple[str, str]:
    """The classes of the file by a full decode and by extraction."""
    try:
        path = resolve_video(bad_media, case.name)
    except Refused as refusal:
        return refusal.reason, refusal.reason
    try:
        found = worker.examine(path)
        examined = found.fault or "ok"
        if examined == "ok":
            assert case.frames is None or found.frames_decoded == case.frames, found
    except Refused as refusal:
        examined = refusal.reason
    try:
        clip = worker.extract(path, 0.0, None, CFG)
        extracted = "ok"
        assert 1 <= len(clip.jpegs) <= 4 and len(clip.times_s) + clip.signals["shortfall"] == 4
    except Refused as refusal:
        extracted = refusal.reason
    return examined, extracted


@pytest.mark.parametrize("case", DEFAULT, ids=lambda case: ascii(case.name))
def test_class(bad_media: Path, worker: VideoWorker, case: Case) -> None:
    before, start = worker.pid, time.monotonic()
    assert class_of(bad_media, case, worker) == (case.reason, case.reason)
    assert time.monotonic() - start < MAX_S
    assert before in (None, worker.pid), "the file ended the decoder's process"


@pytest.mark.parametrize("case", LIMITED, ids=lambda case: case.name)
def test_class_under_a_limit(bad_media: Path, case: Case) -> None:
    start, limits, path = time.monotonic(), VideoConfig(**case.limits), resolve_video(bad_media, case.name)
    if case.reason in ("timeout", "out_of_memory"):
        with VideoWorker(limits) as worker, pytest.raises(Refused, match=case.reason):
            worker.examine(path)
        assert time.monotonic() - start < MAX_S
        return
    for read in (
        lambda: examine(path, limits),
        lambda: probe(path, limits),
        lambda: extract(path, 0.0, None, CFG, limits),
    ):
        with pytest.raises(Refused, match=case.reason):
            read()


@pytest.mark.parametrize("case", DEFAULT, ids=lambda case: ascii(case.name))
def test_the_probe_refuses_no_good_file_and_gives_no_other_class(bad_media: Path, case: Case) -> None:
    try:
        path = resolve_video(bad_media, case.name)
        probe(path, VideoConfig())
    except Refused as refusal:
        assert refusal.reason == case.reason
    else:
        assert case.reason in ("ok", "truncated", "corrupt")  # which only a full decode may show


def test_a_name_that_is_not_utf_8(bad_media: Path, worker: VideoWorker) -> None:
    path = resolve_video(bad_media, os.fsdecode(UNDECODABLE))
    assert worker.examine(path) == worker.examine(bad_media / "plain.mp4")


def test_a_pipe_does_not_block(bad_media: Path) -> None:
    """Also where nobody looked at the kind of file before."""
    for path in (bad_media / "fifo.mp4", bad_media / "folder.mp4", Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(Refused) as refusal:
            examine(path, VideoConfig())
        assert refusal.value.reason in ("not_media", "missing_file", "outside_root")  # /dev/stdin is a link


def test_no_byte_outside_the_corpus_is_read(
    bad_media: Path, worker: VideoWorker, canary: Watch, media_sources: Sources
) -> None:
    for case in DEFAULT:
        if case.reason != "ok" or case.name in ("other_sample_file.mp4", "concat:a.mp4|b.mp4", "file:plain.mp4"):
            class_of(bad_media, case, worker)
    assert canary.touched() == set()
    (media_sources.canary / "canary.ts").read_bytes()
    assert canary.touched() == {"canary.ts"}  # shows that the watch works


def test_without_the_look_at_the_first_bytes(bad_media: Path, canary: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's whitelist of formats is enough without the look at the first bytes."""
    monkeypatch.setattr(container, "refuse_by_head", lambda file: None)
    for name in DISGUISES:
        with pytest.raises(Refused) as refusal:
            examine(bad_media / name, VideoConfig())
        assert refusal.value.reason in ("refused_format", "not_media"), name
    assert canary.touched() == set()


def test_without_the_whitelist_of_formats(bad_media: Path, canary: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A playlist is opened, and its request to open another file is refused."""
    monkeypatch.setattr(container, "refuse_by_head", lambda file: None)
    monkeypatch.setattr(container, "FORMATS", container.FORMATS + ",hls")
    monkeypatch.setattr(
        container._Nameless, "name", "list.m3u8"
    )  # without a name FFmpeg would not recognise the playlist
    with pytest.raises(Refused, match="refused_format: .*canary"):
        examine(bad_media / "hls.m3u8", VideoConfig())
    assert canary.touched() == set()


def test_good_files_among_bad_ones(bad_media: Path, worker: VideoWorker) -> None:
    """Good clips give the same frames after bad files, a time-out and a killed child."""
    alone = [worker.extract(bad_media / case.name, 0.0, None, CFG) for case in GOOD]
    rest = [case for case in DEFAULT if case.reason != "ok"]
    between: list[list[str]] = [[case.name for case in rest[i :: len(GOOD)]] for i in range(len(GOOD))]
    between[2].append("endless.ts")
    with VideoWorker(VideoConfig(timeout_s=3.0)) as worker:
        for i, case in enumerate(GOOD):
            for name in between[i]:
                with pytest.raises(Refused):
                    worker.extract(resolve_video(bad_media, name), 0.0, None, CFG)
            if i == 4 and worker.pid:
                os.kill(worker.pid, signal.SIGSEGV)
            assert worker.extract(bad_media / case.name, 0.0, None, CFG) == alone[i]


def test_good_files_among_bad_ones_in_a_stage(bad_media: Path, tmp_path: Path) -> None:
    """The key-frames of the good clips are the same rows with and without all the bad ones in the corpus."""
    bad = [case for case in DEFAULT if case.reason != "ok"]
    frames = {}
    for name, cases in {"good": GOOD, "all": GOOD + bad}.items():
        clips = [{"clip_id": case.name, "video": case.name, "split": "train"} for case in cases]
        texts = [
            {
                "text_id": c["clip_id"],
                "clip_id": c["clip_id"],
                "lang": "en",
                "text": "x",
                "origin": "raw",
                "active": True,
            }
            for c in clips
        ]
        write_corpus(tmp_path / name, clips, texts, video_root=bad_media, source={}, num_parts=2)
        settings = KeyframesConfig(k=4, min_frames=1)
        view, out = View(tmp_path / name), tmp_path / f"{name}-frames"
        assert run_data_stage(KeyframesStage(settings), view, out, LocalEngine(1))
        after = open_view(out)
        parts = [after.part(i, ("frames", "dropped")) for i in range(2)]
        frames[name] = {clip["clip_id"]: part.frames[clip["clip_id"]] for part in parts for clip in part.clips}
        if name == "all":
            reasons = {row["clip_id"]: row["reason"] for i in range(2) for row in after.dropped(i)}
            assert reasons == {case.name: case.reason for case in bad}
    assert frames["good"] == frames["all"] and set(frames["all"]) == {case.name for case in GOOD}


def test_the_class_of_a_file_does_not_depend_on_the_file_before(bad_media: Path) -> None:
    """FFmpeg's last message stays in the process, and a repeated one is logged late: neither may affect the next file."""
    for before in ("16k_frame.avi", "vast_frames.avi"):
        for name, reason in ((before, "too_large"), ("key_frame_lost.mp4", "corrupt")):
            with pytest.raises(Refused) as refused:
                probe(bad_media / name, VideoConfig())
            assert refused.value.reason == reason
