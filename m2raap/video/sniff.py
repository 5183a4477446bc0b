"""The first look at a file, before FFmpeg sees it: a regular file of a sane size that is no text, list or image."""

from __future__ import annotations

from typing import BinaryIO

from m2raap.video.limits import Refused
from m2raap.video.paths import read_at
from m2raap.video.tails import find_tail

_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\1\0")
_LISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0", b"file '")
_DASH = b"<MPD"
_STILLS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")  # brands of ISO 23008-12
_ARCHIVES = (b"PK\3\4", b"\x7fELF", b"MZ", b"%PDF", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"SQLite", b"\x80\x04\x95")
# How the containers of the whitelist begin, by FFmpeg's name; an MP4 is told by its boxes.
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
        raise Refused("refused_format", f"a playlist or file list: {text[:20]!r}")
    if text[4:8] == b"ftyp" and text[8:12] in _STILLS:
        raise Refused("refused_format", "an image")
    if text.startswith(_IMAGES) or (text.startswith(b"RIFF") and text[8:12] == b"WEBP"):
        raise Refused("refused_format", "an image")
    if text[:1] in (b"<", b"{", b"["):
        raise Refused("not_media", f"text, not video: {text[:40]!r}")
    if text.startswith(_ARCHIVES):
        raise Refused("not_media", f"an archive, program or document: {text[:4]!r}")


def why_unopened(file: BinaryIO, num_bytes: int, message: str) -> Refused:
    """The class of a file that FFmpeg would not open with the words `message`."""
    if is_mp4_without_moov(file, num_bytes):
        return Refused("header_missing", "an MP4 without its moov box, or with a part of it: it was cut off")
    head = read_at(file, 0, 12)
    kinds = [kind for start, kind in _CONTAINERS.items() if head.startswith(start)]
    kinds += ["avi"] if head[:4] == b"RIFF" and head[8:11] == b"AVI" else []
    kinds += ["mov"] if head[4:8] in _BOXES else []
    if not kinds:
        return Refused("not_media", message)
    if find_tail(file, num_bytes, kinds[0]) == "cut":
        if kinds[0] == "mov":
            return Refused("truncated", f"cut off at a place after which FFmpeg does not open it ({message})")
        return Refused("header_missing", f"{kinds[0]} that ends before its first frame: it was cut off")
    return Refused("corrupt", f"the header is damaged ({message})")


def is_mp4_without_moov(file: BinaryIO, num_bytes: int) -> bool:
    """Walks the top-level boxes (ISO 14496-12): looks like MP4, and no moov is reached before the end of the file."""
    offset, seen = 0, 0
    while offset + 8 <= num_bytes and seen < 10_000:
        header = read_at(file, offset, 16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if kind not in _BOXES:
            return seen > 0
        if kind == b"moov":
            return offset + size > num_bytes  # the moov itself is cut
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        seen += 1
        if size < 8:  # 0: to the end of the file
            return True
        offset += size
    return seen > 0
