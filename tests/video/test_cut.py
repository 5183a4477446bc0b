from __future__ import annotations

from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest

from m2raap.video.cut import cut
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.scenes import find_scenes
from tests.video.conftest import encode

LIMITS = VideoConfig()


def frames(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Times since the start of the video stream, and small grey pictures."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = [
            (float((f.pts - (stream.start_time or 0)) * f.time_base), f.reformat(80, 44, "gray").to_ndarray())
            for f in container.decode(stream)
        ]
    return [t for t, _ in found], [p.astype(int) for _, p in found]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6.5 s at an odd size with B-frames, few key-frames and sound that starts earlier; in other containers and rates."""
    folder = tmp_path_factory.mktemp("sources")
    moving = ffmpeg.input("testsrc2=s=163x91:r=30000/1001:d=6.5", f="lavfi")
    sound = ffmpeg.input("sine=d=8", f="lavfi")
    late = moving.filter("setpts", "PTS+0.7/TB")
    options = {"vcodec": "libx264", "pix_fmt": "yuv420p", "g": 200, "bf": 3, "threads": 1, "acodec": "aac"}
    for name in ("late.mp4", "late.ts", "-x:y\n.mkv"):
        made = ffmpeg.output(late.filter("pad", 164, 92), sound, f"file:{folder / name}", **options)
        run_ffmpeg(made.compile(cmd=ffmpeg_exe()))
    uneven = moving.filter("select", "not(mod(n,7))+gt(mod(n,5),2)").filter("pad", 164, 92)
    encode(uneven, folder / "uneven.mp4", fps_mode="vfr", g=60)
    encode(moving, folder / "odd.mkv", pix_fmt="yuv444p")
    return folder


@pytest.mark.parametrize("name", ["late.mp4", "late.ts", "-x:y\n.mkv", "uneven.mp4", "odd.mkv"])
def test_exactly_the_frames_of_the_span(name: str, sources: Path, tmp_path: Path) -> None:
    path = sources / name
    times_s, pictures = frames(path)
    origin_s = find_scenes(path, "none", 0.6, LIMITS).origin_s
    for first, last in ((0, 20), (len(times_s) - 40, len(times_s) - 7)):
        start_s, end_s = round(times_s[first], 6), round(times_s[last], 6)
        out = tmp_path / "clip.mp4"
        cut(path, start_s, end_s, origin_s, out, LIMITS)
        cut_times_s, cut_pictures = frames(out)
        assert len(cut_times_s) == last - first
        assert cut_times_s == pytest.approx([t - times_s[first] for t in times_s[first:last]], abs=2e-3)
        for cut_picture, source in zip(cut_pictures, pictures[first:last], strict=True):
            assert np.abs(cut_picture - source).mean() < 6
        # The picture moves so much that the next frame differs more than encoding does.
        error, step = (np.abs(cut_pictures[0] - picture).mean() for picture in pictures[first : first + 2])
        assert error < step
        assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
        with av.open(str(out)) as container:
            assert not container.streams.audio


def test_same_bytes_again(clips: Path, tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        cut(clips / "plain.mp4", 1.0, 2.0, 0.0, tmp_path / name, LIMITS)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_refusals_leave_nothing_behind(clips: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((clips / "plain.mp4").read_bytes()[:5000])
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{clips}/plain.ts\n#EXT-X-ENDLIST\n")
    out = tmp_path / "out" / "clip.mp4"
    for path in (broken, playlist):
        with pytest.raises(Refused, match="corrupt"):
            cut(path, 0.0, 1.0, 0.0, out, LIMITS)
    with pytest.raises(Refused, match="timeout"):
        cut(clips / "plain.mp4", 0.0, 4.0, 0.0, out, VideoConfig(timeout_s=0.01))
    with pytest.raises(Refused, match="too_large"):
        cut(clips / "plain.mp4", 0.0, 4.0, 0.0, out, VideoConfig(max_bytes=2000))
    noise = ffmpeg.input("testsrc2=s=160x90:r=25:d=1,noise=alls=60:allf=t", f="lavfi")
    coarse = encode(noise, tmp_path / "coarse.mp4", crf=51)
    with pytest.raises(Refused, match="corrupt"):  # the copy, at a higher quality, has more bytes than allowed
        cut(coarse, 0.0, 1.0, 0.0, out, VideoConfig(max_bytes=coarse.stat().st_size))
    assert list(out.parent.iterdir()) == []
