from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.video import wire


def reader(data: bytes):
    stream = io.BytesIO(data)

    def read(n: int) -> bytes:
        part = stream.read(n)
        if len(part) < n:
            raise EOFError
        return part

    return read


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), st.lists(st.binary(), max_size=5))
def test_round_trip(head: dict, blobs: list[bytes]) -> None:
    assert wire.unpack(reader(wire.pack(head, blobs))) == (head, blobs)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        head, blobs = wire.unpack(reader(data))
    except (wire.BadMessage, EOFError):
        return
    assert isinstance(head, dict) and all(isinstance(b, bytes) for b in blobs)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"head": 1, "blobs": []}', '{"head": {}, "blobs": [-1]}', '{"head": {}, "blobs": [99999999999]}'],
)
def test_hostile_heads(text: str) -> None:
    with pytest.raises(wire.BadMessage):
        wire.unpack(reader(struct.pack(">I", len(text)) + text.encode()))
    with pytest.raises(wire.BadMessage):
        wire.unpack(reader(b"\xff\xff\xff\xff"))
