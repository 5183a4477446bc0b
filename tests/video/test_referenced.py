"""Decoding only the frames from which others are predicted: exact frames, near those of the full reading, and never less sure."""

from __future__ import annotations

from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest

from m2raap.video.clip import ClipKeyframes, KeyframeConfig
from m2raap.video.extract import extract
from m2raap.video.limits import VideoConfig
from tests.video.conftest import Make
from tests.video.test_trust import with_hole

SOURCE = "testsrc2=s=96x72:r=25:d=6"
# A fixed pattern of B-frames, of which the middle one of three is referenced: what x264 would choose depends on the machine.
H264 = {"g": 50, "bf": 3, "preset": "veryfast", "crf": 18, "x264-params": "b-adapt=0:scenecut=0"}
STREAMS = {
    "h264.mp4": H264,
    "h264.mkv": H264 | {"cluster_time_limit": 500},
    "hevc.mp4": {
        "vcodec": "libx265",
        "g": 50,
        "preset": "ultrafast",
        "x265-params": "log-level=none:bframes=3:b-adapt=0:scenecut=0",
    },
    "mpeg4.avi": {"vcodec": "mpeg4", "bf": 2, "q:v": 3, "preset": None},
    "vp9.webm": {"vcodec": "libvpx-vp9", "g": 50, "preset": None, "deadline": "realtime", "cpu-used": 8},
}


def read(path: Path, reading: str, start_s: float = 0.0, end_s: float | None = None, k: int = 4) -> ClipKeyframes:
    cfg = KeyframeConfig.model_validate({"k": k, "short_side_px": 72, "reading": reading})
    return extract(path, start_s, end_s, cfg, VideoConfig(max_corrupt_share=0.9))


@pytest.fixture(scope="module")
def streams(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("referenced")
    for name, how in STREAMS.items():
        make(ffmpeg.input(SOURCE, f="lavfi"), folder / name, **how)
    return folder


def decoded_times(path: Path, nonref: bool) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF" if nonref else "DEFAULT"
        return sorted(float(frame.time or 0) for frame in container.decode(stream))


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "hevc.mp4"])
def test_frames_are_those_of_the_full_reading_at_their_times(streams: Path, name: str):
    path = streams / name
    full, part = read(path, "full"), read(path, "referenced")
    assert part.signals["reading"] == "referenced" and full.signals["reading"] == "full"
    needed = decoded_times(path, nonref=True)
    assert part.signals["decoded_frames"] == len(needed) < 0.8 * full.signals["decoded_frames"]
    assert set(part.times_s) <= {round(time_s, 6) for time_s in needed}
    assert part.signals["duration_s"] == full.signals["duration_s"] and part.signals["fps"] == full.signals["fps"]
    assert part.signals["variable_frame_rate"] is None and part.signals["expected_frames"] is None
    np.testing.assert_allclose(part.times_s, full.times_s, atol=0.2)
    # The frame chosen, alone in a span of its own, is the same to the last bit: nothing is predicted from what is left out.
    for time_s, jpeg in zip(part.times_s, part.jpegs, strict=True):
        assert read(path, "full", time_s, time_s + 0.04, k=1).jpegs == [jpeg]


@pytest.mark.parametrize("name", ["mpeg4.avi", "vp9.webm"])
def test_other_containers_and_codecs_are_decoded_in_full(streams: Path, name: str):
    assert read(streams / name, "referenced") == read(streams / name, "full")


@pytest.mark.parametrize(("start_s", "end_s"), [(1.0, 1.5), (1.02, 1.05), (2.0, 2.3)])
def test_a_span_with_few_frames_is_decoded_in_full(streams: Path, start_s: float, end_s: float):
    assert read(streams / "h264.mp4", "referenced", start_s, end_s) == read(
        streams / "h264.mp4", "full", start_s, end_s
    )


@pytest.mark.parametrize("place", [0.21, 0.53, 0.69])
def test_a_damaged_clip_is_decoded_in_full(streams: Path, tmp_path: Path, place: float):
    damaged = tmp_path / "hole.mkv"
    damaged.write_bytes(with_hole((streams / "h264.mkv").read_bytes(), ".mkv", place))
    assert read(damaged, "referenced") == read(damaged, "full")


def test_a_window_is_read_as_the_whole(streams: Path):
    full, part = (read(streams / "h264.mp4", reading, 1.5, 5.5) for reading in ("full", "referenced"))
    assert part.signals["reading"] == "referenced"
    np.testing.assert_allclose(part.times_s, full.times_s, atol=0.2)
    assert part.signals["decoded_frames"] < 0.8 * full.signals["decoded_frames"]
