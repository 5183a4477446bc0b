"""A server on this machine stands for the internet: its address counts as public; all other rules are unchanged."""

import http.server
import socket
import threading
import time

import pytest

from m2raap.core import web
from m2raap.core.web import WebError, chunks, fingerprint, is_public

BODY = bytes(range(256)) * 400


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, self.path))  # type: ignore[attr-defined]
        if path.startswith("/to/"):
            self._head(302, {"Location": self.path.removeprefix("/to/").replace("~", "/")})
        elif path == "/loop":
            self._head(302, {"Location": "/loop"})
        elif path.startswith("/status/"):
            self._head(int(path.rpartition("/")[2]), {})
        elif path == "/chunked":
            self._head(200, {"Transfer-Encoding": "chunked"})
            self.wfile.write(b"5\r\nhello\r\n" + (b"0\r\n\r\n" if "whole" in self.path else b"9\r\nwor"))
        elif path == "/drip":
            self._head(200, {})
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif path == "/short":
            self._head(200, {"Content-Length": str(len(BODY) + 5)})
            self.wfile.write(BODY)
        elif path == "/packed":
            self._head(200, {"Content-Encoding": "gzip"})
        else:
            self._head(200, {"Content-Length": str(len(BODY)), "ETag": '"one"', "Last-Modified": "then"})
            self.wfile.write(BODY if self.command == "GET" else b"")

    do_HEAD = do_GET

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    yield server
    server.shutdown()
    server.server_close()


def get(url: str, max_bytes: int = 10**6, timeout_s: float = 10.0) -> bytes:
    return b"".join(chunks(url, max_bytes=max_bytes, timeout_s=timeout_s))


def address(site) -> str:
    return f"http://127.0.0.1:{site.server_port}"


def kind_of(url: str, **limits) -> str:
    with pytest.raises(WebError) as error:
        get(url, **limits)
    return error.value.kind


@pytest.mark.parametrize(
    "ip",
    [
        "192.0.0.192",
        "192.88.99.1",
        "fec0::1",
        "3fff::1",
        "5f00::1",
        "::8.8.8.8",
        "64:ff9b:1::1",
        "::ffff:192.0.0.192",
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_of_the_open_internet(ip: str):
    assert not is_public(ip)


@pytest.mark.parametrize("ip", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_public_addresses(ip: str):
    assert is_public(ip)


def test_bytes_redirects_and_fingerprints(site):
    site_url = address(site)
    assert get(f"{site_url}/a b/é.mp4?k=1 2") == BODY
    assert site.asked[-1][1] == "/a%20b/%C3%A9.mp4?k=1%202"
    assert get(f"{site_url}/to/~to~~video.mp4") == BODY
    assert get(f"{site_url}/chunked?whole") == b"hello"
    assert fingerprint(f"{site_url}/v", timeout_s=5) == {
        "etag": '"one"', "last-modified": "then", "content-length": str(len(BODY)),
    }  # fmt: skip


def test_every_hop_is_judged(site):
    site_url = address(site)
    for target in ("http:~~10.0.0.1~", "http:~~[::1]~", "http:~~169.254.169.254~latest~meta-data", "file:~~~etc~passwd",
                   "ftp:~~1.1.1.1~a", "http:~~user:secret@1.1.1.1~", "~~localhost.localdomain:1~"):  # fmt: skip
        assert kind_of(f"{site_url}/to/{target}") in ("refused", "missing"), target
    assert kind_of(f"{site_url}/loop") == "refused"
    assert len([1 for _, path in site.asked if path == "/loop"]) == web.MAX_HOPS + 1
    assert get(f"{site_url}/to/" + site_url.replace("/", "~") + "~v") == BODY


def test_a_name_is_resolved_once_and_all_of_its_addresses_must_be_public(site, monkeypatch):
    calls = []

    def resolve(host: str, port: int, **_):
        calls.append(host)
        ip = "127.0.0.1" if len(calls) == 1 else "10.0.0.1"  # a name that changes its mind, as rebinding does
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr(web.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(web.socket, "create_connection", connect_to_numbers)
    assert get(f"http://video.example:{site.server_port}/v") == BODY
    assert calls == ["video.example"]
    both = [(2, 1, 6, "", ("1.1.1.1", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]
    monkeypatch.setattr(web.socket, "getaddrinfo", lambda *_, **__: both)
    assert kind_of("http://video.example/v") == "refused"


def connect_to_numbers(place: tuple[str, int], timeout: float) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(timeout)
    sock.connect(place)
    return sock


def test_failures_by_kind(site):
    site_url = address(site)
    kinds = {status: kind_of(f"{site_url}/status/{status}") for status in (404, 410, 403, 204, 429, 500, 503)}
    assert kinds == {
        404: "missing",
        410: "missing",
        403: "failed",
        204: "failed",
        429: "busy",
        500: "busy",
        503: "busy",
    }
    assert kind_of(f"{site_url}/v", max_bytes=1000) == "too_large"
    assert kind_of(f"{site_url}/chunked?whole", max_bytes=4) == "too_large"
    assert kind_of(f"{site_url}/short") == "busy" and kind_of(f"{site_url}/chunked") == "busy"
    assert kind_of(f"{site_url}/packed") == "failed"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert kind_of(f"http://127.0.0.1:{free.getsockname()[1]}/v") == "busy"


def test_a_slow_server_is_cut_off(site):
    start = time.monotonic()
    assert kind_of(f"{address(site)}/drip", timeout_s=0.3) == "timeout"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert kind_of(f"http://127.0.0.1:{silent.getsockname()[1]}/v", timeout_s=0.3) == "timeout"
        assert kind_of(f"https://127.0.0.1:{silent.getsockname()[1]}/v", timeout_s=0.3) == "timeout"
    assert time.monotonic() - start < 4


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a:99999/", "gopher://a/", "http://a b/", "https://\0/"]
)
def test_what_is_no_address(url: str):
    assert kind_of(url) in ("refused", "missing")
