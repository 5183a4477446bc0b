"""Copies a video whose path is an address (URL) to a temporary file, so that the decoder needs no network.

Addresses with http(s) are fetched by m2raap.core.web, those of object stores by fsspec. Only the protocols listed here are
fetched, because an fsspec URL can also name local files (file://, local://), archives and chains of caches.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from m2raap.core.config import HOW, Config, digest
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_error
from m2raap.core.web import WebError, chunks, fingerprint
from m2raap.video.limits import Refused

WEB = ("http", "https")
# protocol -> the package that provides it; fsspec's own protocol memory is for tests
STORES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "memory": "fsspec",
}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TRIES = 3
FIRST_WAIT_S = 1.0
_LOOKUP_TIMEOUT_S = 30.0
_REASON = {"refused": "outside_root", "missing": "missing_file", "too_large": "too_large", "timeout": "timeout"}


class RemoteConfig(Config):
    """Whether videos whose path is an address are fetched, with limits of size and time."""

    allow_remote: bool = Field(
        default=False, description="Permission to fetch videos whose path is an address.", json_schema_extra=HOW
    )
    max_bytes: int = Field(
        default=4 * 1024**3, gt=0, description="Most bytes in one file; a larger file is refused as too_large."
    )
    timeout_s: float = Field(
        default=300.0, gt=0, description="Seconds that the transfer of one file may take.", json_schema_extra=HOW
    )


def is_url(video: str) -> bool:
    return _URL.match(video) is not None


def check_url(url: str) -> None:
    """Raises Refused (outside_root) for a protocol that is not fetched."""
    protocol = url.partition("://")[0].lower()
    if protocol not in WEB and protocol not in STORES:
        raise Refused("outside_root", f"'{protocol}://' is not fetched; use one of {', '.join((*WEB, *STORES))}")


@contextmanager
def fetched(url: str, cfg: RemoteConfig) -> Iterator[Path]:
    """A copy of the file in the temporary folder (TMPDIR), which is deleted when the block ends.

    Raises Refused: not_fetched (fetching is not allowed, or the transfer failed), outside_root, missing_file, too_large,
    timeout, empty. Raises M2raapError where the disk is full or a protocol's package is not installed.
    """
    check_url(url)
    if not cfg.allow_remote:
        raise Refused(
            "not_fetched", "the video is an address; to fetch it, use 'run --allow-remote' or set remote.allow_remote"
        )
    with tempfile.TemporaryDirectory(prefix="m2raap-fetch-") as scratch:
        path = Path(scratch).resolve() / "video"  # TMPDIR may be a link, which the decoder does not follow
        try:
            _copy(url, path, cfg)
        except WebError as error:
            raise Refused(_REASON.get(error.kind, "not_fetched"), f"{_without_keys(url)}: {error.detail}") from None
        if path.stat().st_size == 0:
            raise Refused("empty", f"{_without_keys(url)} has no bytes")
        yield path


def url_digest(url: str, cfg: RemoteConfig) -> str:
    """A digest of the file at an address, from the metadata that the server states; 'absent' where it states none.

    The file itself is not transferred. Raises M2raapError where a protocol's package is not installed.
    """
    try:
        check_url(url)
        if not cfg.allow_remote:
            return "absent"
        protocol = url.partition("://")[0].lower()
        version = fingerprint(url, timeout_s=_LOOKUP_TIMEOUT_S) if protocol in WEB else _info(*_store(url))
    except (Refused, WebError):
        return "absent"
    return digest(["url", url, version])


def _copy(url: str, path: Path, cfg: RemoteConfig) -> None:
    web = url.partition("://")[0].lower() in WEB
    for attempt in range(_TRIES):
        data_chunks = chunks(url, max_bytes=cfg.max_bytes, timeout_s=cfg.timeout_s) if web else _from_store(url, cfg)
        try:
            with open(path, "wb") as sink:
                for data in data_chunks:
                    sink.write(data)
            return
        except WebError as error:
            if error.kind != "busy" or attempt == _TRIES - 1:
                raise
            time.sleep(FIRST_WAIT_S * 2**attempt)
        except OSError as error:  # of the temporary file, because errors of the transfer are WebErrors
            raise write_error(path, error) from None


def _store(url: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.partition("://")[0].lower()
    try:
        store = fsspec.filesystem(protocol)  # by protocol, so that a chain ('simplecache::...') is refused
    except ImportError:
        raise M2raapError(
            f"{protocol}:// addresses need the package {STORES[protocol]}; run 'pip install {STORES[protocol]}'"
        ) from None
    return store, store._strip_protocol(url)


def _info(store: Any, name: str) -> dict[str, str]:
    """Size, version and date of an object in a store. Raises WebError."""
    try:
        info = store.info(name)
    except FileNotFoundError:
        raise WebError("missing", "the store holds no such object") from None
    except Exception as error:  # each store raises its own errors; the detail names the type
        raise WebError("busy", f"{type(error).__name__}: {error}") from None
    names = ("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")
    return {key: str(info[key]) for key in names if info.get(key) is not None}


def _from_store(url: str, cfg: RemoteConfig) -> Iterator[bytes]:
    store, name = _store(url)
    deadline = time.monotonic() + cfg.timeout_s
    announced, num_bytes = int(_info(store, name).get("size", 0)), 0
    if announced > cfg.max_bytes:
        raise WebError("too_large", f"the object has {announced:,} bytes, at most {cfg.max_bytes:,} are allowed")
    for data in _read(store, name):
        num_bytes += len(data)
        if num_bytes > cfg.max_bytes:
            raise WebError("too_large", f"the object has more than {cfg.max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise WebError("timeout", f"the transfer took longer than {cfg.timeout_s:g} s")
        yield data


def _read(store: Any, name: str) -> Iterator[bytes]:
    try:
        with store.open(name, "rb") as source:
            while data := source.read(4 * 1024**2):
                yield data
    except FileNotFoundError:
        raise WebError("missing", "the store holds no such object") from None
    except Exception as error:  # each store raises its own errors
        raise WebError("busy", f"{type(error).__name__}: {error}") from None


def _without_keys(url: str) -> str:
    """The address without its query, which holds the key of a signed address, and without user name and password."""
    parts = urlsplit(url)
    return parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()
