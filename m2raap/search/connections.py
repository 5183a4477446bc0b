"""Limits of a server (connections in all and of one client, seconds to wait for a request), and the Range header."""

from __future__ import annotations

import io
import ipaddress
import re
import socket
import threading
import time
from collections import Counter
from http.server import ThreadingHTTPServer
from typing import Any

MAX_CONNECTIONS = 64
MAX_OF_ONE_PEER = MAX_CONNECTIONS // 2
STALL_S = 30.0  # longest time that one write may take
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def peer_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 address, since one machine may use all of it."""
    client = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(client, ipaddress.IPv4Address):
        return str(client)
    return str(client.ipv4_mapped or ipaddress.ip_network((client, 64), strict=False))


class BoundedServer(ThreadingHTTPServer):
    """Serves each connection in a thread: MAX_CONNECTIONS in all, MAX_OF_ONE_PEER of one client; others are answered 503."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self._held: Counter[str] = Counter()  # connections by peer
        self._held_lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        peer = peer_of(client_address[0])
        with self._held_lock:
            full = self._held.total() >= MAX_CONNECTIONS or self._held[peer] >= MAX_OF_ONE_PEER
            if not full:
                self._held[peer] += 1
        if full:
            with request:
                request.settimeout(1.0)
                request.sendall(_TOO_MANY)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._release(peer)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._release(peer_of(client_address[0]))

    def _release(self, peer: str) -> None:
        with self._held_lock:
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]


class DeadlineReader(io.RawIOBase):
    """Reads a connection until a deadline: a client that sends single bytes slowly would never reach a socket's timeout.

    Reading raises TimeoutError once the seconds given to `allow` have passed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline_s = 0.0  # on the clock of time.monotonic

    def allow(self, seconds: float) -> None:
        self._deadline_s = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(STALL_S)


_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Unsatisfiable(Exception):
    """No byte of the file lies in the requested range."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The Range header of RFC 9110, one range at a time: (first, last) byte, both included.

    None: the whole file (no header, or one that the RFC lets a server ignore). Raises Unsatisfiable.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        if int(last) == 0 or size == 0:
            raise Unsatisfiable
        return max(0, size - int(last)), size - 1
    if last and int(last) < int(first):
        return None  # not a valid range: ignored
    if int(first) >= size:
        raise Unsatisfiable
    return int(first), min(int(last), size - 1) if last else size - 1
