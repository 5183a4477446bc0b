import re
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from m2raap.core import web
from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import UNREADABLE, M2raapError
from m2raap.core.runner import run_data_stage
from m2raap.core.tables import read_part
from m2raap.core.view import View
from m2raap.pipeline.recipe import Recipe, arms_of, with_remote_videos
from m2raap.stages.filter import FilterConfig, FilterStage
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.video import fetch
from m2raap.video.fetch import RemoteConfig, check_url, fetched, is_url, url_digest
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import open_regular

ALLOWED = RemoteConfig(allow_remote=True)


@pytest.fixture
def store():
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.mp4", b"some bytes")
    memory.pipe("/bucket/empty.mp4", b"")
    yield memory
    memory.rm("/bucket", recursive=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(fetch.tempfile, "tempdir", str(tmp_path))


def refused(url: str, cfg: RemoteConfig = ALLOWED) -> tuple[str, str]:
    with pytest.raises(Refused) as error, fetched(url, cfg):
        pass
    return error.value.reason, error.value.detail


def test_what_is_an_address():
    assert [is_url(v) for v in ("a.mp4", "C:\\a.mp4", "a/b://c", "s3://b/c", "HTTPS://x", "simplecache::s3://b")] == [
        False, False, False, True, True, False,
    ]  # fmt: skip
    for url in ("file:///etc/passwd", "local://a", "ftp://a/b", "zip://a", "reference://a", "github://a", "sftp://a/b"):
        with pytest.raises(Refused, match="outside_root: .*://.*http, https, s3"):
            check_url(url)


def test_the_temporary_copy_is_deleted_after_use(store, tmp_path: Path):
    with fetched("memory://bucket/a.mp4", ALLOWED) as path:
        assert path.read_bytes() == b"some bytes" and path.is_relative_to(tmp_path)
    with pytest.raises(ZeroDivisionError), fetched("memory://bucket/a.mp4", ALLOWED):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_the_temporary_folder_may_be_a_link(store, tmp_path: Path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "link"))
    with fetched("memory://bucket/a.mp4", ALLOWED) as path:
        file, _ = open_regular(path, VideoConfig())
        file.close()


def test_refusals_of_a_store(store, monkeypatch):
    assert refused("memory://bucket/a.mp4", RemoteConfig())[0] == "not_fetched"
    assert refused("memory://bucket/b.mp4")[0] == "missing_file"
    assert refused("memory://bucket/empty.mp4")[0] == "empty"
    reason, detail = refused("memory://bucket/a.mp4", RemoteConfig(allow_remote=True, max_bytes=5))
    assert reason == "too_large" and re.match(r"memory://bucket/a\.mp4: .*\b10\b.*\b5\b", detail)
    tries = []
    monkeypatch.setattr(store, "open", lambda *_: tries.append(1) or 1 / 0)
    reason, detail = refused("memory://bucket/a.mp4")
    assert (reason, len(tries)) == ("not_fetched", 3) and "ZeroDivisionError" in detail
    monkeypatch.setattr(fsspec, "filesystem", lambda _: __import__("s3fs_is_not_here"))
    with (
        pytest.raises(M2raapError, match="s3://.*pip install s3fs"),
        fetched("s3://a/b", ALLOWED),
    ):
        pass


def test_keys_of_signed_addresses_are_not_repeated(monkeypatch):
    reason, detail = refused("https://127.0.0.1/v.mp4?X-Amz-Signature=secret")
    assert reason == "outside_root" and "secret" not in detail
    assert detail.startswith("https://127.0.0.1/v.mp4: ") and detail.count("127.0.0.1") == 2


def test_the_digest_follows_the_content(store):
    first = url_digest("memory://bucket/a.mp4", ALLOWED)
    assert first == url_digest("memory://bucket/a.mp4", ALLOWED)
    store.pipe("/bucket/a.mp4", b"other bytes")
    assert url_digest("memory://bucket/a.mp4", ALLOWED) != first
    for url, cfg in (
        ("memory://bucket/a.mp4", RemoteConfig()),
        ("memory://bucket/b.mp4", ALLOWED),
        ("file:///a", ALLOWED),
    ):
        assert url_digest(url, cfg) == "absent"


def test_keyframes_of_addresses_equal_those_of_files(clips: Path, store, tmp_path: Path, monkeypatch):
    """One clip in the corpus folder, one in a store, one on a web server, and two that cannot be fetched."""
    data = (clips / "plain.mp4").read_bytes()
    store.pipe("/bucket/plain.mp4", data)

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/plain.mp4" else 404)
            self.end_headers()
            self.wfile.write(data if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    site = f"http://127.0.0.1:{server.server_port}"
    videos = {
        "file": "plain.mp4", "store": "memory://bucket/plain.mp4", "web": f"{site}/plain.mp4", "gone": f"{site}/no.mp4",
        "trap": "file:///etc/passwd",
    }  # fmt: skip
    rows = [{"clip_id": name, "video": video, "split": "train"} for name, video in videos.items()]
    texts = [
        {"text_id": f"{name}.en0", "clip_id": name, "lang": "en", "text": "a man plays the guitar", "active": True}
        for name in videos
    ]
    write_corpus(tmp_path / "C", rows, texts, video_root=clips, source={}, num_parts=1)
    assert run_data_stage(FilterStage(FilterConfig()), View(tmp_path / "C"), tmp_path / "F", LocalEngine(1))
    assert not {row["reason"] for row in read_part(tmp_path / "F", "dropped", 0)} & set(UNREADABLE)
    frames_allowed: dict[str, list[bytes]] = {}
    for allowed, expected in (
        (True, {"gone": "missing_file", "trap": "outside_root"}),
        (False, {"store": "not_fetched", "web": "not_fetched", "gone": "not_fetched", "trap": "outside_root"}),
    ):
        out = tmp_path / f"K{allowed}"
        cfg = KeyframesConfig(remote=RemoteConfig(allow_remote=allowed))
        assert run_data_stage(KeyframesStage(cfg), View(tmp_path / "C"), out, LocalEngine(1))
        assert {row["clip_id"]: row["reason"] for row in read_part(out, "dropped", 0)} == expected
        frames = {row["clip_id"]: row["jpegs"] for row in read_part(out, "frames", 0)}
        frames_allowed = frames if allowed else frames_allowed
        assert all(jpegs == frames["file"] for jpegs in frames.values()) and set(frames) | set(expected) == set(videos)
    cfg = KeyframesConfig(
        remote=RemoteConfig(allow_remote=True)
    )  # a HOW setting: only --force fetches again what was not fetched
    out, view = tmp_path / "KFalse", View(tmp_path / "C")
    assert run_data_stage(KeyframesStage(cfg), view, out, LocalEngine(1))
    assert "not_fetched" in {row["reason"] for row in read_part(out, "dropped", 0)}
    before = {row["clip_id"]: row["jpegs"] for row in read_part(out, "frames", 0)}
    assert run_data_stage(KeyframesStage(cfg), view, out, LocalEngine(1), force=True)
    assert "not_fetched" not in {row["reason"] for row in read_part(out, "dropped", 0)}
    after = {row["clip_id"]: row["jpegs"] for row in read_part(out, "frames", 0)}
    assert before.items() < after.items() and after.keys() == frames_allowed.keys()
    server.shutdown()
    server.server_close()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("m2raap-fetch")]


def test_leave_to_fetch_reaches_every_arm():
    recipe = Recipe(name="r", bench_keyframes=KeyframesConfig(), arms={"a": {}, "b": {"keyframes": {"min_frames": 1}}})
    arms = arms_of(with_remote_videos(recipe)).values()
    assert all(arm.keyframes.remote.allow_remote for arm in arms)
    assert all(arm.bench_keyframes and arm.bench_keyframes.remote.allow_remote for arm in arms)
    assert not any(arm.keyframes.remote.allow_remote for arm in arms_of(recipe).values())
