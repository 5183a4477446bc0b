"""Data that is lost before it is decoded: no frame that differs from the original passes as undamaged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import ffmpeg
import numpy as np
import pytest

from m2raap.video.container import open_video
from m2raap.video.decode import decode
from m2raap.video.limits import VideoConfig
from m2raap.video.probe import examine
from m2raap.video.trust import Losses

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


def lost_with(monkeypatch: pytest.MonkeyPatch, format_name: str, errors: list[str | None]) -> list[int]:
    """Numbers of the packets that count as lost where FFmpeg reports `errors`, one at each question, and packet 1 cannot be
    decoded. Packets 0 to 4; each is read before the one before it is decoded."""
    losses = Losses(SimpleNamespace(name="h264"), format_name)
    replies = iter(errors)
    monkeypatch.setattr(losses, "new_error", lambda: next(replies))
    error_before = losses.new_error()
    for number in range(5):
        losses.note_before_next(error_before)
        error_before = losses.new_error()
        losses.add(SimpleNamespace(is_keyframe=number == 0, is_corrupt=False, dts=None), error_before is not None)  # type: ignore[arg-type]  # what it reads
        losses.at_latest() if number == 1 else losses.note_errors()
    return sorted(set(losses._lost))


def test_an_error_of_the_decoder_counts_for_the_next_packet_and_of_the_demuxer_for_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Asked after the reading of packet 0, then for each packet after the reading of the next one and after its decoding.
    quiet: list[str | None] = [None] * 11
    assert lost_with(monkeypatch, "mov", quiet) == [1]
    of_decoding = [*quiet[:4], "cannot decode", *quiet[5:]]
    assert lost_with(monkeypatch, "mov", of_decoding) == [1, 2], "not 3, which may be a key-frame"
    of_reading_3 = [*quiet[:5], "skipped", *quiet[6:]]
    assert lost_with(monkeypatch, "mov", of_reading_3) == [1, 2, 3]
    missing = [*quiet[:4], "Missing reference picture", *quiet[5:]]
    assert lost_with(monkeypatch, "mpegts", missing) == [1, 2], "asked for at the next packet, also of a broadcast"
