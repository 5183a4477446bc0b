"""Whose zero times count from, and windows that hold exactly the frames of the whole video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from m2raap.video.clip import KeyframeConfig
from m2raap.video.container import open_video
from m2raap.video.decode import decode
from m2raap.video.extract import extract
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import examine
from m2raap.video.sample import sample
from m2raap.video.scenes import find_scenes
from m2raap.video.tally import announced_frames

LIMITS = VideoConfig()
FPS, FRAMES, LATE_S = 25, 50, 0.6
# The brightness of a frame is its number: 16 + 4 * n.
NUMBERED = f"nullsrc=s=64x48:r={FPS}:d={FRAMES / FPS},geq=lum='16+4*N':cb=128:cr=128"
MPEG4 = "-c:v mpeg4 -q:v 2 -g 12 -bf 2 -sc_threshold 1000000000"
MPEG2 = "-c:v mpeg2video -q:v 2 -g 12 -bf 2 -sc_threshold 1000000000"
H264 = "-c:v libx264 -preset veryfast -crf 8 -g 12 -bf 3 -x264-params open-gop=1 -pix_fmt yuv420p -threads 1"
HEVC = "-c:v libx265 -preset ultrafast -crf 4 -x265-params log-level=none:pools=1:open-gop=1:keyint=12:min-keyint=12:bframes=3"
WINDOWED = {
    "mpeg4.avi": MPEG4, "mpeg4.mp4": MPEG4, "mpeg4.mov": MPEG4, "one_b.avi": MPEG4.replace("-bf 2", "-bf 1"),
    "mpeg2.avi": MPEG2, "mpeg2.mpg": MPEG2, "mpeg2.ts": MPEG2, "mpeg2.mp4": MPEG2,
    "mpeg1.mpg": MPEG2.replace("mpeg2video", "mpeg1video"),
    "h264.avi": H264, "h264.mp4": H264, "h264.mov": H264, "h264.mkv": H264, "h264.ts": H264, "hevc.mp4": HEVC,
    "no_key.mp4": H264.replace("open-gop=1", "intra-refresh=1:bframes=0"),  # decoders need some frames after a seek
}  # fmt: skip


def run(*words: str) -> None:
    run_ffmpeg([ffmpeg_exe(), *words])


@pytest.fixture(scope="module")
def b_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """B-frames around I-frames that do not begin a closed group of pictures, and a packed copy of one_b.avi."""
    folder = tmp_path_factory.mktemp("b_frames")
    run("-f", "lavfi", "-i", NUMBERED, *(w for name, how in WINDOWED.items() for w in (*how.split(), folder / name)))
    packed(folder / "one_b.avi", folder / "packed.avi")
    return folder


def packed(plain: Path, out: Path) -> None:
    """Packs B-frames as DivX does: a packet holds a frame and the B-frame after it; an empty one keeps the place of that."""
    with av.open(str(plain)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [(bytes(p), p.is_keyframe) for p in source.demux(source.streams.video[0]) if p.size]
        is_b = [data[data.index(b"\0\0\1\xb6") + 4] >> 6 == 2 for data, _ in packets] + [False]
        chunks: list[tuple[bytes, bool]] = []
        for n, (data, is_key) in enumerate(packets):
            if not is_b[n]:
                data = data.replace(b"\0\0\1\xb6", b"\0\0\1\xb2DivX503b1393p\0\0\1\xb6", 1) if is_key else data
                chunks.append((data + packets[n + 1][0] if is_b[n + 1] else data, is_key))
            else:
                chunks.append((b"\0\0\1\xb6\x50\x4f", False))
        for n, (data, is_key) in enumerate(chunks):
            packet = Packet(data)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, n, n, is_key
            packet.time_base = source.streams.video[0].time_base
            target.mux(packet)


def frames_of(path: Path, start_s: float = 0.0, end_s: float | None = None) -> list[tuple[int, float]]:
    with open_video(path, LIMITS) as opened:
        return [(number_of(item.frame), round(item.time_s, 3)) for item in decode(opened, start_s, end_s)]


def number_of(frame: av.VideoFrame | None) -> int:
    assert frame is not None
    plane = frame.planes[0]
    luma_HW = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:48, :64]
    return round((luma_HW.mean() - 16) / 4)


@pytest.mark.parametrize("name", [*WINDOWED, "packed.avi"])
def test_a_window_holds_the_frames_of_the_whole(b_frames: Path, name: str) -> None:
    """By seek: an I-frame decoded before a window may be displayed in it, and B-frames before it are not decoded."""
    whole = frames_of(b_frames / name)
    assert [number for number, _ in whole] == list(range(FRAMES))
    assert [time_s for _, time_s in whole] == pytest.approx([n / FPS for n in range(FRAMES)], abs=0.0011)
    for first in range(1, FRAMES - 4):
        start_s = first / FPS
        expected = [(number, time_s) for number, time_s in whole if start_s - 0.002 < time_s < start_s + 0.158]
        assert frames_of(b_frames / name, start_s - 0.002, start_s + 0.158) == expected


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files whose picture starts LATE_S after the sound; cut.*: a cut by copy at 0.3 s, whose picture starts at 0.48 s."""
    folder = tmp_path_factory.mktemp("late")
    coded = "-c:v libx264 -preset ultrafast -crf 8 -g 12 -bf 2 -keyint_min 12 -sc_threshold 0 -pix_fmt yuv420p"
    run(
        "-f", "lavfi", "-i", NUMBERED, "-f", "lavfi", "-i", "sine=d=2.6", "-filter_complex",
        f"[0:v]split=3[a][b][c];[a]setpts=PTS+{LATE_S}/TB[d];[b]setpts=PTS+{LATE_S}/TB[e]",
        *(w for label, name in (("d", "late.mp4"), ("e", "late.mkv"), ("c", "whole.mp4"))
          for w in ("-map", f"[{label}]", "-map", "1:a", *coded.split(), "-c:a", "aac", str(folder / name))),
    )  # fmt: skip
    copies = {"late.ts": "late.mp4", "late.flv": "late.mp4", "cut.mp4": "whole.mp4", "cut.mkv": "whole.mp4"}
    for name, source in copies.items():
        seek = ("-ss", "0.3") if name.startswith("cut") else ()
        run("-i", str(folder / source), *seek, "-c", "copy", "-strict", "-2", str(folder / name))
    return folder


LATE = ["late.mp4", "late.mkv", "late.ts", "late.flv", "cut.mp4", "cut.mkv"]


@pytest.mark.parametrize("name", LATE)
def test_times_count_from_the_start_of_the_sound(late: Path, tmp_path: Path, name: str) -> None:
    path, first = late / name, 12 if name.startswith("cut") else 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base and stream.start_time and container.start_time is not None
        first_s = float(stream.start_time * stream.time_base) - container.start_time / 1e6
    whole = frames_of(path)
    assert first_s > 0.1 and [number for number, _ in whole] == list(range(first, FRAMES))
    assert [t for _, t in whole] == pytest.approx([first_s + (n - first) / FPS for n, _ in whole], abs=0.002)
    # What ffmpeg shows at a second is the first frame of a window from there. It decodes up to there, because it seeks inexactly
    # in a transport stream.
    for start_s in (first_s + 0.01, 1.01):
        out = tmp_path / "shown.mkv"
        run("-i", str(path), "-ss", f"{start_s}", "-frames:v", "1", "-c:v", "ffv1", "-c:a", "copy", str(out))
        with av.open(str(out)) as container:
            shown = number_of(next(container.decode(video=0)))
        assert frames_of(path, start_s, start_s + 0.2)[0][0] == shown


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("reading", ["full", "sparse"])
def test_key_frames_of_a_late_picture(late: Path, name: str, reading: str) -> None:
    whole = {time_s: number for number, time_s in frames_of(late / name)}
    first_s = min(whole)
    cfg = KeyframeConfig(k=4, strategy="uniform", reading=reading)
    for start_s, end_s in ((0.0, None), (0.1, 1.5), (first_s + 0.2, None), (first_s + 0.2, 1.4)):
        clip = extract(late / name, start_s, end_s, cfg, LIMITS)
        assert len(clip.times_s) == 4
        for time_s in clip.times_s:  # seconds since the start of the clip, so that start_s + time_s is a player's time
            assert min(abs(start_s + time_s - at_s) for at_s in whole) < 0.0021
        assert clip.times_s[0] >= first_s - start_s - 0.002 and clip.signals["shortfall"] == 0
        # The picture is shared out equally among the k frames.
        assert np.ptp(np.diff(clip.times_s)) < 1.5 / FPS
    with pytest.raises(Refused, match="truncated"):
        extract(late / name, 0.0, 0.1, cfg, LIMITS)


@pytest.mark.parametrize("name", LATE)
def test_the_length_of_a_late_picture(late: Path, name: str) -> None:
    num_frames = FRAMES - (12 if name.startswith("cut") else 0)
    health = examine(late / name, LIMITS)
    assert health.fault is None and health.frames_decoded == health.frames_expected == num_frames
    assert health.duration_frames_s == pytest.approx(num_frames / FPS, abs=0.01)
    sampled = sample(late / name, 0.0, None, [0.0, 0.5, 0.99], 48, LIMITS)
    whole = frames_of(late / name)
    expected_s = [whole[place][1] for place in (0, round((num_frames - 1) / 2), -1)]
    assert sampled.times_s == pytest.approx(expected_s, abs=1.01 / FPS)


def test_fragments_of_a_late_picture_are_counted(late: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragmented = tmp_path / "fragments.mp4"
    run("-i", str(late / "late.mp4"), "-c", "copy", "-movflags", "frag_keyframe+empty_moov", str(fragmented))
    monkeypatch.chdir(tmp_path)
    with open_video(Path(fragmented.name), LIMITS) as opened:  # a path of the working folder
        assert opened.first_s > 0 and not opened.stream.frames
        assert announced_frames(opened, opened.first_s, float("inf")) == FRAMES
        assert announced_frames(opened, opened.first_s + 0.5, float("inf")) is None


def test_scenes_of_a_late_picture(late: Path) -> None:
    scenes = find_scenes(late / "late.mkv", "none", 0.6, LIMITS)
    assert scenes.first_s == pytest.approx(LATE_S, abs=0.05)
    assert scenes.end_s == pytest.approx(scenes.first_s + FRAMES / FPS, abs=0.01)
