"""The sparse reading compared with the full one, in containers and codecs that seek and flag key-frames differently."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import ffmpeg
import pytest

from m2raap.video.clip import ClipKeyframes, KeyframeConfig
from m2raap.video.container import open_video
from m2raap.video.extract import extract
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.planner import plan_sparse
from m2raap.video.sparse import UNKNOWN
from tests.video.conftest import encode

LIMITS = VideoConfig()
SECONDS = 40
NAMES = ["long.mp4", "long.mkv", "long.ts", "long.flv", "vp9.webm", "open.mpg", "hevc.mp4"]


@pytest.fixture(scope="session")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s, 25 frames a second, an I-frame every 2 s, B-frames between; VP9 has no B-frames, MPEG-2 and HEVC open groups."""
    folder = tmp_path_factory.mktemp("long")
    source = ffmpeg.input(f"testsrc2=s=96x64:r=25:d={SECONDS}", f="lavfi")
    long = encode(source, folder / "long.mp4", g=50, bf=2)
    for name in NAMES[1:4]:
        run_ffmpeg(ffmpeg.output(ffmpeg.input(str(long)), str(folder / name), c="copy").compile(cmd=ffmpeg_exe()))
    vp9 = {"vcodec": "libvpx-vp9", "preset": None, "deadline": "realtime", "cpu-used": 8, "g": 50}
    encode(source, folder / "vp9.webm", **vp9)
    encode(source, folder / "open.mpg", vcodec="mpeg2video", preset=None, g=50, bf=2)
    hevc = {"vcodec": "libx265", "x265-params": "log-level=none:keyint=50:pools=none:frame-threads=1"}
    encode(source, folder / "hevc.mp4", **hevc)
    encode(source, folder / "order.avi", vcodec="mpeg4", preset=None, g=50, bf=2)
    return folder


def frames_of(path: Path, start_s: float = 0.0, end_s: float | None = None, **cfg: object) -> ClipKeyframes:
    found = extract(path, start_s, end_s, KeyframeConfig.model_validate(cfg), LIMITS)
    assert all(a < b for a, b in pairwise(found.times_s)) and found.times_s[0] >= 0
    assert found.times_s[-1] < found.signals["duration_s"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_sparse_uniform_is_full_uniform(long_clips: Path, name: str) -> None:
    for start_s, end_s in ((0.0, None), (7.3, 31.1)):
        few, all_ = (
            frames_of(long_clips / name, start_s, end_s, strategy="uniform", reading=reading)
            for reading in ("sparse", "full")
        )
        assert few.signals["reading"] == "sparse" and few.signals["decoded_frames"] < 500
        # The .mpg has a wrong length in its header, and the full reading holds candidates by that length.
        assert few.times_s == pytest.approx(all_.times_s, abs=0.1 if name == "open.mpg" else 1e-3)
        same = [abs(a - b) < 1e-3 for a, b in zip(few.times_s, all_.times_s, strict=True)]
        assert sum(same) >= (2 if name == "open.mpg" else 8)
        for is_same, one, two in zip(same, few.jpegs, all_.jpegs, strict=True):
            assert not is_same or one == two
        for signal in ("duration_s", "fps", "source_width", "source_height", "shortfall", "pick_copies"):
            assert few.signals[signal] == pytest.approx(all_.signals[signal], abs=0.1), signal


@pytest.mark.parametrize("name", NAMES)
def test_key_frames_alone_are_decoded(long_clips: Path, name: str) -> None:
    """Only packets with the key-frame flag are decoded, also of VP9, whose decoder ignores skip_frame=NONKEY."""
    chosen = frames_of(long_clips / name, reading="sparse", k=4)
    assert len(chosen.times_s) == 4 and chosen.signals["decoded_frames"] == 12
    whole = frames_of(long_clips / name, reading="full", strategy="iframe", k=200, fill=False)
    assert len(whole.times_s) >= 20
    by_time = dict(zip((round(t, 2) for t in whole.times_s), whole.jpegs, strict=True))
    for time_s, jpeg in zip(chosen.times_s, chosen.jpegs, strict=True):
        assert by_time[round(time_s, 2)] == jpeg
    flagged = frames_of(long_clips / name, reading="sparse", strategy="iframe", k=200, fill=False)
    assert flagged.jpegs == whole.jpegs and flagged.signals["decoded_frames"] == len(whole.times_s)


def test_what_was_not_measured_is_none(long_clips: Path) -> None:
    for strategy in ("keyframe", "uniform", "iframe"):
        found = frames_of(long_clips / "long.mp4", reading="sparse", strategy=strategy)
        assert set(found.shots) == {-1} and all(why.endswith("shots unknown") for why in found.why)
        assert all(found.signals[name] is None for name in UNKNOWN)
        assert found.signals["corrupt_share"] == 0 and found.signals["expected_frames"] == SECONDS * 25
        assert found.signals["variable_frame_rate"] is False
    assert "I-frame" in found.why[0] and "seek" not in found.why[0]


def test_the_choice_of_the_reading(long_clips: Path) -> None:
    path = long_clips / "long.mp4"
    for cfg, reading in (
        ({}, "full"),  # too short for auto
        ({"sparse_from_s": 30}, "sparse"),
        ({"sparse_from_s": 30, "sparse_gain": 60}, "full"),
        ({"sparse_from_s": 30, "strategy": "uniform"}, "full"),  # 8 seeks decode a quarter of so short a clip
        ({"sparse_from_s": 30, "strategy": "uniform", "sparse_gain": 2}, "sparse"),
        ({"reading": "full", "sparse_from_s": 0}, "full"),
    ):
        found = frames_of(path, **cfg)
        assert (found.signals["reading"], len(found.jpegs)) == (reading, 8), cfg
        with open_video(path, LIMITS) as opened:
            plan = plan_sparse(opened, 0.0, None, KeyframeConfig.model_validate(cfg))
        assert (plan is not None) == (reading == "sparse")
        assert plan is None or (plan.full_frames == SECONDS * 25 and found.signals["decoded_frames"] <= plan.frames)
    known = extract(path, 0.0, None, KeyframeConfig(sparse_from_s=30), LIMITS, cuts_s=[20.0])
    assert known.signals["reading"] == "full" and set(known.shots) == {0, 1}
    # Only counting from the start tells when a frame of an AVI with B-frames is displayed.
    assert frames_of(long_clips / "order.avi", reading="sparse").signals["reading"] == "full"


def test_auto_reads_a_damaged_clip_in_full(long_clips: Path, tmp_path: Path) -> None:
    data = bytearray((long_clips / "long.mkv").read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 8] = bytes(len(data) // 8)
    path = tmp_path / "hole.mkv"
    path.write_bytes(data)
    tolerant = VideoConfig(max_corrupt_share=0.6, min_decoded_share=0.3)
    found = extract(path, 0.0, None, KeyframeConfig(strategy="uniform", sparse_from_s=10, sparse_gain=1), tolerant)
    assert found.signals["reading"] == "full" or found.signals["corrupt_share"] == 0
    forced = extract(path, 0.0, None, KeyframeConfig(strategy="uniform", reading="sparse"), tolerant)
    assert forced.signals["shortfall"] == 8 - len(forced.jpegs)


def test_a_cut_off_file_is_truncated_without_a_decode(long_clips: Path, tmp_path: Path) -> None:
    for name in ("long.mkv", "long.flv"):
        data = (long_clips / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(Refused) as refusal:
            extract(tmp_path / name, 0.0, None, KeyframeConfig(reading="sparse"), LIMITS)
        assert refusal.value.reason == "truncated"
