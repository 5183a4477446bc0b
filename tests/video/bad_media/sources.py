"""Sound clips of 64x48 that the cases are made from. Frame N of most of them has luma 16 + 4 N, so that it shows its time."""

from __future__ import annotations

from pathlib import Path

from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg

FRAMES, FPS = 50, 25
RAMP = "nullsrc=s=64x48:r=25:d=2,geq=lum='16+4*N+mod(X+Y,2)':cb=128:cr=128"
BUSY = "testsrc2=s=64x48:r=25:d=2"
CORNER = "color=gray:s=64x48:r=25:d=0.4,drawbox=w=32:h=24:c=red:t=fill"
X264 = "-c:v libx264 -preset veryfast -crf 12 -g 12 -bf 2 -threads 1 -pix_fmt yuv420p"

# What one run of ffmpeg makes from one input: {file: options}.
RAMPS = {
    "plain.mp4": X264,
    "faststart.mp4": f"{X264} -movflags +faststart",
    "fragments.mp4": f"{X264} -movflags frag_keyframe+empty_moov",
    "dash.mp4": f"{X264} -movflags frag_keyframe+empty_moov+skip_trailer",
    "plain.mkv": f"{X264} -cluster_time_limit 400",
    "live.mkv": f"{X264} -cluster_time_limit 400 -live 1",
    "plain.ts": X264,
    "plain.m2ts": f"{X264} -mpegts_m2ts_mode 1 -f mpegts",
    "plain.flv": X264,
    "live.flv": f"{X264} -flvflags no_duration_filesize",
    "h264.avi": X264,
    "plain.avi": "-c:v mpeg4 -q:v 2 -g 12",
    "mjpeg.avi": "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p",
    "mpeg2.mpg": "-c:v mpeg2video -q:v 2 -g 12 -f mpeg",
    "mpeg1.mpg": "-c:v mpeg1video -q:v 2 -g 12 -f mpeg",
    "mpeg2.ts": "-c:v mpeg2video -q:v 2 -g 12",
    "theora.ogv": "-c:v libtheora -q:v 10 -g 12",
    "plain.wmv": "-c:v wmv2 -q:v 2 -g 12",
    "vp8.webm": "-c:v libvpx -b:v 1M -deadline realtime -cpu-used 8 -g 25",
    "vp9.webm": "-c:v libvpx-vp9 -crf 4 -b:v 0 -deadline realtime -cpu-used 8 -g 25 -keyint_min 25",
    "av1.mp4": "-c:v libaom-av1 -crf 4 -b:v 0 -cpu-used 8 -usage realtime -g 25 -keyint_min 25",
    "hevc10.mp4": "-c:v libx265 -preset ultrafast -crf 4 -pix_fmt yuv420p10le -x265-params log-level=none:pools=1 -g 12",
    "hi10.mp4": f"{X264} -pix_fmt yuv420p10le",
    "hi422.mp4": f"{X264} -pix_fmt yuv422p",
    "gray.mp4": f"{X264} -pix_fmt gray",
    "full_range.mp4": f"{X264} -pix_fmt yuvj420p",
    "prores.mov": "-c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
    "alpha.webm": "-c:v libvpx-vp9 -crf 4 -b:v 0 -pix_fmt yuva420p -auto-alt-ref 0 -deadline realtime -cpu-used 8",
    "dnxhr.mov": "-c:v dnxhd -profile:v dnxhr_sq -pix_fmt yuv422p -vf scale=256:120",
    "open_gop.mp4": f"{X264} -x264-params open-gop=1",
    "intra_refresh.mp4": f"{X264} -x264-params intra-refresh=1:keyint=12 -bf 0",
    "variable.mp4": f"{X264} -vf select='not(mod(n\\,5))+lt(n\\,10)+gt(n\\,40)' -fps_mode vfr -enc_time_base 1/25",
    "variable.mkv": f"{X264} -vf select='not(mod(n\\,5))+lt(n\\,10)+gt(n\\,40)' -fps_mode vfr -enc_time_base 1/25",
    "wrap.ts": f"{X264} -output_ts_offset 95441.6",  # its 33-bit clock overflows within the clip
    "negative.mp4": f"{X264} -output_ts_offset -0.5 -avoid_negative_ts disabled -use_editlist 0",
    "late.ts": f"{X264} -output_ts_offset 95000",
    "late.mp4": f"{X264} -output_ts_offset 3",
    "one_frame.mp4": f"{X264} -frames:v 1",
    "one_frame.webm": "-c:v libvpx-vp9 -frames:v 1",
    "slow.mp4": f"{X264} -r 1",
    "bad_title.mp4": f"{X264} -metadata title=TITLE-IN-ASCII",
}
# Codecs that the whitelist does not hold, and files that are no video containers.
OTHERS = {
    "ffv1.mkv": "-c:v ffv1",
    "raw.avi": "-c:v rawvideo -pix_fmt yuv420p -t 0.2",
    "raw.mkv": "-c:v rawvideo -allow_raw_vfw 1 -pix_fmt bgr24 -t 0.2",
    "huffyuv.avi": "-c:v huffyuv -pix_fmt yuv422p -t 0.2",
    "qtrle.mov": "-c:v qtrle -t 0.2",
    "cinepak.avi": "-c:v cinepak -t 0.2",
    "png.mov": "-c:v png -t 0.2",
    "dv.avi": "-c:v dvvideo -vf scale=720:576 -pix_fmt yuv420p -t 0.2",
    "x.png": "-frames:v 1",
    "x.jpg": "-frames:v 1 -pix_fmt yuvj420p -update 1",
    "x.bmp": "-frames:v 1",
    "x.tiff": "-frames:v 1",
    "x.gif": "-t 0.4",
    "x.webp": "-c:v libwebp_anim -t 0.4",
    "x.avif": "-c:v libaom-av1 -frames:v 1 -cpu-used 8 -still-picture 1",
    "x.y4m": "-pix_fmt yuv420p -t 0.2",
    "x.h264": f"{X264} -f h264",
    "x.m1v": "-c:v mpeg1video -f mpeg1video",
    "x.ivf": "-c:v libvpx -t 0.2",
    "x.mxf": "-c:v mpeg2video -f mxf -t 0.4",
    "x.nut": "-c:v mpeg4 -t 0.4",
    "x.swf": "-c:v flv -f swf -t 0.4",
    "busy.mp4": X264,
    "busy_long_gop.mp4": f"{X264} -g 250",
    "busy_fast.mp4": f"{X264} -movflags +faststart",
    "busy.mkv": X264,
    "busy.ts": X264,
    "busy.avi": "-c:v mpeg4 -q:v 2 -g 12",
    "busy.webm": "-c:v libvpx-vp9 -b:v 300k -deadline realtime -cpu-used 8",
    "busy.mjpeg.avi": "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p",
    "odd.mp4": f"{X264} -pix_fmt yuv444p -vf scale=63:47",
    "odd.webm": "-c:v libvpx-vp9 -pix_fmt yuv420p -vf scale=61:45 -deadline realtime -cpu-used 8",
    "tiny.mp4": f"{X264} -vf scale=2:2",
    "thin.mp4": f"{X264} -vf scale=640:2",
    "wide_pixels.mp4": f"{X264} -vf setsar=2",
    "absurd_pixels.mp4": f"{X264} -vf setsar=1/100",
    "interlaced.mp4": f"{X264} -flags +ilme+ildct -x264-params tff=1",
    "interlaced.mpg": "-c:v mpeg2video -q:v 2 -flags +ilme+ildct -f mpeg",
    "small_later.ts": f"{X264} -vf scale=32:24 -output_ts_offset 2",
    "large_last.ts": f"{X264} -vf scale=128:96 -output_ts_offset 4",
    "large.ts": f"{X264} -vf scale=128:96",
}
WITH_SOUND = {
    "sound.mp4": f"-map 0:v -map 1:a {X264} -c:a aac",
    "sound.ts": f"-map 0:v -map 1:a {X264} -c:a mp2",
    "sound.mpg": "-map 0:v -map 1:a -c:v mpeg2video -q:v 2 -c:a mp2 -f mpeg",
    "sound.ogv": "-map 0:v -map 1:a -c:v libtheora -q:v 10 -c:a libvorbis",
    "longer_sound.mkv": f"-map 0:v -map 1:a {X264} -c:a aac",
    "longer_sound.mp4": f"-map 0:v -map 1:a {X264} -c:a aac",
    "two_videos.mkv": f"-map 0:v -map 0:v {X264}",
    "timecode.mov": f"-map 0:v {X264} -timecode 01:02:03:04",
    "tone.m4a": "-map 1:a -c:a aac",
    "tone.mp4": "-map 1:a -c:a aac -f mp4",
    "tone.mkv": "-map 1:a -c:a aac",
    "tone.ogg": "-map 1:a -c:a libvorbis",
    "tone.ts": "-map 1:a -c:a mp2",
    "tone.wav": "-map 1:a -t 0.2",
    "tone.mp3": "-map 1:a -c:a libmp3lame",
    "tone.aac": "-map 1:a -c:a aac",
}
SUBTITLES = "1\n00:00:00,000 --> 00:00:01,000\nhello\n\n2\n00:00:01,000 --> 00:00:02,000\nworld\n"


def make_sources(folder: Path) -> None:
    """All source clips, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _encode([RAMP], RAMPS, folder)
    _encode([BUSY], OTHERS, folder)
    _encode([RAMP, "sine=d=6"], WITH_SOUND, folder)
    _encode([CORNER], {"corner.mp4": X264}, folder)
    # Static pictures: long to decode or large to hold, small to store.
    _encode(["color=gray:s=1280x720:r=25:d=4"], {"dull.ts": f"{X264} -preset ultrafast"}, folder)
    _encode(["color=gray:s=8192x8192:r=1:d=2"], {"vast.avi": "-c:v mjpeg -q:v 31 -pix_fmt yuvj420p"}, folder)
    (folder / "x.srt").write_text(SUBTITLES)
    (folder / "x.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n")
    copy = {
        "edit_list.mp4": "-ss 0.6 -i plain.mp4 -c copy",
        "turned_90.mp4": "-display_rotation 90 -i corner.mp4 -c copy",
        "turned_180.mp4": "-display_rotation 180 -i corner.mp4 -c copy",
        "turned_270.mp4": "-display_rotation 270 -i corner.mp4 -c copy",
        "turned_30.mp4": "-display_rotation 30 -i corner.mp4 -c copy",
        "mirrored_90.mp4": "-display_rotation 90 -display_hflip -i corner.mp4 -c copy",
        "mirrored.mp4": "-display_hflip -i corner.mp4 -c copy",
        "subtitles.mkv": "-i plain.mp4 -i x.srt -map 0 -map 1 -c:v copy -c:s srt",
        "subtitles.mp4": "-i plain.mp4 -i x.srt -map 0 -map 1 -c:v copy -c:s mov_text",
        "only_subtitles.mkv": "-i x.srt -c:s srt",
        "cover.m4a": "-i tone.m4a -i x.jpg -map 0 -map 1 -c copy -disposition:v:0 attached_pic",
        "cover.mp3": "-i tone.mp3 -i x.jpg -map 0 -map 1 -c copy -disposition:v:0 attached_pic",
        "cover_first.mp4": (
            "-i x.jpg -i plain.mp4 -map 0 -map 1 -c copy -disposition:v:0 attached_pic -disposition:v:1 default"
        ),
    }
    for name, words in copy.items():
        run_ffmpeg([ffmpeg_exe(), *_absolute(words, folder), str(folder / name)])


def _encode(inputs: list[str], outputs: dict[str, str], folder: Path) -> None:
    argv = [ffmpeg_exe()]
    for source in inputs:
        argv += ["-f", "lavfi", "-i", source]
    for name, options in outputs.items():
        argv += [*options.split(), str(folder / name)]
    run_ffmpeg(argv)


def _absolute(words: str, folder: Path) -> list[str]:
    parts = words.split()
    return [str(folder / word) if i and parts[i - 1] == "-i" else word for i, word in enumerate(parts)]
