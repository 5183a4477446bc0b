"""The HTTP server: routes, limits, headers. It reads no path that a request names: ids are looked up in the index.

    GET  /healthz                                            {"status": "ok"}; needs no token
    GET  /api/about                                          clips, langs, sources, model, examples
    GET  /api/search?q=TEXT&top=N[&source=&min_s=&max_s=]    {"hits": [...]}
    GET  /api/like/ID?top=N[&source=&min_s=&max_s=]          {"hits": [...]}
    POST /api/image?top=N[&source=&min_s=&max_s=]            body: image/jpeg, image/png or image/webp
    GET  /frames/ID/N.jpg                                    key-frame N of a clip, counted in time
    GET  /video/ID                                           the clip's file; Range requests are answered
    GET  /                                                   the page

A hit: rank, score, clip_id, video, start_s, end_s, duration_s, source, category, width and height of its key-frames (null:
unknown), captions [{lang, text, origin}], frames [{n, time_s, score}] with the best first. An error: {"error": sentence} and 400,
401, 403, 404, 405, 411, 413, 414, 415, 416 or 503. IDs are percent-encoded. Where a token is needed: `Authorization: Bearer
TOKEN`, or open /?token=TOKEN once.
"""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import socket
import stat
import sys
import traceback
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from m2raap.core import talk
from m2raap.core.errors import M2raapError, UsageError
from m2raap.models.config import BackboneConfig
from m2raap.search.backend import Backend, NotThere, Only
from m2raap.search.connections import STALL_S, BoundedServer, Clocked, Unsatisfiable, byte_range
from m2raap.search.guard import COOKIE, Guard, is_loopback, parse_host

MAX_URL_BYTES = 4096
MAX_PICTURE_BYTES = 8 * 1024**2
MAX_TOP, DEFAULT_TOP = 100, 24
# For a request's whole head, counted from the end of the request before: a client that sends a byte now and then is cut off.
HEAD_S = 10.0
BODY_S = 120.0  # longest time in which a picture may arrive
_CHUNK = 256 * 1024
_ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/strings.js": ("strings.js", "text/javascript; charset=utf-8"),
    "/app.css": ("app.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_VIDEO_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".mkv": "video/x-matroska",
    ".ogv": "video/ogg", ".avi": "video/x-msvideo", ".ts": "video/mp2t",
}  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class _Answer(Exception):
    """An error that is sent to the client."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers


class SearchServer(BoundedServer):
    """Serves `backend` on (host, port); port 0: any that is free. `serve_forever()`, then `server_close()`.

    `token` is needed on every host but loopback, where it is needed if it is given, or with `public` hosts (those that a
    proxy in front serves, as `guard.parse_host` gives them).
    """

    def __init__(
        self,
        backend: Backend,
        host: str,
        port: int,
        token: str | None,
        public: tuple[tuple[str, str | None], ...] = (),
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
            raise M2raapError(
                f"--host {host} --port {port}: cannot be bound ({error.strerror}); give another port"
            ) from None

    @property
    def url(self) -> str:
        host = f"[{self.guard.host.strip('[]')}]" if ":" in self.guard.host else self.guard.host
        return f"http://{host}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; what else comes here is a bug, and is said."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            talk.log(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "m2raap", ""
    timeout = STALL_S
    _begun = False  # whether the status line of this answer is out
    server: SearchServer  # type: ignore[assignment]  # the only server that this handler meets

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._clocked = Clocked(self.connection)
        self.rfile = io.BufferedReader(self._clocked)

    def handle_one_request(self) -> None:
        self._clocked.allow(HEAD_S)
        super().handle_one_request()

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Queries are nobody else's business."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the parser of http.server refuses, in our form."""
        self.close_connection = True
        self._json({"error": message or "bad request"}, code)

    def _answer(self, work: Callable[[], None]) -> None:
        self._begun = False
        if self.command != "POST" and ("Content-Length" in self.headers or "Transfer-Encoding" in self.headers):
            self.close_connection = True  # a body that was not read would be taken for the next request
        try:
            if len(self.path) > MAX_URL_BYTES:
                raise _Answer(414, f"the address is longer than {MAX_URL_BYTES} bytes")
            if not self.server.guard.host_ok(self.headers):
                raise _Answer(403, "this server does not go by that name")
            work()
        except _Answer as answer:
            self.close_connection = True  # a body that was not read would be taken for the next request
            self._json({"error": answer.message}, answer.status, answer.headers)
        except NotThere:
            self._json({"error": "no such clip, or its file is not there any more"}, 404)
        except M2raapError as error:
            self._json({"error": str(error)}, 400)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            talk.log(traceback.format_exc())
            self.close_connection = True
            if not self._begun:
                self._json({"error": "a fault of the server; its console says more"}, 500)

    def _get(self) -> None:
        guard = self.server.guard
        parts = _parts(self.path)
        query = _query(parts.query)
        if parts.path == "/healthz":
            self._json({"status": "ok"})
            return
        if parts.path == "/" and "token" in query:
            self._let_in(query["token"])
            return
        self._check_token()
        if parts.path in self.server.assets:
            data, kind = self.server.assets[parts.path]
            self._send(200, data, kind, {"Cache-Control": "no-cache"})
            return
        if not guard.same_site(self.headers):
            raise _Answer(403, "pages of other sites may not ask here")
        segments = [_text(segment) for segment in parts.path.split("/")[1:]]  # '%2F' stays inside its segment
        match segments:
            case ["api", "about"]:
                self._json(self.server.backend.about())
            case ["api", "search"]:
                hits = self.server.backend.by_text(query.get("q", ""), _top(query), _only(query))
                self._json({"hits": hits})
            case ["api", "like", clip_id]:
                self._json({"hits": self.server.backend.like(clip_id, _top(query), _only(query))})
            case ["frames", clip_id, name] if name.endswith(".jpg"):
                self._frame(clip_id, name.removesuffix(".jpg"))
            case ["video", clip_id]:
                self._video(clip_id)
            case ["api", "image"]:
                raise _Answer(405, "POST a picture here", Allow="POST")
            case _:
                raise _Answer(404, "there is nothing here")

    def _post(self) -> None:
        parts = _parts(self.path)
        query = _query(parts.query)
        self._check_token()
        if not self.server.guard.same_site(self.headers):
            raise _Answer(403, "pages of other sites may not ask here")
        if parts.path != "/api/image":
            raise _Answer(405, "only /api/image takes a body", Allow="GET, HEAD")
        if self.headers.get_content_type() not in ("image/jpeg", "image/png", "image/webp"):
            raise _Answer(415, "send image/jpeg, image/png or image/webp")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise _Answer(411, "say with Content-Length how large the picture is")
        if len(length) > 18 or int(length) > MAX_PICTURE_BYTES:
            raise _Answer(413, f"the picture is larger than {MAX_PICTURE_BYTES:,} bytes: no more are read")
        self._clocked.allow(BODY_S)
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise _Answer(400, f"the picture ends after {len(data):,} of {int(length):,} bytes")
        self._json({"hits": self.server.backend.by_picture(data, "the picture", _top(query), _only(query))})

    def _check_token(self) -> None:
        if not self.server.guard.token_ok(self.headers):
            raise _Answer(401, "a token is needed: open the address that the server printed", WWW_Authenticate="Bearer")

    def _let_in(self, token: str) -> None:
        """The token in the printed address becomes a cookie, so that it does not stay in the address bar."""
        if self.server.guard.token is None or not self.server.guard.is_token(token):
            raise _Answer(401, "that is not this server's token", WWW_Authenticate="Bearer")
        cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
        self._send(303, b"", "text/plain", {"Location": "/", "Set-Cookie": cookie})

    def _frame(self, clip_id: str, number: str) -> None:
        jpegs = self.server.backend.jpegs(clip_id)
        if not (number.isascii() and number.isdecimal()) or len(number) > 4 or int(number) >= len(jpegs):
            raise _Answer(404, "the clip has no such key-frame")
        self._send(200, jpegs[int(number)], "image/jpeg", {"Cache-Control": "private, max-age=3600"})

    def _video(self, clip_id: str) -> None:
        path = self.server.backend.video(clip_id)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            raise NotThere(str(path)) from None
        with os.fdopen(handle, "rb") as source:
            info = os.fstat(source.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise NotThere(str(path))
            tag = f'"{info.st_size:x}-{info.st_mtime_ns:x}"'
            range_header = self.headers.get("Range") if self.headers.get("If-Range", tag) == tag else None
            try:
                span = byte_range(range_header, info.st_size)
            except Unsatisfiable:
                raise _Answer(416, "no such bytes", Content_Range=f"bytes */{info.st_size}") from None
            first, last = span or (0, info.st_size - 1)
            headers = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, no-cache"}
            if span:
                headers["Content-Range"] = f"bytes {first}-{last}/{info.st_size}"
            kind = _VIDEO_TYPES.get(path.suffix.lower(), "application/octet-stream")
            self._head(206 if span else 200, kind, last - first + 1, headers)
            if self.command == "HEAD":
                return
            source.seek(first)
            left = last - first + 1
            while left and (data := source.read(min(_CHUNK, left))):
                self.wfile.write(data)
                left -= len(data)
            if left:  # the file shrank, so that fewer bytes follow than were announced
                self.close_connection = True

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(
            value, allow_nan=False
        ).encode()  # ASCII: nothing in it can be taken for markup of another coding
        self._send(status, data, "application/json", {"Cache-Control": "no-store"} | (headers or {}))

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self._head(status, kind, len(data), headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, status: int, kind: str, num_bytes: int, headers: dict[str, str]) -> None:
        self._begun = True
        self.send_response(status)
        for name, value in (_HEADERS | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(num_bytes))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _parts(path: str) -> SplitResult:
    try:
        return urlsplit(path)
    except ValueError:  # 'http://[' and the like
        raise _Answer(400, "the address cannot be read") from None


def _text(raw: str) -> str:
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise _Answer(400, "the address is no UTF-8") from None


def _query(raw: str) -> dict[str, str]:
    try:
        fields = parse_qs(raw, keep_blank_values=False, strict_parsing=False, errors="strict", max_num_fields=16)
    except ValueError:
        raise _Answer(400, "the address is no UTF-8, or has too many fields") from None
    return {name: values[-1] for name, values in fields.items()}


def _top(query: dict[str, str]) -> int:
    text = query.get("top", str(DEFAULT_TOP))
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MAX_TOP):
        raise _Answer(400, f"top: a number from 1 to {MAX_TOP}")
    return int(text)


def _only(query: dict[str, str]) -> Only:
    def seconds(name: str) -> float | None:
        if name not in query:
            return None
        try:
            value = float(query[name])
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise _Answer(400, f"{name}: seconds, 0 or more")
        return value

    return Only(query.get("source"), seconds("min_s"), seconds("max_s"))


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
    is needed: that of the environment's M2RAAP_TOKEN, or one made up here. Raises M2raapError for an index, model or port
    that cannot be had, or a token that is easily guessed.
    """
    public = tuple(map(_public, public_hosts))
    token = os.environ.get(TOKEN) or None
    if token and (len(token) < 16 or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum()):
        raise M2raapError(f"{TOKEN}: give at least 16 letters, digits, '-' or '_', so that nobody guesses it")
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
