"""Files whose times FFmpeg loses at a seek: windows hold the frames of the whole video, or the file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2raap.video.clip import KeyframeConfig
from m2raap.video.cut import cut
from m2raap.video.extract import extract
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import examine
from m2raap.video.scenes import find_scenes
from tests.video.test_times import FPS, FRAMES, NUMBERED, frames_of, run

LIMITS = VideoConfig()
H264 = "-c:v libx264 -preset veryfast -crf 8 -g 12 -keyint_min 12 -sc_threshold 0 -pix_fmt yuv420p -threads 1 -bf"


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """b.mp4 with B-frames, p.mp4 without, refresh.mp4 without I-frames but the first, p.ogv."""
    folder = tmp_path_factory.mktemp("numbered")
    for name, how in {
        "b.mp4": f"{H264} 3",
        "p.mp4": f"{H264} 0",
        "refresh.mp4": f"{H264} 0 -x264-params intra-refresh=1:keyint=16",
        "p.ogv": "-c:v libtheora -q:v 9",
    }.items():
        run("-f", "lavfi", "-i", NUMBERED, *how.split(), str(folder / name))
    return folder


def windows_agree(path: Path) -> None:
    whole = frames_of(path)
    assert [number for number, _ in whole] == list(range(FRAMES))
    for first in range(2, FRAMES - 4, 3):
        start_s = whole[first][1] - 0.004
        expected = [(number, time_s) for number, time_s in whole if start_s < time_s < start_s + 0.15]
        assert frames_of(path, start_s, start_s + 0.15) == expected, start_s


def test_an_avi_without_index(numbered: Path, tmp_path: Path) -> None:
    """As a recorder that crashed or a pipe leaves it; FFmpeg takes every frame that it has read for an I-frame."""
    whole = tmp_path / "whole.avi"
    run("-i", str(numbered / "b.mp4"), "-c", "copy", str(whole))
    (tmp_path / "crashed.avi").write_bytes(whole.read_bytes().split(b"idx1")[0])
    # To a pipe, ffmpeg writes 2**30 frames and the size 2**32 - 1.
    argv = [ffmpeg_exe(), "-i", str(numbered / "b.mp4"), "-c", "copy", "-f", "avi", "pipe:1"]
    (tmp_path / "piped.avi").write_bytes(run_ffmpeg(argv))
    for name in ("crashed.avi", "piped.avi"):
        windows_agree(tmp_path / name)
    health = examine(tmp_path / "piped.avi", LIMITS)
    assert (health.fault, health.frames_decoded, health.duration_header_s) == (None, FRAMES, None)
    cut = tmp_path / "cut.avi"
    for num_bytes in (5, 500):
        cut.write_bytes((tmp_path / "piped.avi").read_bytes()[:-num_bytes])
        assert examine(cut, LIMITS).fault == "truncated"


def test_an_avi_with_empty_chunks_and_sound(numbered: Path, tmp_path: Path) -> None:
    """A variable rate becomes a high one with empty chunks between frames, from which FFmpeg counts wrongly after a seek."""
    path = tmp_path / "sound.avi"
    sound = ("-f", "lavfi", "-i", "sine=d=8", "-c:v", "copy", "-c:a", "mp3")
    run("-i", str(numbered / "p.mp4"), *sound, str(path))
    windows_agree(path)


def test_a_cut_of_an_avi_with_b_frames(numbered: Path, tmp_path: Path) -> None:
    """The ffmpeg program, which cuts, shows each frame of such a file later, by the frames that the decoder holds back."""
    path, out = tmp_path / "b.avi", tmp_path / "cut.mp4"
    run("-i", str(numbered / "b.mp4"), "-c", "copy", str(path))
    scenes = find_scenes(path, "none", 0.6, LIMITS)
    cut(path, 10 / FPS, 15 / FPS, scenes, out, LIMITS)
    assert [number for number, _ in frames_of(out)] == [10, 11, 12, 13, 14]


def test_a_cut_between_two_frames(numbered: Path, tmp_path: Path) -> None:
    """The unit of time stamps is the duration of a frame in an Ogg or AVI."""
    path, out = numbered / "p.ogv", tmp_path / "cut.mp4"
    cut(path, 9.5 / FPS, 14.4 / FPS, find_scenes(path, "none", 0.6, LIMITS), out, LIMITS)
    assert [number for number, _ in frames_of(out)] == [10, 11, 12, 13, 14]


def test_a_piece_of_a_still(tmp_path: Path) -> None:
    """No frame begins in it: it shows the frame of the slide show that is displayed then, as long as the piece."""
    path, out = tmp_path / "slides.mkv", tmp_path / "cut.mp4"
    run("-f", "lavfi", "-i", "nullsrc=s=64x48:r=1/5:d=20,geq=lum='16+4*N':cb=128:cr=128", *H264.split(), "0", str(path))
    scenes = find_scenes(path, "none", 0.6, LIMITS)
    for start_s, slide in ((6.0, 1), (16.5, 3)):
        cut(path, start_s, start_s + 2.0, scenes, out, LIMITS)
        shown = frames_of(out)
        assert {number for number, _ in shown} == {slide} and shown[-1][1] == pytest.approx(1.8)
    with pytest.raises(Refused):
        cut(path, 30.0, 32.0, scenes, out, LIMITS)


def test_a_window_of_a_gradual_refresh(numbered: Path) -> None:
    windows_agree(numbered / "refresh.mp4")


@pytest.mark.parametrize("ending", ["flv", "ogv"])
def test_a_joined_file_is_no_second_half(numbered: Path, tmp_path: Path, ending: str) -> None:
    """The length of such a file is read from its packets, after which a seek to the first time ends at the second part."""
    part, joined = tmp_path / f"part.{ending}", tmp_path / f"joined.{ending}"
    how = ("-flvflags", "no_duration_filesize") if ending == "flv" else ()
    run("-i", str(numbered / ("p.ogv" if ending == "ogv" else "b.mp4")), "-c", "copy", *how, str(part))
    joined.write_bytes(part.read_bytes() + part.read_bytes()[13 if ending == "flv" else 0 :])
    with pytest.raises(Refused, match="joined") as refused:
        extract(joined, 0.0, None, KeyframeConfig(k=4), LIMITS)
    assert refused.value.reason == "corrupt"


def test_frames_before_the_start_of_a_matroska_are_not_shown(numbered: Path, tmp_path: Path) -> None:
    """A cut by copy that keeps negative times: players begin at 0, and FFmpeg gives no time to what lies before."""
    path = tmp_path / "cut.mkv"
    shift = ("-output_ts_offset", "-0.6", "-avoid_negative_ts", "disabled")
    run("-i", str(numbered / "p.mp4"), "-c", "copy", *shift, str(path))
    whole = [(n, round((n - 15) / FPS, 3)) for n in range(15, FRAMES)]
    assert frames_of(path) == whole
    for first in (2, 7, 20):  # the first I-frame of the index is frame 24, the ninth
        assert frames_of(path, first / FPS, (first + 3) / FPS) == whole[first : first + 3]


def test_sparse_reading_of_few_frames(numbered: Path, tmp_path: Path) -> None:
    """B-frames of a slide show lie seconds apart, and an FLV of one frame has no place to seek to."""
    slides, single = tmp_path / "slides.mkv", tmp_path / "single.flv"
    show = "nullsrc=s=64x48:r=1/5:d=40,geq=lum='16+4*N':cb=128:cr=128"
    run("-f", "lavfi", "-i", show, *f"{H264} 3".split(), str(slides))
    run("-i", str(numbered / "p.mp4"), "-frames:v", "1", "-c", "copy", str(single))
    for path, num_frames in ((slides, 4), (single, 1)):
        clip = extract(path, 0.0, None, KeyframeConfig(k=4, reading="sparse"), LIMITS)
        assert len(clip.times_s) == num_frames and clip.signals["reading"] == "sparse"
