"""Recognises files that are no videos by their first bytes, before FFmpeg reads them, and explains what FFmpeg cannot open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from m2raap.video.limits import MAX_STREAMS, Refused
from m2raap.video.paths import read_at
from m2raap.video.tails import find_tail

_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\1\0")
_LISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0", b"file '")
_DASH = b"<MPD"
_STILLS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")  # brands of ISO 23008-12
_ARCHIVES = (b"PK\3\4", b"\x7fELF", b"MZ", b"%PDF", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"SQLite", b"\x80\x04\x95")
# First bytes of the containers of the whitelist -> FFmpeg's name; MP4 and AVI are recognised separately.
_CONTAINERS = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"FLV\1": "flv",
    b"OggS": "ogg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\0\0\1\xba": "mpeg",
}
_BOXES = (b"ftyp", b"mdat", b"moov", b"free", b"wide", b"skip", b"pnot", b"moof", b"styp", b"sidx", b"uuid")


def refuse_by_head(file: BinaryIO) -> None:
    """Raises Refused for playlists and images (refused_format) and for text (not_media)."""
    text = read_at(file, 0, 4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(_LISTS) or _DASH in text:
        raise Refused("refused_format", f"the file is a playlist or a list of files: {text[:20]!r}")
    is_still = text[4:8] == b"ftyp" and text[8:12] in _STILLS
    if is_still or text.startswith(_IMAGES) or (text.startswith(b"RIFF") and text[8:12] == b"WEBP"):
        raise Refused("refused_format", "the file is an image")
    if text[:1] in (b"<", b"{", b"["):
        raise Refused("not_media", f"the file is text: {text[:40]!r}")
    if text.startswith(_ARCHIVES):
        raise Refused("not_media", f"the file is an archive, a program or a document: {text[:4]!r}")


def why_unopened(file: BinaryIO, num_bytes: int, message: str) -> Refused:
    """The refusal of a file that FFmpeg could not open. `message`: FFmpeg's error message."""
    if is_mp4_without_moov(file, num_bytes):
        if read_at(file, 4, 4) in (b"styp", b"moof", b"sidx"):
            detail = "a segment of DASH or HLS without its header; join the initialisation segment and all segments"
            return Refused("header_missing", detail)
        return Refused("header_missing", "an MP4 whose moov box is missing or incomplete: the file was cut off")
    head = read_at(file, 0, 12)
    kinds = [kind for start, kind in _CONTAINERS.items() if head.startswith(start)]
    kinds += ["avi"] if head[:4] == b"RIFF" and head[8:11] == b"AVI" else []
    kinds += ["mov"] if head[4:8] in _BOXES else []
    if not kinds:
        return Refused("not_media", message)
    if find_tail(file, num_bytes, kinds[0]) == "cut":
        if kinds[0] == "mov":
            return Refused("truncated", f"the file was cut off where FFmpeg can no longer open it ({message})")
        return Refused("header_missing", f"the {kinds[0]} file was cut off before its first frame")
    return Refused("corrupt", f"the header is damaged ({message})")


def refuse_many_streams(messages: Sequence[str]) -> None:
    """Raises Refused (too_large) where FFmpeg's log says that a file has more streams than allowed, which FFmpeg reports
    as a lack of memory."""
    if any("max_streams" in message for message in messages):
        raise Refused("too_large", f"the file has more than {MAX_STREAMS} streams")


def is_mp4_without_moov(file: BinaryIO, num_bytes: int) -> bool:
    """Whether the file is an MP4 by its top-level boxes (ISO 14496-12), and ends before the end of its moov box."""
    offset, num_boxes = 0, 0
    while offset + 8 <= num_bytes and num_boxes < 10_000:
        header = read_at(file, offset, 16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if kind not in _BOXES:
            return num_boxes > 0
        if kind == b"moov":
            return offset + size > num_bytes
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        num_boxes += 1
        if size < 8:  # a size of 0 means up to the end of the file
            return True
        offset += size
    return num_boxes > 0
