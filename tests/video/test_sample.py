from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from m2raap.video.container import open_video
from m2raap.video.decode import decode
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.render import Renderer
from m2raap.video.sample import sample
from m2raap.video.worker import VideoWorker

LIMITS = VideoConfig()


def all_frames(path: Path, start_s: float, end_s: float | None) -> list[tuple[float, bytes]]:
    """Brute force: every frame of the clip, rendered."""
    with open_video(path, LIMITS) as opened:
        found = [(item.time_s, item.frame) for item in decode(opened, start_s, end_s) if item.frame is not None]
        renderer = Renderer(opened.stream, found[0][1], 45)
        return [(time_s, renderer.picture(frame).tobytes()) for time_s, frame in found]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from(["plain.mp4", "plain.mkv", "plain.ts", "plain.avi"]),
    window=st.sampled_from([(0.0, None), (0.9, 3.1), (2.0, 2.3)]),
    cuts=st.lists(st.integers(0, 999), min_size=1, max_size=9, unique=True),
)
def test_the_same_frames_as_a_full_decode(
    clips: Path, name: str, window: tuple[float, float | None], cuts: list[int]
) -> None:
    """With an I-frame every second, places far apart are reached by seeks, near ones by decoding."""
    places = [cut / 1000 for cut in sorted(cuts)]
    found = sample(clips / name, *window, places, 45, LIMITS)
    frames = all_frames(clips / name, *window)
    length_s = (window[1] or 4.0) - window[0] - 1 / 25
    expected: list[int] = []
    for place in places:
        target_s = window[0] + place * length_s
        first = next((i for i, (time_s, _) in enumerate(frames) if time_s >= target_s - 1e-6), len(frames) - 1)
        if not expected or first > expected[-1]:
            expected.append(first)
    # Matroska rounds times to 1 ms; the length of an MPEG-TS or AVI is known to one frame.
    indices = [min(range(len(frames)), key=lambda i: abs(frames[i][0] - window[0] - t)) for t in found.times_s]
    assert len(indices) == len(found.pixels) and all(a < b for a, b in pairwise(found.times_s))
    if name in ("plain.mp4", "plain.mkv"):
        assert indices == expected
    else:
        assert abs(len(indices) - len(expected)) <= 1
        assert all(min(abs(i - j) for j in expected) <= 2 for i in indices)
    assert [frames[i][1] for i in indices] == found.pixels
    assert (found.width, found.height) == (80, 45)


def test_seeks_to_an_i_frame_of_the_index_between_two_places(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import m2raap.video.sample as module

    times_s: list[float] = []

    def counting(*args):
        for item in decode(*args):
            times_s.append(item.time_s)
            yield item

    monkeypatch.setattr(module, "decode", counting)
    found = sample(clips / "plain.mp4", 0.0, None, [0.02, 0.9], 45, LIMITS)
    assert found.times_s == pytest.approx([0.08, 3.6], abs=0.05)
    assert len(times_s) < 10, "the second place must be reached by a seek, not by decoding up to it"


def test_pixels_from_the_child_process_show_the_clip(clips: Path) -> None:
    places = [0.1, 0.4, 0.9]  # red, blue, green
    with VideoWorker() as worker:
        found = worker.sample(clips / "colours.mp4", 0.0, None, places, 45)
        assert found == sample(clips / "colours.mp4", 0.0, None, places, 45, LIMITS)
        pictures = [np.asarray(Image.frombytes("RGB", (found.width, found.height), data)) for data in found.pixels]
        assert [int(picture.mean((0, 1)).argmax()) for picture in pictures] == [0, 2, 1]
        with pytest.raises(Refused) as refusal:
            worker.sample(clips / "plain.mp4", 9.0, 10.0, places, 45)
        assert refusal.value.reason == "truncated"
        with pytest.raises(Refused) as refusal:
            worker.sample(clips / "no.mp4", 0.0, None, places, 45)
        assert refusal.value.reason == "missing_file"
