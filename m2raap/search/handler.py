"""How the HTTP server answers: JSON, errors, files and their ranges, the headers of every answer, and the time for a request."""

from __future__ import annotations

import io
import json
import os
import stat
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.files import open_without_links
from m2raap.search.backend import NotThere
from m2raap.search.connections import STALL_S, DeadlineReader, Unsatisfiable, byte_range

# For the request line and all headers, counted from the end of the request before: a slow client is disconnected.
HEAD_S = 10.0
_CHUNK_BYTES = 256 * 1024
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class HttpError(Exception):
    """An answer other than 200 with a sentence for the client."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers


class AnsweringHandler(BaseHTTPRequestHandler):
    """Reads requests within a time limit and sends answers; a subclass has the routes."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "m2raap", ""
    timeout = STALL_S
    _is_head_sent = False  # whether the status line of this answer was sent

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.reader = DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self.reader)

    def handle_one_request(self) -> None:
        self.reader.allow(HEAD_S)
        super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs no request, since queries are private."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Sends as JSON an error that http.server itself raised for a request."""
        self.close_connection = True
        self.send_json({"error": message or "bad request"}, code)

    def answer(self, work: Callable[[], None]) -> None:
        """Runs `work`, which sends an answer. An error that it raises is sent as {"error": sentence}."""
        self._is_head_sent = False
        # The server would take an unread body for the next request.
        if self.command != "POST" and ("Content-Length" in self.headers or "Transfer-Encoding" in self.headers):
            self.close_connection = True
        try:
            work()
        except HttpError as error:
            self.close_connection = True  # there may be an unread body
            self.send_json({"error": error.message}, error.status, error.headers)
        except NotThere:
            self.send_json({"error": "there is no such clip, or its file has been moved or deleted"}, 404)
        except M2raapError as error:
            self.send_json({"error": str(error)}, 400)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            talk.log(traceback.format_exc())
            self.close_connection = True
            if not self._is_head_sent:
                self.send_json({"error": "internal error of the server; its console shows the cause"}, 500)

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value, allow_nan=False).encode()  # ASCII, which no browser can take for another encoding
        self.send(status, data, "application/json", {"Cache-Control": "no-store"} | (headers or {}))

    def send(self, status: int, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self._send_head(status, kind, len(data), headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_file(self, path: Path, kind: str) -> None:
        """Sends the regular file at a real path, or the range of it that was requested. Raises NotThere for a missing file, and
        where a part of the path has become a link."""
        try:
            handle = open_without_links(path)
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
                raise HttpError(
                    416, "the range lies outside the file", Content_Range=f"bytes */{info.st_size}"
                ) from None
            first, last = span or (0, info.st_size - 1)
            headers = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, no-cache"}
            if span:
                headers["Content-Range"] = f"bytes {first}-{last}/{info.st_size}"
            self._send_head(206 if span else 200, kind, last - first + 1, headers)
            if self.command == "HEAD":
                return
            source.seek(first)
            left = last - first + 1
            while left and (data := source.read(min(_CHUNK_BYTES, left))):
                self.wfile.write(data)
                left -= len(data)
            if left:  # the file shrank, so that fewer bytes follow than were announced
                self.close_connection = True

    def _send_head(self, status: int, kind: str, num_bytes: int, headers: dict[str, str]) -> None:
        self._is_head_sent = True
        self.send_response(status)
        for name, value in (_HEADERS | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(num_bytes))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
