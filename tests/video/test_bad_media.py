"""Files that are not what they say. Each has the class that it must get, from probe and from extract."""

from __future__ import annotations

from pathlib import Path

import ffmpeg
import pytest

from m2raap.video.extract import KeyframeConfig, extract
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.probe import probe

LIMITS = VideoConfig()


def run(stream: object, path: Path, **options: object) -> Path:
    run_ffmpeg(ffmpeg.output(stream, str(path), **options).compile(cmd=ffmpeg_exe()))
    return path


@pytest.fixture(scope="module")
def bad(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")

    def write(name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)

    plain, faststart = (clips / "plain.mp4").read_bytes(), (clips / "faststart.mp4").read_bytes()
    write("empty.mp4", b"")
    write("zeros.mp4", bytes(5000))
    write("noise.mp4", bytes((i * 7919 >> 3) % 251 for i in range(5000)))
    write("page.mp4", b"<!DOCTYPE html><html><body>404</body></html>")
    write("answer.mp4", b'{"error": "gone"}')
    write("moov_last_cut.mp4", plain[: len(plain) // 2])
    write("moov_first_cut.mp4", faststart[: len(faststart) // 2])
    write("tail_cut.mp4", faststart[:-200])
    write("only_ftyp.mp4", plain[:32])
    mkv, avi = (clips / "plain.mkv").read_bytes(), (clips / "plain.avi").read_bytes()
    write("cut.mkv", mkv[: len(mkv) // 2])
    write("cut.avi", avi[: len(avi) // 2])
    target = f"file://{clips}/plain.ts"
    write("hls.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n".encode())
    write("hls_late.mp4", f"\n\n  #EXTM3U\n#EXTINF:4,\n{target}\n".encode())
    write("concat.mp4", f"ffconcat version 1.0\nfile '{clips}/plain.mp4'\n".encode())
    write("sdp.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n")
    red = ffmpeg.input("color=red:s=32x32:d=1:r=5", f="lavfi")
    tone = ffmpeg.input("sine=d=1", f="lavfi")
    run(red, folder / "a.png", vframes=1)
    (folder / "a.png").rename(folder / "png.mp4")
    run(red, folder / "b.gif")
    (folder / "b.gif").rename(folder / "gif.mp4")
    run(tone, folder / "tone.mp4", acodec="aac")
    run(tone, folder / "tone.wav")
    # A song whose only 'video' is its cover.
    cover = ffmpeg.input(str(folder / "png.mp4"), f="png_pipe")
    argv = ffmpeg.output(
        tone,
        cover,
        str(folder / "cover.mp4"),
        acodec="aac",
        vcodec="mjpeg",
        **{"disposition:v:0": "attached_pic", "strict": "unofficial"},
    ).compile(cmd=ffmpeg_exe())
    run_ffmpeg(argv)
    run(red, folder / "ffv1.mkv", vcodec="ffv1")
    (folder / "folder.mp4").mkdir()
    return folder


CASES = {
    "empty.mp4": "empty",
    "zeros.mp4": "not_media",
    "noise.mp4": "not_media",
    "page.mp4": "not_media",
    "answer.mp4": "not_media",
    "folder.mp4": "not_media",
    "gone.mp4": "missing_file",
    "moov_last_cut.mp4": "header_missing",
    "only_ftyp.mp4": "header_missing",
    "moov_first_cut.mp4": "truncated",
    "hls.mp4": "refused_format",
    "hls_late.mp4": "refused_format",
    "concat.mp4": "refused_format",
    "sdp.mp4": "refused_format",
    "png.mp4": "refused_format",
    "gif.mp4": "refused_format",
    "tone.wav": "refused_format",
    "tone.mp4": "no_video_stream",
    "cover.mp4": "no_video_stream",
    "ffv1.mkv": "unsupported_codec",
}


@pytest.mark.parametrize(("name", "reason"), CASES.items())
def test_class(bad: Path, name: str, reason: str) -> None:
    for read in (lambda p: probe(p, LIMITS), lambda p: extract(p, 0.0, None, KeyframeConfig(), LIMITS)):
        with pytest.raises(Refused) as refusal:
            read(bad / name)
        assert refusal.value.reason == reason, refusal.value


def test_the_whitelist_itself_stops_the_playlist(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only our look at the first bytes: with that look off, FFmpeg still refuses."""
    monkeypatch.setattr("m2raap.video.decode._refuse_by_bytes", lambda path, cfg: None)
    for name in ("hls.mp4", "hls_late.mp4", "concat.mp4", "sdp.mp4", "png.mp4"):
        with pytest.raises(Refused):
            probe(bad / name, LIMITS)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.avi"])
def test_a_cut_file_without_a_sample_table(bad: Path, name: str) -> None:
    """The header alone does not prove it; decoding does."""
    with pytest.raises(Refused) as refusal:
        extract(bad / name, 0.0, None, KeyframeConfig(), LIMITS)
    assert refusal.value.reason == "truncated"


def test_a_lost_tail_is_survived(bad: Path) -> None:
    clip = extract(bad / "tail_cut.mp4", 0.0, None, KeyframeConfig(), LIMITS)
    assert len(clip.times_s) == 8
    assert 90 <= clip.signals["decoded_frames"] <= clip.signals["expected_frames"] == 100


def test_an_early_clip_of_a_cut_file_is_whole(bad: Path) -> None:
    clip = extract(bad / "moov_first_cut.mp4", 0.0, 1.0, KeyframeConfig(k=4), LIMITS)
    assert len(clip.times_s) == 4 and clip.signals["expected_frames"] == 25


@pytest.fixture(scope="module")
def damaged(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.mp4 with one byte in 40 flipped in the middle of its sample data."""
    data = bytearray((clips / "plain.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    for i in range(start + (end - start) // 3, start + (end - start) * 2 // 3, 40):
        data[i] ^= 0x5A
    path = tmp_path_factory.mktemp("damaged") / "damaged.mp4"
    path.write_bytes(data)
    return path


def test_flipped_bits(damaged: Path) -> None:
    with pytest.raises(Refused) as refusal:
        extract(damaged, 0.0, None, KeyframeConfig(), LIMITS)
    assert refusal.value.reason in ("corrupt", "truncated")
    mild = VideoConfig(min_decoded_share=0, max_corrupt_share=1)
    clip = extract(damaged, 0.0, None, KeyframeConfig(), mild)
    assert len(clip.times_s) == 8
    assert clip.signals["corrupt_share"] > 0.1


def test_limits_of_size(clips: Path) -> None:
    for limits in (VideoConfig(max_pixels=160 * 90 - 1), VideoConfig(max_bytes=1000)):
        with pytest.raises(Refused) as refusal:
            probe(clips / "plain.mp4", limits)
        assert refusal.value.reason == "too_large"


@pytest.mark.parametrize("share", [i / 16 for i in range(1, 16)])
def test_a_cut_anywhere_ends_in_a_class_or_a_clip(clips: Path, tmp_path: Path, share: float) -> None:
    for source in ("plain.mp4", "faststart.mp4", "fragments.mp4", "plain.mkv", "plain.ts", "plain.avi"):
        data = (clips / source).read_bytes()
        path = tmp_path / source
        path.write_bytes(data[: int(len(data) * share)])
        try:
            clip = extract(path, 0.0, None, KeyframeConfig(), LIMITS)
        except Refused:
            continue
        assert 1 <= len(clip.times_s) <= 8
        # Where the announced length survives the cut, a clip that lost much must not pass for whole.
        if source in ("plain.mp4", "faststart.mp4", "plain.mkv", "plain.avi"):
            assert clip.signals["decoded_frames"] >= 90
