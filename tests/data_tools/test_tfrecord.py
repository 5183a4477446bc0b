"""TFRecord framing and the Example messages, against bytes that are written out here without either library."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.tf_example import parse, serialise
from data_tools.tfrecord import MAX_RECORD, Records, masked_crc, write_record
from m2raap.core.errors import M2raapError, UsageError


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit: the polynomial 0x1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def framed(data: bytes, length: int | None = None) -> bytes:
    """A record, whose length may lie."""
    head = struct.pack("<Q", len(data) if length is None else length)
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def read(path: Path) -> list[bytes]:
    with Records(path) as records:
        return [record.data for record in records]


def test_the_checksum_has_its_known_values():
    # RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    known = {b"123456789": 0xE3069283, bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E}
    for data, crc in known.items():
        assert crc32c(data) == crc and masked_crc(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_what_is_written_is_what_the_format_says_and_comes_back(tmp_path_factory, datas: list[bytes]):
    path = tmp_path_factory.mktemp("r") / "a.tfrecord"
    with open(path, "wb") as sink:
        for data in datas:
            write_record(sink, data)
    assert path.read_bytes() == b"".join(map(framed, datas))
    assert read(path) == datas
    with Records(path) as records:
        for record in list(records)[::-1]:
            assert records.at(record.offset) == record.data == datas[record.number - 1]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_cut_and_every_wrong_byte_is_refused(tmp_path_factory, data: st.DataObject):
    whole = framed(b"first") + framed(b"second record")
    path = tmp_path_factory.mktemp("r") / "a.tfrecord"
    place = data.draw(st.integers(1, len(whole) - 1).filter(lambda n: n != len(framed(b"first"))))
    path.write_bytes(whole[:place])
    with pytest.raises(M2raapError, match=f"{path}: record [12] at byte "):
        read(path)
    changed = whole[place] ^ data.draw(st.integers(1, 255))
    path.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
    with pytest.raises(M2raapError, match=f"{path}: record [12] at byte "):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (framed(b"ok") + b"junk", "record 2 at byte 18: only 4 bytes are left, too few for a record"),
        (framed(b"ok")[:-1], "record 1 at byte 0: states 2 bytes, but the file ends before"),
        (framed(b"four", 5), "record 1 at byte 0: states 5 bytes, but the file ends before"),
        (framed(b"four", 3), "record 1 at byte 0: the checksum of its data is wrong"),
        (framed(b"x", MAX_RECORD + 1), r"states 67,108,865 bytes, and at most 67,108,864 are read of a record"),
        (framed(b"x", 2**64 - 1), "states 18,446,744,073,709,551,615 bytes, and at most"),
        (b"\x1f\x8b" + bytes(40), "the checksum of its length is wrong; the file is no TFRecord file, or is damaged"),
    ],
)
def test_lying_records_are_refused(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "a.tfrecord").write_bytes(content)
    with pytest.raises(M2raapError, match=message):
        read(tmp_path / "a.tfrecord")


def test_what_is_no_file_is_refused(tmp_path: Path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "is no regular file"), ("none", "No such file"), (".", "cannot be read")):
        with pytest.raises(M2raapError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize("library", ["google_crc32c", "google.protobuf"])
def test_a_missing_library_is_named(library: str, monkeypatch, tmp_path: Path):
    from data_tools.tf_example import _sequence_example

    _sequence_example.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=r"is not installed; pip install 'm2raap\[youtube8m\]'"):
        masked_crc(b"")
        serialise({})
    _sequence_example.cache_clear()


# --- messages: the wire format by hand, tag = number << 3 | 2 for everything that has a length ---


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def entry(name: str, value: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, value))


def test_messages_have_the_published_numbers():
    features = entry("id", field(1, field(1, b"aB-_"))) + entry("labels", field(3, field(1, bytes([3, 0]))))
    features += entry("mean_rgb", field(2, field(1, struct.pack("<2f", 0.5, -1))))
    example = field(1, features)
    context, lists = parse(example)
    assert lists == {} and set(context) == {"id", "labels", "mean_rgb"}
    assert list(context["id"].bytes_list.value) == [b"aB-_"] and list(context["labels"].int64_list.value) == [3, 0]
    assert list(context["mean_rgb"].float_list.value) == [0.5, -1]
    assert serialise({"id": [b"aB-_"], "labels": [3, 0], "mean_rgb": np.array([0.5, -1])}) == example
    frames = field(1, field(1, field(1, b"\1\2"))) + field(1, field(1, field(1, b"\3\4")))
    sequence = field(1, entry("id", field(1, field(1, b"x")))) + field(2, entry("rgb", frames))
    assert serialise({"id": [b"x"]}, {"rgb": [[b"\1\2"], [b"\3\4"]]}) == sequence
    assert [list(frame.bytes_list.value) for frame in parse(sequence)[1]["rgb"].feature] == [[b"\1\2"], [b"\3\4"]]


@pytest.mark.parametrize("data", [b"\x0a\x7f", b"\xff" * 12, field(1, entry("id", b"\x0a\x05a")), b"\x0b" * 5000])
def test_bytes_that_are_no_message_are_refused(data: bytes):
    with pytest.raises(ValueError):
        parse(data)
