"""Files with odd and broken sound, made with ffmpeg, and what becomes of each: 'ok', 'none', or the reason of a refusal."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg

PICTURE = "testsrc2=s=64x48:r=10:d=2"
TONE = "sine=frequency=440:sample_rate={rate}:duration={seconds}"


def film(
    path: Path,
    sound: str | None = TONE.format(rate=48000, seconds=2),
    picture: bool = True,
    late_s: float = 0,
    **options: Any,
) -> bytes:
    """A film of two seconds with this lavfi sound, which begins `late_s` after the picture."""
    streams = [ffmpeg.input(PICTURE, f="lavfi")] if picture else []
    streams += [ffmpeg.input(sound, f="lavfi", itsoffset=late_s)] if sound else []
    options = (
        {"vcodec": "libx264", "preset": "ultrafast", "pix_fmt": "yuv420p", "threads": 1} if picture else {}
    ) | options
    options = {name: value for name, value in options.items() if value is not None}
    run_ffmpeg(ffmpeg.output(*streams, str(path), **options).overwrite_output().compile(cmd=ffmpeg_exe()))
    return path.read_bytes()


def wave(path: Path, samples: bytes, bits: int, channels: int, rate_hz: int, code: int = 1) -> bytes:
    """An AVI whose sound is these samples, however odd its header."""
    data = film(path, TONE.format(rate=8000, seconds=2), acodec="pcm_s16le", vcodec="mpeg4", preset=None)
    place = data.index(b"auds")
    header = data.index(b"strf", place) + 8
    block = max(1, channels * bits // 8)
    fields = struct.pack(
        "<HHIIHH", code, channels & 0xFFFF, rate_hz, rate_hz * block & 0xFFFFFFFF, block & 0xFFFF, bits
    )
    data = data[:header] + fields + data[header + len(fields) :]
    first = data.index(b"01wb", data.index(b"movi")) + 8
    return data[:first] + samples + data[first + len(samples) :]


def flipped(data: bytes, share: float, seed: int, begin: float = 0.0) -> bytes:
    """The file with a share of its bytes from `begin` (0..1) on replaced."""
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(int(len(data) * share)):
        changed[rng.randrange(int(len(data) * begin), len(data))] = rng.randrange(256)
    return bytes(changed)


def sound_bytes_flipped(data: bytes, seed: int) -> bytes:
    """A transport stream whose packets of sound (the second stream, 0x101) are noise."""
    rng, changed = random.Random(seed), bytearray(data)
    for at in range(0, len(data) - 187, 188):
        if (data[at + 1] & 0x1F) << 8 | data[at + 2] == 0x101:
            changed[at + 20 : at + 188] = bytes(rng.randrange(256) for _ in range(168))
    return bytes(changed)


def _channels(count: int) -> str:
    return f"aevalsrc={'|'.join(['sin(440*2*PI*t)'] * count)}:s=48000:d=2"


NOISE = np.random.default_rng(0).bytes(4000)
CASES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "tone.mp4": ("ok", film),
    "tone.mkv": ("ok", lambda p: film(p, acodec="libopus")),
    "tone.webm": ("ok", lambda p: film(p, vcodec="libvpx", preset=None, acodec="libvorbis")),
    "mp3.avi": ("ok", lambda p: film(p, acodec="libmp3lame", vcodec="mpeg4", preset=None)),
    "ac3.ts": ("ok", lambda p: film(p, acodec="ac3")),
    "flac.mkv": ("ok", lambda p: film(p, acodec="flac")),
    "float.mov": ("ok", lambda p: film(p, acodec="pcm_f32le")),
    "silent.mp4": ("none", lambda p: film(p, None)),
    "silence.mp4": ("ok", lambda p: film(p, "anullsrc=r=44100:cl=stereo", t=2)),
    "longer.mp4": ("ok", lambda p: film(p, TONE.format(rate=48000, seconds=6))),
    "shorter.mp4": ("ok", lambda p: film(p, TONE.format(rate=48000, seconds=0.5))),
    "late.mkv": ("ok", lambda p: film(p, late_s=1, acodec="flac")),
    "sound_only.mp4": ("ok", lambda p: film(p, picture=False)),
    "8_khz.mp4": ("ok", lambda p: film(p, TONE.format(rate=8000, seconds=2))),
    "384_khz.mkv": ("ok", lambda p: film(p, TONE.format(rate=384000, seconds=1), acodec="pcm_s16le")),
    "8_channels.mkv": ("ok", lambda p: film(p, _channels(8), acodec="flac")),
    "64_channels.mkv": ("ok", lambda p: film(p, _channels(64), acodec="pcm_s16le")),
    "0_khz.avi": ("corrupt", lambda p: wave(p, b"", 16, 1, 0)),
    "1_hz.avi": ("unsupported_codec", lambda p: wave(p, b"", 16, 1, 1)),
    "0_channels.avi": ("none", lambda p: wave(p, b"", 16, 0, 8000)),
    "65535_channels.avi": ("none", lambda p: wave(p, b"", 16, 65535, 8000)),
    "17_bits.avi": ("ok", lambda p: wave(p, b"", 17, 1, 8000)),
    "noise.avi": ("ok", lambda p: wave(p, NOISE, 16, 1, 8000)),
    "not_a_number.avi": ("ok", lambda p: wave(p, struct.pack("<f", float("nan")) * 500, 32, 1, 8000, code=3)),
    "endless.avi": ("ok", lambda p: wave(p, struct.pack("<f", float("inf")) * 500, 32, 1, 8000, code=3)),
    "another_codec.avi": ("unsupported_codec", lambda p: wave(p, b"", 16, 1, 8000, code=0x270F)),
    "noisy_sound.ts": ("none", lambda p: sound_bytes_flipped(film(p, acodec="aac"), 1)),
    "cut.ts": ("ok", lambda p: film(p, acodec="aac")[: 188 * 60]),
    "cut.mkv": ("ok", lambda p: (data := film(p, acodec="libopus"))[: len(data) * 2 // 3]),
    "flipped.ts": ("ok", lambda p: flipped(film(p, acodec="aac"), 0.002, 2)),
    "flipped.mkv": ("ok", lambda p: flipped(film(p, acodec="aac"), 0.002, 3, 0.2)),
    "wav.mp4": ("refused_format", lambda p: film(p.with_suffix(".wav"), picture=False)),
}


def write(folder: Path) -> None:
    for name, (_, make) in CASES.items():
        (folder / name).write_bytes(make(folder / f"made-{name}"))
