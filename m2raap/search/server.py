"""The HTTP server and its routes. No request names a path: clip ids are looked up in the index.

    GET  /healthz                                            {"status": "ok"}; needs no token
    GET  /api/about                                          clips, langs, sources, model, examples, tags
    GET  /api/search?q=TEXT&top=N[&source=&min_s=&max_s=]    {"hits": [...], "facets": [...]}
    GET  /api/search?tag=TAG&top=N                           the same, by the tag's probability; no q
    GET  /api/like/ID?top=N[&source=&min_s=&max_s=]          the same
    POST /api/image?top=N[&source=&min_s=&max_s=]            the same; body: image/jpeg, image/png or image/webp
    GET  /frames/ID/N.jpg                                    key-frame N of a clip, in the order of time, from 0
    GET  /video/ID                                           the clip's file; Range requests are answered
    GET  /                                                   the page

A hit: rank, score, clip_id, video, start_s, end_s, duration_s, source, category, width and height of its key-frames (null:
unknown), captions [{lang, text, origin}], tags [{tag, p}], frames [{n, time_s, score}] with the best first. Wherever there are
filters, tag=TAG may be one of them, several times, with tag_p=P once. A facet: a tag of the hits, and clips, the number of clips
that pass the filters and have it. An error: {"error": sentence} and 400, 401, 403, 404, 405, 411, 413, 414, 415, 416 or 503. IDs
are percent-encoded. Where a token is needed: send `Authorization: Bearer TOKEN`, or open /?token=TOKEN once.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import sys
import traceback
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from m2raap.core import talk
from m2raap.core.errors import M2raapError, UsageError
from m2raap.models.config import BackboneConfig
from m2raap.search.backend import HAS_TAG_P, Backend, ClipFilter, Hit
from m2raap.search.connections import BoundedServer
from m2raap.search.guard import COOKIE, Guard, is_loopback, parse_host
from m2raap.search.handler import AnsweringHandler, HttpError

MAX_URL_BYTES = 4096
MAX_PICTURE_BYTES = 8 * 1024**2
MAX_TOP, DEFAULT_TOP = 100, 24
_BEARER = {"WWW_Authenticate": "Bearer"}
BODY_S = 120.0  # longest time that a client may take to send a picture
_ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/tags.js": ("tags.js", "text/javascript; charset=utf-8"),
    "/strings.js": ("strings.js", "text/javascript; charset=utf-8"),
    "/app.css": ("app.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_VIDEO_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".mkv": "video/x-matroska",
    ".ogv": "video/ogg", ".avi": "video/x-msvideo", ".ts": "video/mp2t",
}  # fmt: skip


_Query = dict[str, list[str]]  # the fields of an address, each with all its values


class SearchServer(BoundedServer):
    """Serves `backend` on (host, port); port 0: any that is free. `serve_forever()`, then `server_close()`.

    `token` is needed on every host but loopback, where it is needed if it is given, or with `public` hosts (those that a
    proxy in front serves, as `guard.parse_host` gives them).
    """

    def __init__(
        self, backend: Backend, host: str, port: int, token: str | None, public: tuple[tuple[str, str | None], ...] = ()
    ) -> None:
        assert token or (is_loopback(host) and not public), "a server that others reach needs a token"
        self.backend = backend
        self.guard = Guard(host, token, public)
        folder = files("m2raap.search") / "assets"
        self.assets = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _ASSETS.items()}
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host.strip("[]"), port), _Handler)
        except OSError as error:
            message = f"--host {host} --port {port}: cannot be bound ({error.strerror}); give another port"
            raise M2raapError(message) from None

    @property
    def url(self) -> str:
        host = f"[{self.guard.host.strip('[]')}]" if ":" in self.guard.host else self.guard.host
        return f"http://{host}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that closed its connection is no error; anything else is a bug and is logged."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            talk.log(traceback.format_exc())


class _Handler(AnsweringHandler):
    server: SearchServer  # type: ignore[assignment]  # the only server that this handler meets

    def do_GET(self) -> None:
        self.answer(self._get)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.answer(self._post)

    def _get(self) -> None:
        path, query = self._address()
        if path == "/healthz":
            self.send_json({"status": "ok"})
            return
        if path == "/" and "token" in query:
            self._set_token_cookie(query["token"][-1])
            return
        self._check_token()
        if path in self.server.assets:
            data, kind = self.server.assets[path]
            self.send(200, data, kind, {"Cache-Control": "no-cache"})
            return
        self._check_site()
        segments = [_decoded(segment) for segment in path.split("/")[1:]]  # '%2F' stays inside its segment
        match segments:
            case ["api", "about"]:
                self.send_json(self.server.backend.about())
            case ["api", "search"]:
                top, clip_filter, backend = _top(query), _filter(query), self.server.backend
                by_tags = clip_filter.tags and "q" not in query
                text = _last(query, "q", "")
                hits = backend.by_tags(top, clip_filter) if by_tags else backend.by_text(text, top, clip_filter)
                self._send_hits(hits, clip_filter)
            case ["api", "like", clip_id]:
                clip_filter = _filter(query)
                self._send_hits(self.server.backend.like(clip_id, _top(query), clip_filter), clip_filter)
            case ["frames", clip_id, name] if name.endswith(".jpg"):
                self._frame(clip_id, name.removesuffix(".jpg"))
            case ["video", clip_id]:
                self._video(clip_id)
            case ["api", "image"]:
                raise HttpError(405, "send a picture with POST", Allow="POST")
            case _:
                raise HttpError(404, "the server has no such address")

    def _post(self) -> None:
        path, query = self._address()
        self._check_token()
        self._check_site()
        if path != "/api/image":
            raise HttpError(405, "only /api/image takes a POST request", Allow="GET, HEAD")
        if self.headers.get_content_type() not in ("image/jpeg", "image/png", "image/webp"):
            raise HttpError(415, "send image/jpeg, image/png or image/webp")
        lengths = self.headers.get_all("Content-Length", [""])
        length = lengths[0]
        if len(lengths) > 1:  # a proxy in front may take another one of them for the right one
            raise HttpError(400, "send one Content-Length header")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise HttpError(411, "send the size of the picture in a Content-Length header")
        if len(length) > 18 or int(length) > MAX_PICTURE_BYTES:
            raise HttpError(413, f"the picture is larger than {MAX_PICTURE_BYTES:,} bytes; send a smaller one")
        self.reader.allow(BODY_S)
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise HttpError(400, f"the picture ends after {len(data):,} of {int(length):,} bytes")
        clip_filter = _filter(query)
        self._send_hits(self.server.backend.by_picture(data, "the picture", _top(query), clip_filter), clip_filter)

    def _send_hits(self, hits: list[Hit], clip_filter: ClipFilter) -> None:
        self.send_json({"hits": hits, "facets": self.server.backend.facets(hits, clip_filter)})

    def _address(self) -> tuple[str, _Query]:
        """Path and query of a request to this server. Raises HttpError."""
        if len(self.path) > MAX_URL_BYTES:
            raise HttpError(414, f"the address is longer than {MAX_URL_BYTES} bytes")
        if not self.server.guard.host_ok(self.headers):
            raise HttpError(403, "the Host header names another server; open the address that the server printed")
        try:
            parts = urlsplit(self.path)
        except ValueError:  # 'http://[' and the like
            raise HttpError(400, "the address is no valid URL") from None
        return parts.path, _query(parts.query)

    def _check_site(self) -> None:
        if not self.server.guard.same_site(self.headers):
            raise HttpError(403, "requests from pages of other sites are refused")

    def _check_token(self) -> None:
        if not self.server.guard.token_ok(self.headers):
            raise HttpError(401, "a token is needed; open the address that the server printed", **_BEARER)

    def _set_token_cookie(self, token: str) -> None:
        """Stores the token of the printed address in a cookie, so that it does not stay in the address bar."""
        if self.server.guard.token is None or not self.server.guard.is_token(token):
            raise HttpError(401, "this is not the token of the server", **_BEARER)
        cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
        self.send(303, b"", "text/plain", {"Location": "/", "Set-Cookie": cookie})

    def _frame(self, clip_id: str, number: str) -> None:
        jpegs = self.server.backend.jpegs(clip_id)
        if not (number.isascii() and number.isdecimal()) or len(number) > 4 or int(number) >= len(jpegs):
            raise HttpError(404, "the clip has no such key-frame")
        self.send(200, jpegs[int(number)], "image/jpeg", {"Cache-Control": "private, max-age=3600"})

    def _video(self, clip_id: str) -> None:
        path = self.server.backend.video(clip_id)
        self.send_file(path, _VIDEO_TYPES.get(path.suffix.lower(), "application/octet-stream"))


def _decoded(raw: str) -> str:
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise HttpError(400, "the address is not UTF-8") from None


def _query(raw: str) -> _Query:
    try:
        return parse_qs(raw, keep_blank_values=False, strict_parsing=False, errors="strict", max_num_fields=16)
    except ValueError:
        raise HttpError(400, "the address is not UTF-8, or has too many fields") from None


def _last(query: _Query, name: str, default: str) -> str:
    """The value of a field; the last one where it was sent several times."""
    return query.get(name, [default])[-1]


def _top(query: _Query) -> int:
    text = _last(query, "top", str(DEFAULT_TOP))
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MAX_TOP):
        raise HttpError(400, f"top must be a whole number from 1 to {MAX_TOP}")
    return int(text)


def _number(query: _Query, name: str) -> float | None:
    """The value of a field as a number, NaN where it is none; None without the field."""
    if name not in query:
        return None
    try:
        return float(query[name][-1])
    except ValueError:
        return math.nan


def _filter(query: _Query) -> ClipFilter:
    min_s, max_s, tag_p = (_number(query, name) for name in ("min_s", "max_s", "tag_p"))
    for name, value in (("min_s", min_s), ("max_s", max_s)):
        if value is not None and not 0 <= value < math.inf:
            raise HttpError(400, f"{name} must be a number of seconds, 0 or more")
    if tag_p is not None and not 0 <= tag_p <= 1:
        raise HttpError(400, "tag_p must be a probability from 0 to 1")
    source = query["source"][-1] if "source" in query else None
    return ClipFilter(source, min_s, max_s, tuple(query.get("tag", ())), HAS_TAG_P if tag_p is None else tag_p)


TOKEN = "M2RAAP_TOKEN"


def open_server(
    index: Path,
    model: Path | BackboneConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    public_hosts: Sequence[str] = (),
) -> tuple[SearchServer, str]:
    """The server, bound but not yet serving, and the address to open. The model is loaded here.

    `public_hosts`: NAME or NAME:PORT under which a proxy in front serves it. With one, or on a host that others reach, a token
    is needed: that of the environment variable M2RAAP_TOKEN, or a random one. Raises M2raapError for an index or model
    that cannot be opened, a port that cannot be bound, or a token that is easily guessed.
    """
    public = tuple(map(_public, public_hosts))
    token = os.environ.get(TOKEN) or None
    if token and (len(token) < 16 or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum()):
        raise M2raapError(f"{TOKEN}: give at least 16 letters, digits, '-' or '_', so that it cannot be guessed")
    if token is None and (public or not is_loopback(host)):
        token = secrets.token_urlsafe(24)
    from m2raap.search.search import Search  # loads torch

    search = Search(index, model)
    search.ready()
    server = SearchServer(search, host, port, token, public)
    return server, server.url + (f"?token={token}" if token else "")


def _public(text: str) -> tuple[str, str | None]:
    name_and_port = parse_host(text)
    if name_and_port is None:
        raise UsageError(f"--public-host {text}: give a name, or NAME:PORT, without http:// and without a path")
    return name_and_port
