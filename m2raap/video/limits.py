"""What the decoder may open and how much it may use, and how a refusal is said."""

from __future__ import annotations

from pydantic import Field

from m2raap.core.config import HOW, Config
from m2raap.core.errors import UNREADABLE

# A playlist or concat list is text that makes FFmpeg open other files; `-protocol_whitelist file` does not stop it, a
# list of containers does. Names as FFmpeg's demuxers spell them. GIF, WebP and AVIF are left out with all other images;
# raw streams (.h264, .m1v) too, for they carry no times.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,mpeg,ogg,asf"
PROTOCOLS = "file"
# Decoders of video (as FFmpeg names them); audio and subtitles are never decoded.
CODECS = (
    "h264,hevc,av1,libdav1d,libaom-av1,vp8,vp9,libvpx,libvpx-vp9,mpeg4,mpeg1video,mpeg2video,msmpeg4,msmpeg4v2,"
    "msmpeg4v1,h263,flv,theora,wmv1,wmv2,wmv3,vc1,mjpeg,prores,dnxhd"
)


class VideoConfig(Config):
    """Limits of one call to the decoder's process. A clip past a limit is refused with a reason."""

    timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="Wall-clock seconds of one call, after which the child is killed and the clip refused as timeout.",
        json_schema_extra=HOW,
    )
    memory_mb: int = Field(
        default=4096, ge=512, description="Address space of the child in MiB (RLIMIT_AS).", json_schema_extra=HOW
    )
    max_pixels: int = Field(
        default=8192 * 4320, gt=0, description="Pixels of one frame, above which a video is refused as too_large."
    )
    max_bytes: int = Field(
        default=64 * 1024**3, gt=0, description="Bytes of one file, above which it is refused as too_large."
    )
    min_decoded_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Share of the announced frames that must come out of the decoder; a clip with less is truncated.",
    )
    max_corrupt_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the decoded frames that may be damaged; a clip with more is corrupt.",
    )
    calls_per_child: int = Field(
        default=2000,
        ge=1,
        description="Calls after which the child is replaced, so that leaks of memory stay small.",
        json_schema_extra=HOW,
    )
    __hash__ = Config.__hash__  # stated again for the type checker: the stages keep decoders by these limits


class Refused(Exception):
    """A clip cannot be used. `reason` is one of `errors.UNREADABLE`; `detail` is for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in UNREADABLE, reason
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
