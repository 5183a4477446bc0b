from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from m2raap.core.errors import M2raapError, UsageError
from m2raap.search.connections import peer_of
from m2raap.search.guard import parse_host
from m2raap.search.search import Search
from m2raap.search.server import MAX_PICTURE_BYTES, SearchServer, open_server
from tests.search.conftest import serving
from tests.search.world import index_of, rows, tagged
from tests.stages.pictures import draw

TOKEN = "a-token-of-this-test"


def ask(server: SearchServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
    """(status, headers, body); underscores in header names stand for hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def address_of(server: SearchServer) -> tuple[str, int]:
    return "127.0.0.1", server.server_address[1]


def tree(server: SearchServer, path: str, **more: Any) -> Any:
    status, headers, body = ask(server, path, **more)
    assert status == 200 and headers["Content-Type"] == "application/json", body
    return json.loads(body)


def test_health_and_facts(server: SearchServer) -> None:
    assert tree(server, "/healthz") == {"status": "ok"}
    about = tree(server, "/api/about")
    assert (about["clips"], about["langs"], about["sources"]) == (8, ["en", "zh"], ["a", "b"])
    assert set(about["examples"]["zh"]) < {"红色的圆形", "蓝色的圆形", "绿色的圆形", "黄色的圆形"}


def test_search_in_both_languages_by_picture_and_by_likeness(server: SearchServer) -> None:
    for query in ("a red circle", "红色的圆形"):
        hits = tree(server, f"/api/search?q={quote(query)}&top=2")["hits"]
        assert {hit["clip_id"] for hit in hits} == {"c0", "c4"} and hits[0]["frames"][0]["score"] > 0
    assert hits[0].keys() == {
        "rank", "score", "clip_id", "video", "start_s", "end_s", "duration_s", "source", "category", "width", "height",
        "frames", "captions", "tags",
    }, "and no path of this machine"  # fmt: skip
    assert (hits[0]["width"], hits[0]["height"], hits[0]["tags"]) == (96, 96, [])
    assert tree(server, "/api/search?q=red")["facets"] == [] == tree(server, "/api/about")["tags"]
    filtered = tree(server, "/api/search?q=red&top=9&source=b&min_s=1.4&max_s=1.6")["hits"]
    assert [hit["clip_id"] for hit in filtered] == ["c5"]
    assert tree(server, "/api/like/c0?top=1")["hits"][0]["clip_id"] == "c4"
    by_picture = tree(server, "/api/image?top=1", method="POST", body=draw("blue"), Content_Type="image/jpeg")
    assert by_picture["hits"][0]["clip_id"] in ("c1", "c5")


def test_tags_are_filters_and_facets(tmp_path: Path) -> None:
    with serving(Search(index_of(tmp_path, tagged(rows(8))))) as server:
        assert tree(server, "/api/about")["tags"][0] == {"tag": "Circle", "clips": 8}
        red = quote("红色")
        answer = tree(server, f"/api/search?q=circle&tag={red}&tag=circle")
        assert {hit["clip_id"] for hit in answer["hits"]} == {"c0", "c4"} and len(answer["hits"][0]["tags"]) == 3
        assert answer["facets"] == [{"tag": "Circle", "clips": 2}, {"tag": "red / 红色", "clips": 2}]
        alone = tree(server, "/api/search?tag=circle&tag_p=0.8&top=9")
        assert [hit["clip_id"] for hit in alone["hits"]] == ["c0", "c1"]
        assert [hit["clip_id"] for hit in tree(server, f"/api/like/c0?tag={red}")["hits"]] == ["c4"]
        blue = {"method": "POST", "body": draw("blue"), "Content_Type": "image/jpeg"}
        assert {hit["clip_id"] for hit in tree(server, f"/api/image?tag={red}", **blue)["hits"]} == {"c0", "c4"}
        for path, message in (
            ("/api/search?tag=rad", "did you mean 'red'"),
            ("/api/search?q=a&tag=circle&tag_p=1.5", "tag_p must be a probability"),
            ("/api/search?q=a&tag_p=nan", "tag_p must be a probability"),
            ("/api/search?tag=%ff", "UTF-8"),
            ("/api/search?" + "&".join(["tag=circle"] * 30), "fields"),
        ):
            status, _, body = ask(server, path)
            assert status == 400 and message in json.loads(body)["error"]


def test_frames_and_video_ranges(server: SearchServer, search: Search) -> None:
    status, headers, body = ask(server, "/frames/c1/2.jpg")
    assert (status, headers["Content-Type"], body) == (200, "image/jpeg", search.jpegs("c1")[2])
    whole = search.video("c1").read_bytes()
    status, headers, body = ask(server, "/video/c1")
    assert (status, body, headers["Accept-Ranges"], headers["Content-Type"]) == (200, whole, "bytes", "video/mp4")
    tag = headers["ETag"]
    status, headers, body = ask(server, "/video/c1", Range="bytes=100-199", If_Range=tag)
    assert (status, body, headers["Content-Range"]) == (206, whole[100:200], f"bytes 100-199/{len(whole)}")
    assert ask(server, "/video/c1", Range="bytes=-7")[2] == whole[-7:]
    assert ask(server, "/video/c1", Range="bytes=0-9", If_Range='"older"')[::2] == (200, whole)
    status, headers, _ = ask(server, "/video/c1", Range=f"bytes={len(whole)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    status, headers, body = ask(server, "/video/c1", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(whole)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/video/../secret.txt", "/video/..%2fsecret.txt",
        "/video/..%2f..%2f..%2fetc%2fpasswd", "/video/%2fetc%2fpasswd", "/frames/..%2f..%2fsecret.txt/0.jpg",
        "/frames/c0/..%2f..%2fsecret.txt", "/frames/c0/-1.jpg", "/frames/c0/3.jpg", "/frames/c0/%D9%A1.jpg", "/frames/c0/1e1.jpg",
        "/frames/c0/00000000000000000001.jpg", "/app.js/../../secret.txt", "/assets/page.html", "/video/c0%00", "/video/",
        "/video/c3", "/api/like/c99", "//127.0.0.1/secret.txt", "/static/..%5c..%5csecret.txt", "/c0", "/video/red.mp4",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_corpus(server: SearchServer, secret: Path, path: str) -> None:
    status, _, body = ask(server, path)
    assert status == 404 and secret.read_bytes() not in body and b"root:" not in body
    assert str(secret.parent).encode() not in body, "an error does not tell where things lie"


def test_a_video_that_became_a_link_is_not_followed(server: SearchServer, search: Search, secret: Path) -> None:
    path = search.video("c2")
    kept = path.read_bytes()
    path.unlink()
    path.symlink_to(secret)
    try:
        status, _, body = ask(server, "/video/c2")
        assert status == 404 and b"the secret" not in body
    finally:
        path.unlink()
        path.write_bytes(kept)


def test_a_folder_that_becomes_a_link_before_the_answer_is_not_followed(
    server: SearchServer, search: Search, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swapped").symlink_to(secret.parent)
    monkeypatch.setattr(search, "video", lambda clip_id: tmp_path / "swapped" / secret.name)
    status, _, body = ask(server, "/video/c2")
    assert status == 404 and b"the secret" not in body


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (f"/api/search?q={'a' * 501}", 400, "501"),
        (f"/api/search?q={'a' * 5000}", 414, "4096"),
        ("/api/search?q=", 400, "query"),
        ("/api/search?q=%ff", 400, "UTF-8"),
        ("/api/search?q=a&top=101", 400, "1 to 100"),
        ("/api/search?q=a&top=0", 400, "1 to 100"),
        ("/api/search?q=a&top=%D9%A3", 400, "1 to 100"),
        ("/api/search?q=a&min_s=nan", 400, "min_s"),
        ("/api/search?q=a&source=nobody", 400, "--source nobody"),
        ("/api/search?" + "&".join(f"x{n}=1" for n in range(30)), 400, "fields"),
        ("/api/image", 405, "POST"),
        ("/nothing", 404, ""),
    ],
)
def test_bad_requests(server: SearchServer, path: str, status: int, message: str) -> None:
    answered, _, body = ask(server, path)
    assert answered == status and message in json.loads(body)["error"]


def test_bodies_have_limits(server: SearchServer) -> None:
    jpeg = {"method": "POST", "Content_Type": "image/jpeg"}
    assert ask(server, "/api/image", **jpeg, body=b"x", Content_Length=str(MAX_PICTURE_BYTES + 1))[0] == 413
    assert ask(server, "/api/image", **jpeg, Content_Length="-1")[0] == 411
    assert ask(server, "/api/image", method="POST", body=b"x", Content_Type="text/html")[0] == 415
    assert ask(server, "/api/search?q=a", **jpeg, body=b"x")[0] == 405
    assert ask(server, "/api/image", **jpeg, Content_Length="9" * 5000)[0] == 413
    status, _, body = ask(server, "/api/image", **jpeg, body=b"no picture")
    assert status == 400 and "JPEG, PNG, WEBP" in json.loads(body)["error"]
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as raw:
        raw.sendall(
            b"POST /api/image HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\nabc"
        )
        raw.shutdown(socket.SHUT_WR)
        assert b" 3 of 9 bytes" in raw.makefile("rb").read()
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as raw:
        head = b"POST /api/image HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        raw.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        assert b" 411 " in raw.recv(64)
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as raw:
        raw.sendall(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 414 " in raw.recv(64)
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as raw:
        raw.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 400 " in raw.recv(64)
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as raw:
        raw.sendall(b"DELETE /video/c0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 501 " in raw.recv(64)


def test_an_unread_body_is_not_taken_for_a_request(server: SearchServer) -> None:
    inner = b"GET /api/about HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for header in (f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as raw:
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + header.encode() + b"\r\n\r\n" + inner)
            answers = raw.makefile("rb").read()
            assert answers.count(b"HTTP/1.1 ") == 1 and answers.endswith(b'{"status": "ok"}')


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.1.5", "", "localhost@evil"]
)
def test_another_host_is_refused(server: SearchServer, host: str) -> None:
    for path in ("/", "/healthz", "/api/about", "/video/c0"):
        assert ask(server, path, Host=host)[0] == 403


def test_names_of_loopback_are_accepted(server: SearchServer) -> None:
    for host in ("localhost", "LOCALHOST:9999", "127.0.0.1:8000", "[::1]:8000"):
        assert ask(server, "/api/about", Host=host)[0] == 200


def test_requests_from_pages_of_other_sites_are_refused(server: SearchServer) -> None:
    for headers in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://evil.example"},
    ):
        for path in ("/api/about", "/video/c0", "/frames/c0/0.jpg"):
            assert ask(server, path, **headers)[0] == 403
        picture = {"method": "POST", "body": draw("red"), "Content_Type": "image/jpeg"}
        assert ask(server, "/api/image", **picture, **headers)[0] == 403


def test_every_answer_forbids_scripts_and_frames_of_others(server: SearchServer) -> None:
    for path in ("/", "/app.js", "/api/about", "/frames/c0/0.jpg", "/video/c0", "/nothing"):
        _, headers, _ = ask(server, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and headers["X-Content-Type-Options"] == "nosniff"
    page = ask(server, "/")[2].decode()
    assert "<script>" not in page and "onclick" not in page and "style=" not in page and "://" not in page


def test_the_token(search: Search) -> None:
    with serving(search, token=TOKEN) as server:
        assert ask(server, "/healthz")[0] == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Cookie": "m2raap_token=wrong"},
            {"Authorization": f"Basic {TOKEN}"},
        ):
            for path in ("/", "/api/about", "/video/c0", "/frames/c0/0.jpg", "/api/search?q=red"):
                assert ask(server, path, **headers)[0] == 401
        assert ask(server, "/?token=wrong")[0] == 401
        status, headers, _ = ask(server, f"/?token={TOKEN}")
        assert (status, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert ask(server, "/", Cookie=cookie.partition(";")[0])[0] == 200
        assert ask(server, "/api/about", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_hosts_that_others_reach_need_a_token(search: Search, monkeypatch) -> None:
    index = search.gallery.path
    monkeypatch.delenv("M2RAAP_TOKEN", raising=False)
    server, url = open_server(index, host="127.0.0.1", port=0)
    server.server_close()
    assert url == f"http://127.0.0.1:{server.server_address[1]}/"
    server, url = open_server(index, host="0.0.0.0", port=0)
    server.server_close()
    made_up = url.partition("?token=")[2]
    assert len(made_up) >= 32 and server.guard.is_token(made_up)
    monkeypatch.setenv("M2RAAP_TOKEN", TOKEN)
    server, url = open_server(index, host="0.0.0.0", port=0)
    server.server_close()
    assert url.endswith(f"/?token={TOKEN}")
    monkeypatch.setenv("M2RAAP_TOKEN", "guessme")
    with pytest.raises(M2raapError, match="M2RAAP_TOKEN: .*16"):
        open_server(index, host="0.0.0.0", port=0)


def test_on_an_open_host_addresses_and_names_of_the_machine_are_accepted(search: Search) -> None:
    with serving(search, "0.0.0.0", TOKEN) as server:
        allowed = {"192.168.1.5:8000", socket.gethostname(), "localhost", "[fe80::1]:80"}
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert {ask(server, "/api/about", Host=host, **bearer)[0] for host in allowed} == {200}
        assert ask(server, "/api/about", Host="evil.example", **bearer)[0] == 403


def test_a_proxy_may_serve_it_under_a_public_host(search: Search, monkeypatch) -> None:
    public = tuple(filter(None, map(parse_host, ("Search.example.org", "other.example.org:8443"))))
    bearer: dict[str, Any] = {"Authorization": f"Bearer {TOKEN}"}
    image: dict[str, Any] = bearer | {"method": "POST", "body": draw("red"), "Content_Type": "image/jpeg"}
    origin = "https://search.example.org"
    with serving(search, token=TOKEN, public=public) as server:
        for host in ("search.example.org", "SEARCH.example.org:4430", "other.example.org:8443", "localhost"):
            assert ask(server, "/api/about", Host=host, **bearer)[0] == 200
            assert ask(server, "/api/about", Host=host)[0] == 401, "a public host needs the token"
        for host in ("evil.example", "search.example.org.evil.example", "a.search.example.org", "other.example.org"):
            assert ask(server, "/api/about", Host=host, **bearer)[0] == 403
        kept_host = {"Host": "search.example.org", "Origin": origin, "Sec_Fetch_Site": "same-origin"}
        replaced_host = {"Host": "127.0.0.1:8000", "Origin": origin}
        with_port = {"Host": "127.0.0.1:8000", "Origin": "https://other.example.org:8443"}
        for headers in (kept_host, replaced_host, with_port):
            assert ask(server, "/api/image?top=1", **image, **headers)[0] == 200
        for other_origin in (
            "https://evil.example",
            "https://other.example.org",
            "null",
            "https://search.example.org.evil.example",
        ):
            assert ask(server, "/api/image?top=1", **image, Host="127.0.0.1:8000", Origin=other_origin)[0] == 403
    monkeypatch.delenv("M2RAAP_TOKEN", raising=False)
    server, url = open_server(search.gallery.path, port=0, public_hosts=["search.example.org"])
    server.server_close()
    assert server.guard.is_token(url.partition("?token=")[2]), "a random token, on loopback too"
    with pytest.raises(UsageError, match="--public-host https://a.example: "):
        open_server(search.gallery.path, public_hosts=["https://a.example"])


def test_a_slow_client_is_disconnected(search: Search, monkeypatch) -> None:
    monkeypatch.setattr("m2raap.search.handler.HEAD_S", 1.0)
    with serving(search) as server, socket.create_connection(address_of(server), timeout=20) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        started, sent = time.monotonic(), 0
        slow.settimeout(0.1)
        while time.monotonic() < started + 10:  # a header that never ends; every byte comes soon after the one before
            try:
                slow.sendall(b"x")
                sent += 1
                if slow.recv(64) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.8 < time.monotonic() - started < 5 and sent > 1
        assert ask(server, "/healthz")[0] == 200
        with socket.create_connection(address_of(server), timeout=20) as kept:  # each request has its own time
            answers, opened = kept.makefile("rb"), time.monotonic()
            while time.monotonic() < opened + 1.2:
                kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"200 OK" in answers.readline()
                while answers.readline().strip():
                    pass
                assert answers.read(16) == b'{"status": "ok"}'


def test_one_client_cannot_take_all_connections(search: Search, monkeypatch) -> None:
    monkeypatch.setattr("m2raap.search.connections.MAX_OF_ONE_PEER", 3)
    with serving(search) as server, ExitStack() as held:
        address = address_of(server)
        for _ in range(3):
            held.enter_context(socket.create_connection(address, timeout=20))
        refused = held.enter_context(socket.create_connection(address, timeout=20))
        assert b" 503 " in refused.recv(64)
        other = held.enter_context(socket.create_connection(address, 20, source_address=("127.0.0.2", 0)))
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in other.recv(4096)
        held.close()
        deadline = time.monotonic() + 10
        while (status := ask(server, "/healthz")[0]) != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert status == 200, "a closed connection makes room"


def test_addresses_of_one_client() -> None:
    assert peer_of("10.0.0.7") == peer_of("::ffff:10.0.0.7") == "10.0.0.7"
    assert peer_of("2001:db8::1") == peer_of("2001:db8::ffff:2") != peer_of("2001:db8:0:1::1")
    assert peer_of("fe80::1%eth0") == peer_of("fe80::2")


def test_a_port_in_use_is_named(server: SearchServer, search: Search) -> None:
    with pytest.raises(M2raapError, match=f"--port {server.server_address[1]}: "):
        SearchServer(search, "127.0.0.1", server.server_address[1], None)


def test_an_internal_error_is_logged_and_not_sent(server: SearchServer, search: Search, monkeypatch, capfd) -> None:
    monkeypatch.setattr(search, "about", lambda: 1 / 0)
    status, _, body = ask(server, "/api/about")
    assert status == 500 and b"division" not in body and "ZeroDivisionError" in capfd.readouterr().err
    assert ask(server, "/healthz")[0] == 200


def test_the_path_of_a_missing_corpus_is_not_sent(search: Search) -> None:
    with serving(Search(search.gallery.path)) as server:
        manifest = search.gallery.path.parent / "corpus" / "manifest.json"
        manifest.rename(manifest.with_name("away"))
        try:
            for path in ("/video/c0", "/frames/c0/0.jpg"):
                status, _, body = ask(server, path)
                assert status == 404 and str(manifest.parent).encode() not in body
        finally:
            manifest.with_name("away").rename(manifest)


def test_a_request_with_two_lengths_is_refused(server: SearchServer) -> None:
    """A proxy in front may believe the other one, and the rest of the body would be the next request."""
    head = "POST /api/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
    with socket.create_connection(address_of(server), timeout=20) as connection:
        connection.sendall((head + "Content-Length: 4\r\nContent-Length: 40\r\n\r\n").encode() + b"x" * 40)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1
