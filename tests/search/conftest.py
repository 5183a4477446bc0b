from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from m2raap.search.search import Search
from m2raap.search.server import SearchServer
from tests.search.world import index_of, rows, write_video
from tests.stages.pictures import COLOURS


@contextmanager
def serving(
    search: Search, host: str = "127.0.0.1", token: str | None = None, public: tuple[tuple[str, str | None], ...] = ()
) -> Iterator[SearchServer]:
    server = SearchServer(search, host, 0, token, public)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def search(tmp_path_factory) -> Search:
    """Eight clips; the yellow video is missing."""
    folder = tmp_path_factory.mktemp("serve")
    for colour in list(COLOURS)[:3]:
        write_video(folder / "videos" / f"{colour}.mp4", colour)
    return Search(index_of(folder, rows(8)))


@pytest.fixture(scope="session")
def server(search: Search) -> Iterator[SearchServer]:
    with serving(search) as running:
        yield running


@pytest.fixture(scope="session")
def secret(tmp_path_factory, search: Search) -> Path:
    """A file outside the corpus's videos that the server must not send."""
    path = search.gallery.path.parent / "secret.txt"
    path.write_text("the secret")
    return path
