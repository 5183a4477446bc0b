"""serve: the search page over an index."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from m2raap.core.errors import M2raapError, UsageError
from m2raap.models.config import BackboneConfig
from m2raap.search.guard import is_loopback, parse_host
from m2raap.search.search import Search
from m2raap.search.server import SearchServer

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
    search = Search(index, model)
    search.ready()
    server = SearchServer(search, host, port, token, public)
    return server, server.url + (f"?token={token}" if token else "")


def _public(text: str) -> tuple[str, str | None]:
    found = parse_host(text)
    if found is None:
        raise UsageError(f"--public-host {text}: give a name, or NAME:PORT, without http:// and without a path")
    return found
