from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np
import pytest
import scenedetect
from scenedetect.common import FrameTimecode, Timecode

from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.scenes import find_scenes, thumbnails
from m2raap.video.shots import DETECTORS, TimedPlane, _Timecode, find_cuts
from tests.video.conftest import encode

EVEN = [i / 25 for i in range(125)]
UNEVEN = [t for i, t in enumerate(EVEN) if t >= 3.0 or i % 3 != 2]


def show(times_s: list[float]) -> Iterator[TimedPlane]:
    """Three different noise pictures, changing at 1 s and 3 s, with a little motion within."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, level, (60, 100, 3), dtype=np.uint8) for level in (255, 90, 180)]
    for i, t in enumerate(times_s):
        picture = pictures[(t >= 1.0) + (t >= 3.0)].copy()
        picture[0, : i % 5] = 0
        yield t, picture, i


class Calls(list[tuple[float, int, list[float]]]):
    """Records the calls of `on_frame`: (time_s, frame, cuts_s) each."""

    def __call__(self, item: TimedPlane, cuts_s: list[float]) -> None:
        self.append((item[0], item[2], cuts_s))

    @property
    def cuts_s(self) -> list[float]:
        return [cut for _, _, cuts in self for cut in cuts]


@pytest.mark.parametrize("times_s", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", [*DETECTORS, "none"])
def test_cuts_by_time_stamp_and_one_call_per_frame(kind: str, times_s: list[float]) -> None:
    calls = Calls()
    cuts_s = find_cuts(show(times_s), kind, 0.6, calls, None)  # type: ignore[arg-type]
    assert np.allclose(cuts_s, [] if kind == "none" else [1.0, 3.0], atol=0.05)
    assert [(t, i) for t, i, _ in calls] == [(t, i) for i, t in enumerate(times_s)]
    assert calls.cuts_s == cuts_s
    assert all(cut <= t + 1e-6 for t, _, cuts in calls for cut in cuts)


@pytest.mark.parametrize("kind", ["adaptive", "hash", "histogram"])
def test_a_flash_is_no_cut(kind: str) -> None:
    """A white frame within a shot at 2 s is none; a white frame between two shots, at 3 s, is the cut that it hides."""
    white = np.full((60, 100, 3), 255, np.uint8)
    frames = [(t, white if round(t, 2) in (2.0, 3.0) else plane, i) for t, plane, i in show(EVEN)]
    calls = Calls()
    cuts_s = find_cuts(iter(frames), kind, 0.6, calls, None)  # type: ignore[arg-type]
    assert cuts_s == calls.cuts_s == pytest.approx([1.0, 3.0], abs=0.05)


def test_shortest_shot_is_in_seconds() -> None:
    assert find_cuts(show(EVEN), "adaptive", 2.5, Calls(), None) == pytest.approx([3.0])
    assert find_cuts(show(EVEN), "content", 0.0, Calls(), None) == pytest.approx([1.0, 3.0])


@pytest.mark.parametrize("frame_s", [1 / 25, 1001 / 30000, 0.1, 0.3])
def test_times_compare_as_those_of_pyscenedetect(frame_s: float) -> None:
    micro = Fraction(1, 1_000_000)
    times_s = [i * frame_s for i in range(100)]
    theirs = [FrameTimecode(Timecode(pts=round(t * 1e6), time_base=micro), fps=Fraction(25)) for t in times_s]
    ours = [_Timecode(t) for t in times_s]
    assert [t.seconds for t in ours] == [t.seconds for t in theirs]
    for least_s in (0.0, 0.3, 0.6, 0.7, 1.1, 3 * frame_s):
        assert [b - a >= least_s for a in ours for b in ours] == [b - a >= least_s for a in theirs for b in theirs]


def test_known_cuts_are_reported_in_time_and_nothing_is_detected() -> None:
    calls = Calls()
    known = [0.5, 0.51, 4.0]
    assert find_cuts(show(EVEN), "adaptive", 0.6, calls, known) == known
    assert [(t, cuts) for t, _, cuts in calls if cuts] == [(0.52, [0.5, 0.51]), (4.0, [4.0])]


def test_on_frame_is_called_before_the_next_frame_is_read() -> None:
    calls = Calls()

    def in_turn() -> Iterator[TimedPlane]:
        for i, item in enumerate(show(EVEN)):
            assert len(calls) == i
            yield item
            if i % 3 == 0:
                yield item[0] + 0.01, item[1], i  # the same picture again
                calls.pop()

    find_cuts(in_turn(), "adaptive", 0.6, calls, None)
    assert len(calls) == len(EVEN)


def test_repeated_frames_change_nothing() -> None:
    """24 pictures per second stored as 30: the copy without the repeats has the same shots."""
    repeated = [(i / 30, plane, None) for i in range(150) for _, plane, _ in (frames_at_24[i * 4 // 5],)]
    kept = [item for i, item in enumerate(repeated) if i == 0 or i * 4 // 5 != (i - 1) * 4 // 5]
    assert len(kept) == 120
    for kind in DETECTORS:
        with_repeats, without = (
            find_cuts(iter(items), kind, 0.6, Calls(), None)  # type: ignore[arg-type]
            for items in (repeated, kept)
        )
        assert with_repeats == without == pytest.approx([1.0, 3.0], abs=0.05), kind


frames_at_24 = list(show([i / 24 for i in range(120)]))


def test_scores_are_those_of_pyscenedetect() -> None:
    rng = np.random.default_rng(1)
    detector, reference = DETECTORS["content"](0.6), REFERENCE["content"](min_scene_len=0.6)
    for frame in range(20):
        plane = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        timecode = scenedetect.FrameTimecode(frame, 25.0)
        detector.process_frame(timecode, plane)
        reference.process_frame(timecode, plane)
        assert vars(detector)["_frame_score"] == pytest.approx(vars(reference)["_frame_score"], rel=1e-12)


def test_no_frame_and_one() -> None:
    for kind in ("adaptive", "none"):
        assert find_cuts(iter(()), kind, 0.6, Calls(), None) == []
        calls = Calls()
        assert find_cuts(show([0.0]), kind, 0.6, calls, None) == [] and len(calls) == 1


def test_errors_of_the_frames_and_of_on_frame_are_raised() -> None:
    def broken() -> Iterator[TimedPlane]:
        yield from show(EVEN[:30])
        raise Refused("corrupt", "half way")

    calls = Calls()
    with pytest.raises(Refused, match="half way"):
        find_cuts(broken(), "adaptive", 0.6, calls, None)
    assert len(calls) == 30

    def fail(item: TimedPlane, cuts_s: list[float]) -> None:
        raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        find_cuts(show(EVEN), "adaptive", 0.6, fail, None)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sources of 1 to 2 s each at 640x360 and 30000/1001 frames a second, cut at frames 45, 75, 135 and 165."""
    names = (
        "testsrc2",
        "mandelbrot",
        "smptehdbars",
        "life=seed=7:mold=10:ratio=0.3:death_color=red:life_color=blue",
        "rgbtestsrc",
    )
    parts = []
    for name, frames in zip(names, (45, 30, 60, 30, 45), strict=True):
        spec = f"{name}{':' if '=' in name else '='}s=640x360:r=30000/1001"
        parts.append(ffmpeg.input(spec, f="lavfi").filter("trim", end_frame=frames).filter("format", "yuv420p"))
    return encode(ffmpeg.concat(*parts), tmp_path_factory.mktemp("joined") / "joined.mp4", g=250)


REFERENCE = {
    "adaptive": scenedetect.AdaptiveDetector,
    "content": scenedetect.ContentDetector,
    "hash": scenedetect.HashDetector,
    "histogram": scenedetect.HistogramDetector,
}


@pytest.mark.parametrize("kind", REFERENCE)
def test_same_cuts_as_pyscenedetect(kind: str, joined: Path) -> None:
    found = find_scenes(joined, kind, 0.6, VideoConfig())  # type: ignore[arg-type]
    reference = scenedetect.detect(str(joined), REFERENCE[kind](min_scene_len=0.6), backend="pyav")
    assert found.cuts_s == pytest.approx([start.seconds for start, _ in reference[1:]], abs=1e-5)
    assert len(found.cuts_s) >= 3
    assert found.num_frames == 210 and found.end_s == pytest.approx(7.007, abs=0.04)


def test_thumbnails_continue_after_the_last_answer(joined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = thumbnails(joined, 0.0, None, -1.0, VideoConfig())
    assert not whole.more and len(whole.times_s) == 210 and len(whole.pixels) == 210 * 27 * 48 * 3
    raw = ffmpeg.output(ffmpeg.input(str(joined)), "pipe:", f="rawvideo", pix_fmt="rgb24", s="48x27")
    reference = np.frombuffer(run_ffmpeg(raw.compile(cmd=ffmpeg_exe())), np.uint8).astype(int)
    assert (
        np.abs(reference - np.frombuffer(whole.pixels, np.uint8)).mean() < 1.0
    )  # the scaling of the network's training data
    monkeypatch.setattr("m2raap.video.scenes._MAX_THUMBS", 100)
    times_s, pixels, more = [-1.0], b"", True
    while more:
        part = thumbnails(joined, 0.0, None, times_s[-1], VideoConfig())
        times_s, pixels, more = times_s + part.times_s, pixels + part.pixels, part.more
    assert (times_s[1:], pixels) == (whole.times_s, whole.pixels)
    window = thumbnails(joined, 2.0, 3.0, -1.0, VideoConfig())
    assert window.times_s == [t for t in whole.times_s if 2.0 <= t < 3.0]
