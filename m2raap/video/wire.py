"""Messages between parent and child: [4 bytes length][JSON], then the blobs whose lengths the JSON states."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

_MAX_HEAD_BYTES = 16 * 1024**2
_MAX_BLOB_BYTES = 256 * 1024**2
_MAX_BLOBS = 4096


class BadMessage(Exception):
    """Bytes that are no message: the sender is broken or hostile."""


def pack(head: dict[str, Any], blobs: Sequence[bytes]) -> bytes:
    text = json.dumps({"head": head, "blobs": [len(b) for b in blobs]}).encode()
    return b"".join([struct.pack(">I", len(text)), text, *blobs])


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Reads one message by `read(n)`, which gives exactly n bytes or raises. Raises BadMessage."""
    (length,) = struct.unpack(">I", read(4))
    if length > _MAX_HEAD_BYTES:
        raise BadMessage(f"a head of {length} bytes")
    try:
        message = json.loads(read(length))
        head, sizes = message["head"], message["blobs"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadMessage(str(error)) from None
    sound = (
        isinstance(head, dict)
        and isinstance(sizes, list)
        and len(sizes) <= _MAX_BLOBS
        and all(isinstance(n, int) and 0 <= n <= _MAX_BLOB_BYTES for n in sizes)
        and sum(sizes) <= _MAX_BLOB_BYTES
    )
    if not sound:
        raise BadMessage("no mapping with sane blob sizes")
    return head, [read(n) for n in sizes]
