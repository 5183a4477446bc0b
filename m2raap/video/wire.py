"""Messages between the parent and the child process: 4 bytes length, JSON, and the blobs whose lengths the JSON states."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

_MAX_HEAD_BYTES = 16 * 1024**2
_MAX_BLOB_BYTES = 256 * 1024**2
_MAX_BLOBS = 4096


class BadMessage(Exception):
    """The bytes are not a valid message: the sender is defective or hostile."""


def pack(head: dict[str, Any], blobs: Sequence[bytes]) -> bytes:
    """The bytes of a message: `head`, which JSON must be able to hold, and `blobs`."""
    text = json.dumps({"head": head, "blobs": [len(b) for b in blobs]}).encode()
    return b"".join([struct.pack(">I", len(text)), text, *blobs])


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Reads one message (head, blobs) by calls of `read(n)`, which returns exactly n bytes or raises. Raises BadMessage."""
    (length,) = struct.unpack(">I", read(4))
    if length > _MAX_HEAD_BYTES:
        raise BadMessage(f"the head has {length} bytes, at most {_MAX_HEAD_BYTES} are allowed")
    try:
        message = json.loads(read(length))
        head, sizes = message["head"], message["blobs"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadMessage(str(error)) from None
    is_valid = (
        isinstance(head, dict)
        and isinstance(sizes, list)
        and len(sizes) <= _MAX_BLOBS
        and all(isinstance(n, int) and 0 <= n <= _MAX_BLOB_BYTES for n in sizes)
        and sum(sizes) <= _MAX_BLOB_BYTES
    )
    if not is_valid:
        raise BadMessage("the head is not a mapping, or the sizes of the blobs are outside the limits")
    return head, [read(n) for n in sizes]
