"""Pictures keep the shape in which a player shows them; and headers whose figures mislead."""

from __future__ import annotations

import io
from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest
from PIL import Image

from m2raap.core.config import build
from m2raap.curate.video_rules import VideoRulesConfig, video_refusals
from m2raap.video.extract import KeyframeConfig, extract
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import examine, probe

LIMITS = VideoConfig()


@pytest.fixture(scope="module")
def piece(make, tmp_path_factory):
    """Makes one second of a white picture as MPEG-2 in a transport stream, which starts at `start_s`."""
    folder = tmp_path_factory.mktemp("pieces")

    def of(size: str, sar: str, start_s: int) -> bytes:
        source = ffmpeg.input(f"color=white:s={size}:r=25:d=1", f="lavfi").filter("setsar", sar)
        options = {"vcodec": "mpeg2video", "g": 12, "bf": 2, "output_ts_offset": start_s, "muxdelay": 0, "preset": None}
        return make(source, folder / f"{size}.ts", **options).read_bytes()

    return of


@pytest.mark.parametrize("reading", ["full", "sparse"])
@pytest.mark.parametrize(
    ("size", "sar", "bars"),
    [("192x96", "1", 24), ("128x96", "4/3", 12)],  # another size; the same size with pixels of another shape
    ids=["size", "pixels"],
)
def test_a_picture_that_changes_its_shape_is_not_squeezed(
    piece, tmp_path: Path, reading: str, size: str, sar: str, bars: int
) -> None:
    path = tmp_path / "changes.ts"
    path.write_bytes(piece("128x96", "1", 0) + piece(size, sar, 1))
    wide = extract(path, 0.0, None, KeyframeConfig.model_validate({"k": 4, "reading": reading}), LIMITS)
    assert (wide.width, wide.height) == (128, 96)
    for time_s, jpeg in zip(wide.times_s, wide.jpegs, strict=True):
        column = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))[:, 64]
        num_black = int((column < 60).sum())
        assert num_black == 0 if time_s < 1 else abs(num_black - (96 - 128 * 96 / (96 + 4 * bars))) <= 20, time_s
        assert (num_black > 0) == (time_s >= 1)
    assert wide.signals["size_changes"] == examine(path, LIMITS).size_changes == 1
    rules = build(VideoRulesConfig, {"rules": {"size_changes": 0}}, "r.yaml").thresholds()
    assert "size_changes" in [r.reason for r in video_refusals(wide.signals, rules)]


def test_a_display_matrix_of_zeros_turns_nothing(clips: Path, tmp_path: Path) -> None:
    data = (clips / "plain.mp4").read_bytes()
    identity = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    at = data.index(identity, data.index(b"tkhd"))
    (tmp_path / "zeros.mp4").write_bytes(data[:at] + bytes(36) + data[at + 36 :])
    header = probe(tmp_path / "zeros.mp4", LIMITS)
    assert (header.width, header.height, header.rotation_deg) == (160, 90, 0)
    jpegs = [
        extract(p, 0.0, None, KeyframeConfig(k=1), LIMITS).jpegs for p in (clips / "plain.mp4", tmp_path / "zeros.mp4")
    ]
    assert jpegs[0] == jpegs[1]


def test_fragments_with_one_time_are_counted(clips: Path, tmp_path: Path) -> None:
    data = bytearray((clips / "fragments.mp4").read_bytes())
    assert examine(clips / "fragments.mp4", LIMITS).frames_expected == 100
    at = data.find(b"tfdt")
    while at > 0:
        num_bytes = 8 if data[at + 4] else 4
        data[at + 8 : at + 8 + num_bytes] = bytes(num_bytes)
        at = data.find(b"tfdt", at + 1)
    (tmp_path / "same.mp4").write_bytes(data)
    health = examine(tmp_path / "same.mp4", LIMITS)
    assert health.fault in ("corrupt", "truncated") and health.frames_expected == 100 > health.frames_decoded


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_too_many_streams_are_no_lack_of_memory(tmp_path: Path, suffix: str) -> None:
    path, grey = tmp_path / f"many{suffix}", av.VideoFrame.from_ndarray(np.zeros((16, 16), np.uint8), format="gray")
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(70)]
        for stream in streams:
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
        for stream in streams:
            container.mux(stream.encode(grey))
            container.mux(stream.encode())
    with pytest.raises(Refused) as refusal:
        examine(path, LIMITS)
    assert refusal.value.reason == "too_large" and "64" in refusal.value.detail
