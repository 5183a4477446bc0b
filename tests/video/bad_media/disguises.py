"""Files that are no videos, whatever their names say: lists that point at the canary, images, pages, programs, links."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.video.bad_media.case import Case, Sources, written

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n{}#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n"
DISGUISES = {
    "hls.mp4": HLS.format("", "file://CANARY/canary.ts"),
    "hls_bare.mp4": HLS.format("", "CANARY/canary.ts"),
    "hls_relative.mp4": HLS.format("", "../canary/canary.ts"),
    "hls.webm": HLS.format("", "file://CANARY/canary.ts"),
    "hls.m3u8": HLS.format("", "file://CANARY/canary.ts"),
    "hls_late.mp4": "\n\n  " + HLS.format("", "file://CANARY/canary.ts"),
    "hls_bom.mp4": "\ufeff" + HLS.format("", "file://CANARY/canary.ts"),
    "hls_crlf.mp4": HLS.format("", "file://CANARY/canary.ts").replace("\n", "\r\n"),
    "hls_key.mp4": HLS.format('#EXT-X-KEY:METHOD=AES-128,URI="file://CANARY/canary.key"\n', "file://CANARY/canary.ts"),
    "hls_map.mp4": HLS.format('#EXT-X-MAP:URI="file://CANARY/canary.mp4"\n', "file://CANARY/canary.mp4"),
    "hls_variants.mp4": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nfile://CANARY/canary.m3u8\n",
    "hls_network.mp4": HLS.format("", "http://127.0.0.1:9/canary.ts"),
    "hls_concat.mp4": HLS.format("", "concat:CANARY/canary.ts|CANARY/canary.ts"),
    "ffconcat.mp4": "ffconcat version 1.0\nfile 'CANARY/canary.mp4'\n",
    "ffconcat.mkv": "ffconcat version 1.0\nfile '../canary/canary.mp4'\nduration 2\n",
    "concat_bare.mp4": "file 'CANARY/canary.mp4'\n",
    "dash.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    "<Representation id='0' mimeType='video/mp4'><BaseURL>file://CANARY/canary.mp4</BaseURL></Representation>"
    "</AdaptationSet></Period></MPD>",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.pls": "[playlist]\nFile1=CANARY/canary.mp4\nLength1=-1\n",
}
DISGUISES["dash.mpd.mp4"] = DISGUISES["dash.mpd"]
DISGUISES["session.mp4"] = DISGUISES["session.sdp"]
NOT_MEDIA: dict[str, Callable[[Sources], bytes]] = {
    "page.mp4": written("<!DOCTYPE html><html><body>404 not found</body></html>"),
    "page_late.mp4": written("\r\n\r\n<html><head><title>Sign in</title></head></html>"),
    "answer.mp4": written(json.dumps({"error": "gone", "code": 410})),
    "drawing.mp4": written('<svg xmlns="http://www.w3.org/2000/svg"><image href="file://CANARY/canary.mp4"/></svg>'),
    "words.mp4": written("This video is not available in your country.\n" * 20),
    "zeros.mp4": lambda s: bytes(5000),
    "one_byte.mp4": lambda s: b"\0",
    "noise.mp4": lambda s: bytes((i * 7919 >> 3) % 251 for i in range(5000)),
    "archive.mp4": lambda s: _zip(s("plain.mp4")),
    "program.mp4": lambda s: Path(os.path.realpath(sys.executable)).read_bytes()[:20_000],
    "paper.mp4": written("%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"),
    "pickle.mp4": lambda s: pickle.dumps(print, protocol=4),
    "base64.mp4": written("AAAAIGZ0eXBpc29tAAACAGlzb21pc28yYXZjMW1wNDEAAAAIZnJlZQ==\n"),
}  # fmt: skip


def _zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("plain.mp4", data)
    return buffer.getvalue()


def special_cases() -> list[Case]:
    def link(target: str) -> Callable[[Sources], Callable[[Path], None]]:
        return lambda s: lambda path: path.symlink_to(target.replace("CANARY", str(s.canary)))

    return [
        Case("empty.mp4", "empty", lambda s: b""),
        Case("folder.mp4", "not_media", lambda s: lambda path: path.mkdir()),
        Case("fifo.mp4", "not_media", lambda s: os.mkfifo),
        Case("link_inside.mp4", "ok", link("plain.mp4"), frames=50),
        Case("link_out.mp4", "outside_root", link("CANARY/canary.mp4")),
        Case("link_out_relative.mp4", "outside_root", link("../canary/canary.mp4")),
        Case("link_to_device.mp4", "outside_root", link("/dev/zero")),
        Case("link_to_nothing.mp4", "missing_file", link("nothing.mp4")),
        Case("link_in_a_circle.mp4", "missing_file", link("link_in_a_circle.mp4")),
        Case("link_to_folder.mp4", "not_media", link("folder.mp4")),
    ]
