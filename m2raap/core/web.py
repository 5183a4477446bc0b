"""Downloads from http(s) addresses of untrusted lists: only from public IP addresses, and with limits of size and time.

A host name is resolved once, and the connection goes to exactly the IP address that was checked, also after a redirect, so that a
name whose address changes (DNS rebinding) has no effect. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

MAX_HOPS = 5
_CHUNK = 256 * 1024
_STALL_S = 30.0  # longest wait of one read
_PLAIN = "/%:=&~+!$,;'@()*?"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# The metadata service of Azure, which lies in public address space, and special networks that `is_global` of some Python
# versions takes for public: protocol assignments, 6to4 relays, what was site-local, documentation, IPv4 addresses written as
# IPv6, segment routing (RFC 6890, 7526, 3879, 9637, 4291, 8215, 9602).
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        *("168.63.129.16", "192.0.0.0/24", "192.88.99.0/24"),
        *("::/96", "64:ff9b:1::/48", "3fff::/20", "5f00::/16", "fec0::/10"),
    )
]


class WebError(Exception):
    """`kind`: refused (the address), missing, too_large, timeout, busy (worth another try) or failed."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class _Response:
    response: http.client.HTTPResponse
    deadline: float


def is_public(address: str) -> bool:
    """Whether an IP address is public: not private, local, link-local, of a metadata service, multicast or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
    if any(ip in network for network in _NOT_PUBLIC):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def chunks(url: str, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
    """The bytes of the file at `url`, in chunks. Raises WebError, possibly after some chunks."""
    total = 0
    with _open_redirected("GET", url, time.monotonic() + timeout_s) as answer:
        length = _length(answer.response)
        if length is not None and length > max_bytes:
            raise WebError("too_large", f"{length:,} bytes, at most {max_bytes:,}")
        while data := answer.response.read(_CHUNK):
            total += len(data)
            if total > max_bytes:
                raise WebError("too_large", f"more than {max_bytes:,} bytes")
            if time.monotonic() > answer.deadline:
                raise WebError("timeout", "the transfer takes too long")
            yield data
        if time.monotonic() > answer.deadline:  # a socket that the timer has shut down reads as the end of the file
            raise WebError("timeout", "the transfer takes too long")
    if length is not None and total != length:
        raise WebError("busy", f"only {total:,} of {length:,} bytes arrived")


def fingerprint(url: str, *, timeout_s: float) -> dict[str, str]:
    """The headers that identify the content: those of etag, last-modified and content-length that are sent. Raises WebError."""
    with _open_redirected("HEAD", url, time.monotonic() + timeout_s) as answer:
        names = ("etag", "last-modified", "content-length")
        return {name: value for name in names if (value := answer.response.headers.get(name))}


def _length(response: http.client.HTTPResponse) -> int | None:
    value = response.headers.get("content-length", "")
    return int(value) if value.isdecimal() else None


@contextmanager
def _open_redirected(method: str, url: str, deadline: float) -> Iterator[_Response]:
    """The response at the end of a chain of redirects. Raises WebError for more than MAX_HOPS, or a change from https."""
    for _ in range(MAX_HOPS + 1):
        parts = _split(url)
        with _request(method, parts, deadline) as response:
            if response.status in (301, 302, 303, 307, 308) and (to := response.headers.get("location")):
                target = urljoin(url, to)
                if parts.scheme == "https" and urlsplit(target).scheme != "https":
                    raise WebError("refused", "a redirect from https to something else")
                url = target
                continue
            _refuse_status(response)
            yield _Response(response, deadline)
            return
    raise WebError("refused", f"more than {MAX_HOPS} redirects")


def _refuse_status(response: http.client.HTTPResponse) -> None:
    if response.status in (404, 410):
        raise WebError("missing", f"HTTP {response.status}")
    if response.status == 429 or response.status >= 500:
        raise WebError("busy", f"HTTP {response.status}")
    if response.status != 200:
        raise WebError("failed", f"HTTP {response.status}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise WebError("failed", "the server compressed the file, although the request forbids it")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WebError("refused", f"not a valid address ({error})") from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or port == 0 or not host or any(c <= " " or c == "\x7f" for c in host):
        raise WebError("refused", "not an http(s) address")
    if parts.username or parts.password:
        raise WebError("refused", "the address holds a user name or password")
    return parts


@contextmanager
def _request(method: str, parts: SplitResult, deadline: float) -> Iterator[http.client.HTTPResponse]:
    """One request to the IP address that was checked. A timer shuts the socket down at the deadline, in any state."""
    host = parts.hostname or ""
    held: list[socket.socket] = []

    def cut() -> None:
        for sock in held:
            with suppress(OSError):
                # The method of the plain socket: SSLSocket.shutdown would remove the session that another thread is reading from.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    watch = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    watch.daemon = True
    watch.start()
    connection = http.client.HTTPConnection(host, parts.port or (443 if parts.scheme == "https" else 80))
    try:
        sock = _connect(_addresses(host, connection.port), deadline)
        held.append(sock)
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            held[:] = [sock]
            sock.do_handshake()
        connection.sock = sock
        path = quote(parts.path or "/", safe=_PLAIN) + (f"?{quote(parts.query, safe=_PLAIN)}" if parts.query else "")
        headers = {"User-Agent": "m2raap", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
        connection.request(method, path, headers=headers)
        yield connection.getresponse()
    except ssl.SSLCertVerificationError as error:
        raise WebError("failed", f"the server's certificate is not valid: {error.verify_message}") from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        if time.monotonic() >= deadline or isinstance(error, TimeoutError):
            raise WebError("timeout", "the server answers too slowly") from None
        raise WebError("busy", f"{type(error).__name__}: {error}") from None
    finally:
        watch.cancel()
        connection.close()
        for sock in held:
            sock.close()


def _addresses(host: str, port: int) -> list[tuple[str, int]]:
    """All addresses of a host, resolved once. Raises WebError where one of them is not public."""
    try:
        infos = socket.getaddrinfo(host.encode("idna").decode(), port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise WebError("missing", f"the host name cannot be resolved ({error})") from None
    addresses = list(dict.fromkeys((str(info[4][0]), port) for info in infos))
    if wrong := [address for address, _ in addresses if not is_public(address)]:
        raise WebError("refused", f"the host name resolves to {wrong[0]}, which is not a public address")
    return addresses


def _connect(addresses: list[tuple[str, int]], deadline: float) -> socket.socket:
    problem: OSError | None = None
    for address in addresses[:4]:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            sock = socket.create_connection(address, timeout=min(10.0, left))
        except OSError as error:
            problem = error
            continue
        sock.settimeout(_STALL_S)
        return sock
    raise problem or TimeoutError("no time left")
