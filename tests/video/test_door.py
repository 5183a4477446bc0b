"""The public function m2raap.video.keyframes."""

from __future__ import annotations

import dataclasses
import doctest
import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import m2raap.video
from m2raap.core.errors import M2raapError, UsageError
from m2raap.video.clip import KeyframeConfig
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.worker import VideoWorker

HEAVY = ("numpy", "av", "cv2", "PIL", "pydantic", "scenedetect", "torch")


@pytest.fixture(scope="module")
def worker():
    with VideoWorker() as worker:
        yield worker


def test_the_example_in_the_docstring(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").symlink_to(clips / "plain.mp4")
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(m2raap.video.keyframes, "keyframes", globs={})
    assert len(example.examples) == 4
    assert doctest.DocTestRunner().run(example).failed == 0


def test_exactly_k_frames_as_the_stage_gets_them(clips: Path, worker: VideoWorker) -> None:
    path = clips / "colours.mp4"
    clip = m2raap.video.keyframes(path, worker=worker)
    assert clip == worker.extract(path, 0.0, None, KeyframeConfig())
    lists = (clip.times_s, clip.jpegs, clip.scores, clip.why, clip.shots, clip.hashes)
    assert [len(values) for values in lists] == [8] * 6
    assert clip.times_s == sorted(set(clip.times_s)) and set(clip.shots) == {0, 1, 2}
    for jpeg in clip.jpegs:
        assert Image.open(io.BytesIO(jpeg)).size == (clip.width, clip.height) == (160, 90)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip.width = 1  # type: ignore[misc]


def test_a_span_and_further_settings(clips: Path, worker: VideoWorker) -> None:
    clip = m2raap.video.keyframes(
        str(clips / "plain.mp4"), 3, start_s=1.0, end_s=2.0, worker=worker, strategy="uniform", short_side_px=45
    )
    assert (len(clip.jpegs), clip.width, clip.height) == (3, 80, 45)
    assert clip.why == ["uniform"] * 3 and clip.signals["duration_s"] == pytest.approx(1.0)
    assert all(0 <= time_s < 1 for time_s in clip.times_s)


def test_a_span_with_fewer_frames_than_k_gives_all(clips: Path, worker: VideoWorker) -> None:
    clip = m2raap.video.keyframes(clips / "plain.mp4", 8, start_s=1.0, end_s=1.2, worker=worker)
    assert len(clip.jpegs) == 5 and clip.signals["shortfall"] == 3


@pytest.mark.parametrize(("name", "reason"), [("absent.mp4", "missing_file"), ("notes.mp4", "not_media")])
def test_a_refusal_names_file_and_reason(tmp_path: Path, worker: VideoWorker, name: str, reason: str) -> None:
    (tmp_path / "notes.mp4").write_text("no video at all, but words\n" * 40)
    with pytest.raises(M2raapError) as error:
        m2raap.video.keyframes(tmp_path / name, worker=worker)
    assert str(tmp_path / name) in str(error.value) and reason in str(error.value)
    assert isinstance(error.value.__cause__, Refused) and error.value.__cause__.reason == reason
    assert worker.pid is not None  # the caller's child keeps running


def test_a_limit_is_named_as_one(clips: Path) -> None:
    with VideoWorker(VideoConfig(max_pixels=100)) as small, pytest.raises(M2raapError) as error:
        m2raap.video.keyframes(clips / "plain.mp4", worker=small)
    assert "too_large" in str(error.value) and "VideoConfig" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"k": 0}, "k"), ({"stratgy": "uniform"}, "strategy"), ({"detector": "transnetv2"}, "transnetv2")],
)
def test_wrong_settings(clips: Path, worker: VideoWorker, settings: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        m2raap.video.keyframes(clips / "plain.mp4", worker=worker, **settings)


def test_a_span_without_length(clips: Path, worker: VideoWorker) -> None:
    with pytest.raises(M2raapError, match=r"plain\.mp4.*3\.0 s.*2\.0 s"):
        m2raap.video.keyframes(clips / "plain.mp4", start_s=3.0, end_s=2.0, worker=worker)


def test_the_import_is_light() -> None:
    code = f"import sys, m2raap.video; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
