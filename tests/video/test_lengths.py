"""Videos that are longer or shorter than their headers say, and spans at and between the times of frames."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from m2raap.video.clip import KeyframeConfig
from m2raap.video.extract import extract
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import examine, probe
from m2raap.video.sample import sample
from tests.video.test_times import run

LIMITS = VideoConfig()
UNIFORM = KeyframeConfig(k=4, strategy="uniform", reading="full")


def _half_mkv(data: bytes) -> bytes:
    at = data.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes
    length = struct.unpack(">d", data[at : at + 8])[0]
    return data[:at] + struct.pack(">d", length / 2) + data[at + 8 :]


def _half_mp4(data: bytes) -> bytes:
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = data.index(box) + offset
        data = data[:at] + struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] // 2) + data[at + 4 :]
    return data


@pytest.mark.parametrize(("name", "damage"), [("plain.mkv", _half_mkv), ("plain.mp4", _half_mp4)])
def test_a_header_with_half_the_length(clips: Path, tmp_path: Path, name: str, damage) -> None:
    path = tmp_path / name
    path.write_bytes(damage((clips / name).read_bytes()))
    assert probe(path, LIMITS).duration_s == pytest.approx(2.0)
    clip = extract(path, 0.0, None, UNIFORM, LIMITS)
    assert clip.times_s == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.05)
    assert clip.signals["duration_s"] == pytest.approx(4.0, abs=0.05)
    in_second_half = sample(path, 2.5, 3.5, [0.0, 0.5], 45, LIMITS)
    assert in_second_half.times_s == pytest.approx([0.0, 0.48], abs=0.05)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """plain.mpg, whose last pack states no time; sound that outlasts the picture by 56 s; a trim; a pause; an encrypted file."""
    folder, plain = tmp_path_factory.mktemp("odd"), str(clips / "plain.mp4")
    copy = ["-map", "0:v", "-c:v", "copy"]
    run("-i", plain, "-c:v", "mpeg2video", "-vf", "geq=lum=2*N,scale=64:48", str(folder / "plain.mpg"),
        *copy, "-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "00" * 16, "-encryption_kid", "01" * 16,
        str(folder / "encrypted.mp4"))  # fmt: skip
    run("-ss", "1.3", "-i", plain, "-c", "copy", str(folder / "trim.mp4"))
    run("-i", plain, "-f", "lavfi", "-i", "sine=d=60", *copy, "-map", "1:a", "-c:a", "mp2", str(folder / "sound.ts"),
        "-map", "0:v", "-c:v", "wmv2", "-map", "1:a", str(folder / "sound.wmv"))  # fmt: skip
    run("-i", plain, "-vf", "setpts='if(gt(N,49),PTS+60/TB,PTS)'", "-fps_mode", "vfr", "-c:v", "libx264", "-preset",
        "ultrafast", "-bf", "2", str(folder / "pause.mp4"))  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["plain.mpg", "sound.ts", "sound.wmv"])
def test_a_format_that_states_no_length_of_the_picture(odd: Path, name: str) -> None:
    assert examine(odd / name, LIMITS).fault is None
    clip = extract(odd / name, 0.0, None, UNIFORM, LIMITS)
    assert clip.signals["duration_s"] == pytest.approx(4.0, abs=0.05)
    assert clip.times_s == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.09)  # the sound starts some milliseconds earlier
    places = sample(odd / name, 0.0, None, [0.0, 0.5, 1 - 1e-9], 45, LIMITS).times_s
    assert places == pytest.approx([0.0, 2.0, 3.96], abs=0.09)


def test_the_last_place_is_the_last_frame_where_the_header_ends_later(odd: Path) -> None:
    """The trim's header ends 0.02 s after its last frame does, and the last I-frame lies between the two places."""
    clip = extract(odd / "trim.mp4", 0.0, None, KeyframeConfig(k=99, strategy="uniform", reading="full"), LIMITS)
    sampled = sample(odd / "trim.mp4", 0.0, None, [0.0, 0.5, 1 - 1e-9], 45, LIMITS)
    assert len(sampled.times_s) == 3 and sampled.times_s[-1] == pytest.approx(clip.times_s[-1])


@pytest.mark.parametrize("reading", ["full", "sparse"])
@pytest.mark.parametrize(
    ("name", "start_s", "end_s", "num_frames"),
    [("plain.mp4", 1.01, 1.03, 1), ("plain.mkv", 3.97, 3.99, 1), ("plain.ts", 1.01, 1.03, 1),
     ("pause.mp4", 10, 20, 1), ("pause.mp4", 1.5, 30, 12)],
)  # fmt: skip
def test_what_is_on_the_screen(
    clips: Path, odd: Path, name: str, start_s: float, end_s: float, num_frames: int, reading: str
) -> None:
    """A frame is displayed until the next one: in a span in which none begins, and up to the end of a span."""
    path = (odd if name == "pause.mp4" else clips) / name
    clip = extract(path, start_s, end_s, KeyframeConfig(k=99, reading=reading), LIMITS)
    assert len(clip.times_s) == num_frames and clip.times_s[0] < 0.04
    assert clip.signals["duration_s"] == pytest.approx(end_s - start_s)
    assert sample(path, start_s, end_s, [0.0], 45, LIMITS).times_s == clip.times_s[:1]


@pytest.mark.parametrize(("start_s", "end_s"), [(4.0, 5.0), (3.97, 4.5), (50.0, 51.0)])
def test_nothing_is_on_the_screen_behind_the_end(clips: Path, start_s: float, end_s: float) -> None:
    with pytest.raises(Refused, match="truncated"):
        extract(clips / "plain.mp4", start_s, end_s, UNIFORM, LIMITS)


@pytest.mark.parametrize("reading", ["full", "sparse"])
def test_recordings_joined_without_new_times(clips: Path, tmp_path: Path, reading: str) -> None:
    data = (clips / "plain.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(data + data)
    with pytest.raises(Refused, match=r"corrupt.*\d+ of 200"):
        extract(tmp_path / "joined.ts", 0.0, None, KeyframeConfig(k=4, reading=reading), LIMITS)


def test_an_encrypted_video_is_named_as_one(odd: Path) -> None:
    with pytest.raises(Refused, match=r"unsupported_codec.*encrypted"):
        probe(odd / "encrypted.mp4", LIMITS)


def test_a_segment_without_its_header_is_named_as_one(clips: Path, tmp_path: Path) -> None:
    data = (clips / "fragments.mp4").read_bytes()
    (tmp_path / "segment.m4s").write_bytes(data[data.index(b"moof") - 4 :])
    with pytest.raises(Refused, match=r"header_missing.*initialisation"):
        probe(tmp_path / "segment.m4s", LIMITS)
