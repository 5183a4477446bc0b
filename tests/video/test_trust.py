"""Data that is lost before it is decoded: no frame that differs from the original passes as undamaged."""

from __future__ import annotations

from pathlib import Path

import ffmpeg
import numpy as np
import pytest

from m2raap.video.container import open_video
from m2raap.video.decode import decode
from m2raap.video.limits import VideoConfig
from m2raap.video.probe import examine

LIMITS = VideoConfig()
SOURCE = "testsrc2=s=96x72:r=25:d=6"
UNLIKE = 6.0  # mean absolute difference of luma, 0..255
STREAMS = {
    "open_gop.ts": {"g": 50, "bf": 2, "x264-params": "open-gop=1", "preset": "veryfast", "crf": 18},
    "mpeg2.ts": {"vcodec": "mpeg2video", "g": 15, "bf": 2, "q:v": 3, "preset": None},
    "h264.mkv": {"g": 50, "bf": 2, "preset": "veryfast", "crf": 18, "cluster_time_limit": 500},
}


@pytest.fixture(scope="module", params=STREAMS)
def stream(request: pytest.FixtureRequest, make, tmp_path_factory) -> Path:
    return make(
        ffmpeg.input(SOURCE, f="lavfi"), tmp_path_factory.mktemp("streams") / request.param, **STREAMS[request.param]
    )


def lumas(path: Path) -> dict[float, tuple[np.ndarray, bool]]:
    """Time by the container's clock -> luma and whether the frame counts as damaged."""
    with open_video(path, LIMITS) as opened:
        origin_s = float((opened.stream.start_time or 0) * opened.time_base)
        return {
            round(item.time_s + origin_s, 2): (item.frame.to_ndarray(format="gray").astype(float), item.corrupt)
            for item in decode(opened)
            if item.frame is not None
        }


def with_hole(data: bytes, suffix: str, place: float) -> bytes:
    """`data` without a tenth of its bytes; of a transport stream, without whole packets."""
    unit = 188 if suffix == ".ts" else 1
    start = int(len(data) / unit * place)
    return data[: start * unit] + data[(start + len(data) // unit // 10) * unit :]


def test_frames_after_a_hole_are_damaged_up_to_the_next_key_frame(stream: Path, tmp_path: Path) -> None:
    original = lumas(stream)
    assert not any(corrupt for _, corrupt in original.values())
    num_damaged = num_unlike = 0
    for place in (0.21, 0.37, 0.53, 0.69):
        damaged = tmp_path / f"hole{stream.suffix}"
        damaged.write_bytes(with_hole(stream.read_bytes(), stream.suffix, place))
        for time_s, (luma, corrupt) in lumas(damaged).items():
            if time_s in original:
                unlike = np.abs(luma - original[time_s][0]).mean() > UNLIKE
                assert corrupt or not unlike, (place, time_s)
                num_unlike += unlike
            num_damaged += corrupt
        assert examine(damaged, LIMITS).share_corrupt < 0.5
    assert num_damaged > 20 and num_unlike


@pytest.mark.parametrize("name", ["open_gop.ts", "mpeg2.ts"])
def test_a_start_in_the_middle_of_a_group_of_pictures_is_no_damage(make, tmp_path: Path, name: str) -> None:
    whole = make(ffmpeg.input(SOURCE, f="lavfi"), tmp_path / name, **STREAMS[name])
    data = whole.read_bytes()
    late = tmp_path / f"late_{name}"
    late.write_bytes(data[len(data) // 188 // 12 * 188 :])
    original, frames = lumas(whole), lumas(late)
    assert examine(late, LIMITS).fault is None and len(frames) > 90
    assert sum(corrupt for _, corrupt in frames.values()) < 8
    assert all(corrupt or np.abs(luma - original[t][0]).mean() < UNLIKE for t, (luma, corrupt) in frames.items())


def test_key_frames_alone_are_no_damage(stream: Path) -> None:
    with open_video(stream, LIMITS) as opened:
        items = list(decode(opened, keys_only=True))
    assert len(items) >= 2 and not any(item.corrupt for item in items)
