"""What the decoder may open, how much time and memory it may use, and the exception for a refused video."""

from __future__ import annotations

from pydantic import Field

from m2raap.core.config import HOW, Config
from m2raap.core.errors import UNREADABLE

# The containers that may be opened, as FFmpeg's demuxers are named. A playlist or concat list is text that makes FFmpeg open
# other files, which `-protocol_whitelist file` does not prevent, but this list does. All images (also GIF, WebP and AVIF)
# are left out, and so are raw streams (.h264, .m1v), which have no time stamps.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,mpeg,ogg,asf"
PROTOCOLS = "file"
# The video decoders that may be used, by FFmpeg's names; subtitles are never decoded.
CODECS = (
    "h264,hevc,av1,libdav1d,libaom-av1,vp8,vp9,libvpx,libvpx-vp9,mpeg4,mpeg1video,mpeg2video,msmpeg4,msmpeg4v2,"
    "msmpeg4v1,h263,flv,theora,wmv1,wmv2,wmv3,vc1,mjpeg,prores,dnxhd"
)

# The decoders of sound that may be used, by the same names.
SOUND_CODECS = (
    "aac,mp3,mp3float,mp2,mp2float,ac3,eac3,opus,libopus,vorbis,libvorbis,flac,alac,wmav1,wmav2,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_f32le,pcm_u8,pcm_alaw,pcm_mulaw,adpcm_ms,adpcm_ima_wav"
)

MAX_STREAMS = 64  # of a file
MAX_TIME_S = 1e7  # 116 days; a clip that begins later is not in any video


class VideoConfig(Config):
    """Limits of one call to the decoder's process. A clip that exceeds a limit is refused with a reason."""

    timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="Wall-clock seconds of one call, after which the child process is killed and the clip refused as timeout.",
        json_schema_extra=HOW,
    )
    memory_mb: int = Field(
        default=4096,
        ge=512,
        description="Address space of the child process in MiB (RLIMIT_AS).",
        json_schema_extra=HOW,
    )
    max_pixels: int = Field(
        default=8192 * 4320, gt=0, description="Most pixels in one frame; a video with more is refused as too_large."
    )
    max_bytes: int = Field(
        default=64 * 1024**3, gt=0, description="Most bytes in one file; a larger file is refused as too_large."
    )
    min_decoded_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Share of the frames stated by the header that must be decoded; a clip with less is refused as truncated.",
    )
    max_corrupt_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the decoded frames that may be damaged; a clip with more is refused as corrupt.",
    )
    calls_per_child: int = Field(
        default=2000,
        ge=1,
        description="Number of calls after which the child process is replaced, so that memory leaks stay small.",
        json_schema_extra=HOW,
    )
    __hash__ = Config.__hash__  # repeated for the type checker, because limits are keys of a cache of decoders


class Refused(Exception):
    """A video cannot be used. `reason` is a code of m2raap.core.errors.UNREADABLE; `detail` describes the case for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in UNREADABLE, reason
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
