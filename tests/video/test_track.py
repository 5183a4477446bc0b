"""Which of several video streams is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2raap.video.clip import KeyframeConfig
from m2raap.video.container import open_video
from m2raap.video.decode import decode
from m2raap.video.extract import extract
from m2raap.video.limits import Refused, VideoConfig
from tests.video.test_times import run

LIMITS = VideoConfig()
FILM, SMALL, SHORT, PICTURE = (64, 48), (32, 24), (48, 36), (80, 60)
# Name -> (inputs in the order of the streams, ones marked as default, the stream to be read).
TRACKS = {
    "picture_first.mkv": ("picture film", "film", "film"),
    "picture_first.mov": ("picture film", "film", "film"),
    "picture_default.mkv": ("picture film", "picture film", "film"),
    "picture_alone_default.mkv": ("picture film", "picture", "film"),
    "picture_unmarked.mkv": ("picture film", "", "film"),
    "small_first.mp4": ("small film", "film", "film"),
    "small_first.mkv": ("small film", "small film", "film"),
    "small_first.ts": ("small film", "", "film"),
    "small_default.mp4": ("film small", "small", "small"),
    "short_first.mkv": ("short film", "short film", "film"),
    "short_larger.mp4": ("small short", "", "small"),
    "two_pictures.mkv": ("picture small picture", "", "small"),
    "two_equal.mkv": ("film film", "film", "film"),
}
SIZES = {"film": FILM, "small": SMALL, "short": SHORT, "picture": PICTURE}


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    sources = [w for (width, height), seconds in ((FILM, 2), (SMALL, 2), (SHORT, 1), (PICTURE, 1))
               for w in ("-f", "lavfi", "-i", f"testsrc2=s={width}x{height}:r=10:d={seconds}")]  # fmt: skip
    coded = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "10", "-threads", "1"]
    outputs = [w for n, name in enumerate(("film", "small", "short"))
               for w in ("-map", f"{n}:v", *coded, str(folder / f"{name}.mp4"))]  # fmt: skip
    run(*sources, *outputs, "-map", "3:v", "-frames:v", "1", "-pix_fmt", "yuvj420p", str(folder / "picture.jpg"))
    files = {name: folder / ("picture.jpg" if name == "picture" else f"{name}.mp4") for name in SIZES}
    for name, (order, default, _) in TRACKS.items():
        inputs = [w for source in order.split() for w in ("-i", str(files[source]))]
        marks = [
            w
            for n, source in enumerate(order.split())
            for w in ("-map", str(n), f"-disposition:v:{n}", "default" if source in default.split() else "0")
        ]
        run(*inputs, *marks, "-c", "copy", str(folder / name))
    return folder


@pytest.mark.parametrize("name", TRACKS)
def test_the_film_is_read(tracks: Path, name: str) -> None:
    size = SIZES[TRACKS[name][2]]
    with open_video(tracks / name, LIMITS) as opened:
        frames = [item.frame for item in decode(opened) if item.frame is not None]
    assert [(frame.width, frame.height) for frame in frames] == [size] * 20
    for reading in ("full", "sparse"):  # the sparse one reads packets before it decodes
        clip = extract(tracks / name, 0.0, None, KeyframeConfig(k=4, strategy="uniform", reading=reading), LIMITS)
        assert (clip.width, clip.height) == size and clip.times_s == pytest.approx([0.2, 0.7, 1.2, 1.7], abs=0.11)


def test_a_cover_is_no_video(tracks: Path) -> None:
    run("-f", "lavfi", "-i", "sine=d=1", "-i", str(tracks / "picture.jpg"), "-map", "0", "-map", "1", "-c:v", "copy",
        "-disposition:v:0", "attached_pic", str(tracks / "cover.m4a"))  # fmt: skip
    with pytest.raises(Refused, match="no_video_stream"), open_video(tracks / "cover.m4a", LIMITS):
        pass
