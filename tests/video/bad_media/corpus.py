"""All cases, and the folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.video.bad_media.case import Case, Sources, names, taken, written
from tests.video.bad_media.disguises import DISGUISES, HLS, NOT_MEDIA, special_cases
from tests.video.bad_media.mp4 import mp4_cases
from tests.video.bad_media.streams import stream_cases

SOUND = names(
    """
    plain.mp4 faststart.mp4 fragments.mp4 dash.mp4 plain.mkv live.mkv plain.ts plain.m2ts plain.flv live.flv
    h264.avi plain.avi mjpeg.avi mpeg2.mpg mpeg1.mpg mpeg2.ts theora.ogv plain.wmv vp8.webm vp9.webm av1.mp4
    hevc10.mp4 hi10.mp4 hi422.mp4 gray.mp4 full_range.mp4 prores.mov alpha.webm dnxhr.mov open_gop.mp4
    intra_refresh.mp4 late.ts wrap.ts late.mp4 negative.mp4 sound.mp4 sound.ts sound.mpg sound.ogv timecode.mov
    longer_sound.mkv longer_sound.mp4 two_videos.mkv subtitles.mkv subtitles.mp4 cover_first.mp4 odd.mp4
    odd.webm tiny.mp4 thin.mp4 wide_pixels.mp4 absurd_pixels.mp4 interlaced.mp4 interlaced.mpg
    """
)
NUM_FRAMES = {
    "variable.mp4": 26, "variable.mkv": 26, "edit_list.mp4": 35, "one_frame.mp4": 1, "one_frame.webm": 1, "slow.mp4": 4,
    "corner.mp4": 10, "turned_90.mp4": 10, "turned_180.mp4": 10, "turned_270.mp4": 10, "turned_30.mp4": 10,
    "mirrored.mp4": 10, "mirrored_90.mp4": 10,
}  # fmt: skip
NO_VIDEO = names("tone.m4a tone.mp4 tone.mkv tone.ogg tone.ts cover.m4a only_subtitles.mkv")
OTHER_CODECS = names("ffv1.mkv raw.avi raw.mkv huffyuv.avi qtrle.mov cinepak.avi png.mov dv.avi")
OTHER_FORMATS = names(
    """
    x.png x.jpg x.bmp x.tiff x.gif x.webp x.avif x.y4m x.h264 x.m1v x.ivf x.mxf x.nut x.swf x.srt x.vtt tone.wav
    tone.mp3 tone.aac cover.mp3
    """
)
# Names that mean something to a shell, to FFmpeg or to a careless format string; all hold plain.mp4.
NAMES = [
    "-i.mp4", "--help", "new\nline.mp4", "tab\t.mp4", "视频 ❤️.mp4", "trailing space.mp4 ", " leading.mp4", "x" * 240 + ".mp4",
    "concat:a.mp4|b.mp4", "file:plain.mp4", "pipe:0", "data:video", "%05d.mp4", "a?b#c&d.mp4", "$(id).mp4", "'quoted'.mp4",
    "no_extension", "wrong.m3u8", "wrong.txt", ".hidden.mp4", "e\u0301.mp4", "\u202egpj.mp4", "*.mp4", "a;b|c.mp4",
]  # fmt: skip

CASES: list[Case] = [
    *(Case(name, "ok", taken(name), frames=50) for name in SOUND),
    *(Case(name, "ok", taken(name), frames=frames) for name, frames in NUM_FRAMES.items()),
    *(Case(name, "ok", taken("plain.mp4"), frames=50) for name in NAMES),
    *(Case(name, "no_video_stream", taken(name)) for name in NO_VIDEO),
    *(Case(name, "unsupported_codec", taken(name)) for name in OTHER_CODECS),
    *(Case(f"{name}.mp4", "refused_format", taken(name)) for name in OTHER_FORMATS),
    *(Case(name, "refused_format", written(text)) for name, text in DISGUISES.items()),
    *(Case(name, "not_media", make) for name, make in NOT_MEDIA.items()),
    *mp4_cases(),
    *stream_cases(),
    *special_cases(),
]
assert len({case.name for case in CASES}) == len(CASES)
# A name that is not UTF-8, which no table can hold as text.
UNDECODABLE = b"not \xff\xfe utf-8.mp4"


def write_corpus(folder: Path, sources: Sources) -> None:
    """Every case as a file in `folder`, and the undecodable name with the bytes of plain.mp4."""
    folder.mkdir()
    for case in CASES:
        made, path = case.make(sources), folder / case.name
        if callable(made):
            made(path)
        else:
            path.write_bytes(made)
    with open(os.fsencode(folder) + b"/" + UNDECODABLE, "wb") as file:
        file.write(sources("plain.mp4"))


def write_canary(folder: Path, sources: Sources) -> None:
    """Undamaged files that FFmpeg would read if it were asked to."""
    folder.mkdir()
    for name, source in {"canary.mp4": "plain.mp4", "canary.ts": "plain.ts", "canary.key": "x.srt"}.items():
        (folder / name).write_bytes(sources(source))
    (folder / "canary.m3u8").write_text(HLS.format("", "canary.ts"))
