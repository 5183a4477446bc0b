"""The time, the orientation and the damage of decoded frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2raap.video.clip import KeyframeConfig
from m2raap.video.container import open_video
from m2raap.video.decode import DecodedFrame, decode
from m2raap.video.extract import extract
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import examine
from tests.video.bad_media.case import Sources
from tests.video.bad_media.sources import FPS, FRAMES
from tests.video.bad_media.surgery import box, flipped_samples, patched

LIMITS = VideoConfig()
# Clips whose frames show their number by their brightness: those with exact times, and those of program streams, which state
# a time for each packet, not for each frame. Windows are exact in both.
EXACT = """plain.mp4 faststart.mp4 fragments.mp4 dash.mp4 plain.mkv live.mkv plain.ts plain.m2ts plain.flv live.flv h264.avi
plain.avi mpeg2.ts theora.ogv sound.ogv plain.wmv vp8.webm vp9.webm av1.mp4 alpha.webm open_gop.mp4 intra_refresh.mp4
negative.mp4 late.mp4 late.ts wrap.ts longer_sound.mkv timecode.mov variable.mp4 variable.mkv edit_list.mp4"""
NEAR = "mpeg1.mpg mpeg2.mpg sound.mpg"
FIRST_FRAME = {"edit_list.mp4": 15}  # an edit list hides the frames before it


def numbers_and_times(
    path: Path, start_s: float = 0.0, end_s: float | None = None, keys_only: bool = False
) -> list[tuple[int, float]]:
    with open_video(path, LIMITS) as opened:
        return [(number_of(item), item.time_s) for item in decode(opened, start_s, end_s, keys_only)]


def number_of(item: DecodedFrame) -> int:
    assert item.frame is not None and not item.corrupt
    plane = item.frame.planes[0]
    luma_HW = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:48, :64]
    return round((luma_HW.mean() - 16.5) / 4)


@pytest.mark.parametrize("name", EXACT.split() + NEAR.split())
def test_a_frame_comes_at_its_time(media_sources: Sources, name: str) -> None:
    path, first = media_sources.folder / name, FIRST_FRAME.get(name, 0)
    with open_video(path, LIMITS) as opened:
        first_s = opened.first_s
    found = numbers_and_times(path)
    slack_s = 1 / FPS + 0.001 if name in NEAR.split() else 0.002
    for number, time_s in found:
        assert time_s == pytest.approx(first_s + (number - first) / FPS, abs=slack_s)
    assert found[0][0] == first and found[-1][0] == FRAMES - 1
    # A window, which starts with a seek, gives the same frames at the same times.
    inside = [(n, t) for n, t in found if 0.7 - 1e-6 <= t < 1.3 - 1e-6]
    window = numbers_and_times(path, 0.7, 1.3)
    assert [n for n, _ in window] == [n for n, _ in inside]
    assert [t for _, t in window] == pytest.approx([t for _, t in inside])


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv", "plain.mp4", "plain.ts", "h264.avi", "live.flv"])
def test_variable_frame_rate_is_reported(media_sources: Sources, name: str) -> None:
    assert examine(media_sources.folder / name, LIMITS).variable_frame_rate == name.startswith("variable")


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "plain.ts", "vp8.webm", "vp9.webm", "av1.mp4"])
def test_only_key_frames_by_the_flags_of_packets(media_sources: Sources, name: str) -> None:
    """The decoders of VP9 and AV1 ignore `skip_frame` and would give every frame."""
    path = media_sources.folder / name
    with open_video(path, LIMITS) as opened:
        flagged = [packet.pts for packet in opened.container.demux(opened.stream) if packet.size and packet.is_keyframe]
        flagged_s = [float((pts - (opened.stream.start_time or 0)) * opened.time_base) for pts in flagged]
    keys = numbers_and_times(path, keys_only=True)
    assert [t for _, t in keys] == pytest.approx(flagged_s) and 2 <= len(keys) < FRAMES
    assert set(keys) < set(numbers_and_times(path))


@pytest.mark.parametrize(
    ("name", "corner", "rotation_deg"),
    [
        ("corner.mp4", "top left", 0),
        ("turned_90.mp4", "bottom left", 90),
        ("turned_180.mp4", "bottom right", 180),
        ("turned_270.mp4", "top right", 270),
        ("mirrored.mp4", "top right", 180),
        ("mirrored_90.mp4", "bottom right", 90),
    ],
)
def test_frames_come_out_upright(media_sources: Sources, name: str, corner: str, rotation_deg: int) -> None:
    found = examine(media_sources.folder / name, LIMITS)
    clip = extract(media_sources.folder / name, 0.0, None, KeyframeConfig(k=1), LIMITS)
    pixels_HWC = np.asarray(Image.open(io.BytesIO(clip.jpegs[0])).convert("RGB")).astype(int)
    height, width = pixels_HWC.shape[:2]
    assert (width, height) == (found.width, found.height) == ((64, 48) if rotation_deg % 180 == 0 else (48, 64))
    assert found.rotation_deg == rotation_deg
    redness_HW = pixels_HWC[..., 0] - pixels_HWC[..., 2]
    rows = slice(0, height // 2) if "top" in corner else slice(height // 2, height)
    columns = slice(0, width // 2) if "left" in corner else slice(width // 2, width)
    assert redness_HW[rows, columns].mean() > 150
    assert redness_HW.sum() == pytest.approx(redness_HW[rows, columns].sum(), rel=0.1)


@pytest.mark.parametrize(
    ("name", "size"),
    [("odd.mp4", (63, 47)), ("thin.mp4", (640, 2)), ("wide_pixels.mp4", (128, 48)), ("absurd_pixels.mp4", (64, 48))],
)
def test_odd_sizes(media_sources: Sources, name: str, size: tuple[int, int]) -> None:
    found = examine(media_sources.folder / name, LIMITS)
    clip = extract(media_sources.folder / name, 0.0, None, KeyframeConfig(k=4, short_side_px=256), LIMITS)
    assert (found.width, found.height) == (clip.width, clip.height) == size
    assert all(Image.open(io.BytesIO(jpeg)).size == size for jpeg in clip.jpegs)


@pytest.mark.parametrize("every", [100, 300, 1000, 3000])
@pytest.mark.parametrize("source", ["busy.mp4", "busy_long_gop.mp4"])
def test_undamaged_frames_look_like_the_original(
    media_sources: Sources, tmp_path: Path, source: str, every: int
) -> None:
    """FFmpeg marks the frames with wrong bits, not those predicted from them."""
    data = media_sources(source)
    (tmp_path / "flipped.mp4").write_bytes(flipped_samples(data, every))
    clean = _grays(media_sources.folder / source)
    damaged = _grays(tmp_path / "flipped.mp4")
    assert any(corrupt for _, corrupt in damaged.values())
    for time_s, (gray_HW, corrupt) in damaged.items():
        if not corrupt:
            # In VP8, AV1 or MPEG-4 a wrong bit may leave no trace; H.264's arithmetic decoder notices nearly all of them.
            assert np.abs(gray_HW - clean[time_s][0]).mean() < 6, time_s


def _grays(path: Path) -> dict[float, tuple[np.ndarray, bool]]:
    with open_video(path, LIMITS) as opened:
        return {
            round(item.time_s, 3): (item.frame.to_ndarray(format="gray").astype(float), item.corrupt)
            for item in decode(opened)
            if item.frame is not None
        }


def test_a_key_frame_ends_the_damage(media_sources: Sources, tmp_path: Path) -> None:
    """The first of five groups of pictures is damaged: none of its frames is chosen, and all others are undamaged."""
    data = media_sources("busy.mp4")
    start, _ = box(data, "mdat")
    (tmp_path / "x.mp4").write_bytes(patched(data, start + 8 + 700, bytes(200)))
    with open_video(tmp_path / "x.mp4", LIMITS) as opened:
        sound_s = [item.time_s for item in decode(opened) if not item.corrupt]
    assert min(sound_s) == pytest.approx(12 / FPS) and len(sound_s) == FRAMES - 12
    with pytest.raises(Refused, match=r"corrupt: .*24\.0%"):
        extract(tmp_path / "x.mp4", 0.0, None, KeyframeConfig(k=8), LIMITS)
    clip = extract(tmp_path / "x.mp4", 0.0, None, KeyframeConfig(k=8), VideoConfig(max_corrupt_share=0.5))
    assert len(clip.times_s) == 8 and clip.times_s[0] >= 12 / FPS - 1e-6
    assert clip.signals["corrupt_share"] == pytest.approx(0.24)


def test_two_passes_over_an_open_file_agree(media_sources: Sources) -> None:
    for name in ("plain.mp4", "plain.ts", "h264.avi", "live.mkv"):
        with open_video(media_sources.folder / name, LIMITS) as opened:
            passes = [[(number_of(item), item.time_s) for item in decode(opened)] for _ in range(2)]
        assert passes[0] == passes[1] and len(passes[0]) == FRAMES
