from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import ffmpeg
import numpy as np
import pytest
from PIL import Image

from m2raap.video.extract import ClipKeyframes, KeyframeConfig, extract
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import probe
from m2raap.video.worker import VideoWorker

LIMITS = VideoConfig()


def frames_of(path: Path, start_s: float = 0.0, end_s: float | None = None, **cfg: object) -> ClipKeyframes:
    clip = extract(path, start_s, end_s, KeyframeConfig.model_validate(cfg), LIMITS)
    lists = (clip.times_s, clip.shots, clip.scores, clip.why, clip.hashes, clip.jpegs)
    assert len({len(x) for x in lists}) == 1
    assert all(a < b for a, b in pairwise(clip.times_s))
    for jpeg in clip.jpegs:
        assert Image.open(io.BytesIO(jpeg)).size == (clip.width, clip.height)
    return clip


def rgb(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def test_same_answer_in_every_container(clips: Path) -> None:
    want = frames_of(clips / "plain.mp4")
    assert len(want.times_s) == 8 and want.width == 160 and want.height == 90
    for name in ("faststart.mp4", "fragments.mp4", "plain.mkv", "plain.ts"):
        got = frames_of(clips / name)
        assert got.times_s == pytest.approx(want.times_s, abs=2e-3), name
        assert got.jpegs == want.jpegs, name
    assert frames_of(clips / "plain.avi").times_s == pytest.approx(want.times_s, abs=0.1)  # another codec
    again = frames_of(clips / "plain.mp4")
    assert again == want


def test_probe_agrees_with_extract(clips: Path) -> None:
    for path in sorted(clips.glob("plain.*")):
        found = probe(path, LIMITS)
        assert (found.width, found.height) == (160, 90)
        assert found.codec == ("mpeg4" if path.suffix == ".avi" else "h264")
        assert found.duration_s == pytest.approx(4.0, abs=0.1) and found.fps == pytest.approx(25)
        assert found.num_bytes == path.stat().st_size


def test_near_uniform_on_a_plain_clip(clips: Path) -> None:
    for strategy in ("keyframe", "uniform"):
        clip = frames_of(clips / "plain.mp4", strategy=strategy, k=4)
        assert clip.times_s == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.26)
        assert clip.signals["num_shots"] == 1 and clip.signals["shortfall"] == 0


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_known_cuts(clips: Path, detector: str) -> None:
    """red 2 s, blue 1 s, green 3 s."""
    clip = frames_of(clips / "colours.mp4", detector=detector, k=6)
    assert clip.signals["num_shots"] == 3
    assert clip.shots == [0, 0, 1, 2, 2, 2]
    for time_s, shot, jpeg in zip(clip.times_s, clip.shots, clip.jpegs, strict=True):
        assert (time_s >= 2) + (time_s >= 3) == shot
        assert rgb(jpeg).mean((0, 1)).argmax() == (0, 2, 1)[shot]
    assert clip.signals["frozen_share"] > 0.9 and clip.signals["black_share"] == 0


def test_a_clip_inside_a_video(clips: Path) -> None:
    clip = frames_of(clips / "colours.mp4", 2.0, 3.0, k=4)
    assert clip.signals["num_shots"] == 1 and clip.signals["decoded_frames"] == 25
    assert clip.times_s[0] >= 0 and clip.times_s[-1] < 1
    assert all(rgb(j).mean((0, 1)).argmax() == 2 for j in clip.jpegs)
    # The pictures are the same whether the decoder seeks or starts at the beginning.
    late = frames_of(clips / "plain.mp4", 2.5, 3.5, k=4, strategy="uniform")
    whole = frames_of(clips / "plain.mp4", 0.0, None, k=100, strategy="uniform")
    by_time = dict(zip(np.round(whole.times_s, 3), whole.jpegs, strict=True))
    assert len(by_time) == 100
    assert [by_time[t] for t in np.round(np.add(late.times_s, 2.5), 3)] == late.jpegs


def test_a_clip_past_the_end(clips: Path) -> None:
    for start_s, end_s in ((10.0, 12.0), (3.0, 6.0), (0.0, 5.0)):
        with pytest.raises(Refused) as refusal:
            frames_of(clips / "plain.mp4", start_s, end_s)
        assert refusal.value.reason == "truncated"
    assert len(frames_of(clips / "plain.mp4", 0.0, 4.2).times_s) == 8  # annotated ends may be rounded


@pytest.mark.parametrize("k", [1, 3, 8, 16, 25, 40])
def test_exactly_k_or_a_stated_shortfall(clips: Path, k: int) -> None:
    clip = frames_of(clips / "plain.mp4", 1.0, 2.0, k=k)
    assert len(clip.times_s) == min(k, 25)
    assert clip.signals["shortfall"] == k - min(k, 25)


def test_no_upscaling_and_downscaling_by_the_short_side(clips: Path) -> None:
    assert frames_of(clips / "plain.mp4", short_side_px=256).height == 90
    clip = frames_of(clips / "plain.mp4", short_side_px=45)
    assert (clip.width, clip.height) == (80, 45)


def test_rotation_and_pixel_aspect(clips: Path, make, tmp_path: Path) -> None:
    source = ffmpeg.input(str(clips / "plain.mp4"), display_rotation=90)
    make(source, tmp_path / "turned.mp4")  # ffmpeg rotates the pixels
    run_ffmpeg(ffmpeg.output(source, str(tmp_path / "marked.mp4"), c="copy").compile(cmd=ffmpeg_exe()))
    want, got = (frames_of(tmp_path / n, strategy="uniform", k=2) for n in ("turned.mp4", "marked.mp4"))
    assert (got.width, got.height) == (want.width, want.height) == (90, 160)
    for a, b in zip(want.jpegs, got.jpegs, strict=True):
        assert np.abs(rgb(a) - rgb(b)).mean() < 12  # one was encoded twice
        assert np.abs(rgb(a) - rgb(b)[::-1, ::-1]).mean() > 30
    assert probe(tmp_path / "marked.mp4", LIMITS).rotation_deg % 360 == 90
    wide = make(ffmpeg.input(str(clips / "plain.mp4")), tmp_path / "wide.mp4", vf="setsar=2")
    assert frames_of(wide).width == 320


def test_variable_frame_rate_copy_picks_the_same_frames(make, tmp_path: Path) -> None:
    """Three shots of 15 frames per second stored as 30; mpdecimate removes the repeats."""
    scenes = [ffmpeg.input(f"{s}=s=160x90:r=15", f="lavfi", t=2) for s in ("testsrc2", "mandelbrot", "smptebars")]
    moving = scenes[2].filter("rotate", "0.4*t")
    alike = [s.filter("format", "yuv420p").filter("setsar", 1).filter("fps", 30) for s in (*scenes[:2], moving)]
    steady = make(ffmpeg.concat(*alike), tmp_path / "cfr.mp4", crf=12)
    uneven = make(ffmpeg.input(str(steady)).filter("mpdecimate"), tmp_path / "vfr.mp4", fps_mode="vfr", crf=12)
    for strategy, k in (("keyframe", 8), ("keyframe", 3), ("uniform", 5)):
        # The copy ends where its last picture begins, so the same span is read from both.
        one, two = (frames_of(path, 0.0, 5.9, strategy=strategy, k=k) for path in (steady, uneven))
        assert two.signals["decoded_frames"] < 0.7 * one.signals["decoded_frames"]
        assert one.signals["num_shots"] == two.signals["num_shots"] == 3
        assert one.shots == two.shots
        assert two.times_s == pytest.approx(one.times_s, abs=1 / 30 + 1e-3)
        for a, b in zip(one.jpegs, two.jpegs, strict=True):
            assert np.abs(rgb(a) - rgb(b)).mean() < 4
        for signal in ("motion", "luma_mean", "frozen_share"):
            assert two.signals[signal] == pytest.approx(one.signals[signal], rel=0.1, abs=0.03)


def test_repeats_make_no_cuts_and_stills_keep_theirs(clips: Path, make, tmp_path: Path) -> None:
    """PySceneDetect's Adaptive takes changes after a repeated frame for cuts, and finds no cut between stills without repeats."""
    jerky = ffmpeg.input("mandelbrot=s=160x90:r=6:end_scale=0.1:end_pts=20", f="lavfi", t=3).filter("fps", 30)
    assert frames_of(make(jerky, tmp_path / "jerky.mp4")).signals["num_shots"] == 1
    stills, film = ffmpeg.input(str(clips / "colours.mp4")), ffmpeg.input(str(clips / "plain.mp4"))
    slides = make(ffmpeg.concat(stills, film).filter("mpdecimate"), tmp_path / "slides.mp4", fps_mode="vfr")
    found = frames_of(slides, k=4)
    assert found.signals["decoded_frames"] < 105 and found.signals["num_shots"] == 4
    assert [rgb(jpeg).mean((0, 1)).argmax() for jpeg in found.jpegs[:3]] == [0, 2, 1]


def test_i_frames_in_full_and_filled_up(clips: Path) -> None:
    clip = frames_of(clips / "plain.mp4", strategy="iframe", reading="full", k=8)  # one I-frame a second
    assert clip.signals["shortfall"] == 0 and clip.signals["reading"] == "full"
    keys = [t for t, why in zip(clip.times_s, clip.why, strict=True) if why == "I-frame"]
    assert keys == [0.0, 1.0, 2.0, 3.0] and sum(why.startswith("fill") for why in clip.why) == 4
    few = frames_of(clips / "plain.mp4", strategy="iframe", k=8, fill=False)
    assert few.times_s == keys and few.signals["shortfall"] == 4
    assert frames_of(clips / "plain.mp4", strategy="iframe", k=2).times_s == [1.0, 3.0]


def test_the_same_frames_with_one_worker_and_with_two(clips: Path) -> None:
    paths = sorted(clips.glob("*.m*")) + sorted(clips.glob("*.m*"))
    cfg = KeyframeConfig()

    def with_workers(num: int) -> list[ClipKeyframes]:
        found: dict[int, ClipKeyframes] = {}
        waiting = iter(list(enumerate(paths)))

        def work(_: int) -> None:
            with VideoWorker() as worker:
                for index, path in waiting:
                    found[index] = worker.extract(path, 0.0, None, cfg)

        with ThreadPoolExecutor(num) as pool:
            list(pool.map(work, range(num)))
        return [found[index] for index in range(len(paths))]

    assert with_workers(1) == with_workers(2)


def test_a_black_lead_in_is_avoided(make, tmp_path: Path) -> None:
    black = ffmpeg.input("color=black:s=160x90:r=25:d=1", f="lavfi")
    picture = ffmpeg.input("testsrc2=s=160x90:r=25:d=4", f="lavfi")
    path = make(ffmpeg.concat(black, picture), tmp_path / "lead.mp4")
    clip = frames_of(path)
    assert 0.15 < clip.signals["black_share"] < 0.25
    assert min(clip.times_s) >= 1.0
    assert any(t < 1.0 for t in frames_of(path, strategy="uniform").times_s)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ten_bit.mp4", {"pix_fmt": "yuv420p10le"}),
        ("full_chroma.mp4", {"pix_fmt": "yuv444p"}),
        ("odd.mkv", {"vf": "scale=161:91", "pix_fmt": "yuv444p"}),
        ("mjpeg.avi", {"vcodec": "mjpeg", "pix_fmt": "yuvj420p", "preset": None}),
        ("mpeg4.mp4", {"vcodec": "mpeg4", "preset": None}),
        ("vp9.webm", {"vcodec": "libvpx-vp9", "preset": None, "cpu-used": 8, "deadline": "realtime"}),
        ("one_frame.mp4", {"vframes": 1}),
        ("two_by_two.mp4", {"vf": "scale=2:2"}),
        ("-x 视频 %d.mp4", {}),
    ],
)
def test_unusual_but_undamaged(clips: Path, make, tmp_path: Path, name: str, options: dict) -> None:
    made = make(ffmpeg.input(str(clips / "plain.mp4"), t=1), tmp_path / f"made{Path(name).suffix}", **options)
    made.rename(tmp_path / name)  # ffmpeg would take some of the names for patterns or options
    probe(tmp_path / name, LIMITS)
    clip = frames_of(tmp_path / name)
    assert len(clip.times_s) == (1 if name == "one_frame.mp4" else 8)
