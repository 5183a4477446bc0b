"""Archives are written by Python's tarfile, and by hand where it refuses to write what an attacker would."""

import bz2
import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.safe_tar import BLOCK, TarLimits, read_members
from m2raap.core.errors import M2raapError

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def forged(data: bytes, offset: int, value: bytes) -> bytes:
    """The archive with bytes of its first header replaced, and a checksum that fits."""
    head = bytearray(data[:BLOCK])
    head[offset : offset + len(value)] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[BLOCK:]


def members(folder: Path, data: bytes, limits: TarLimits | None = None) -> dict[str, bytes]:
    path = folder / "shard.tar"
    path.write_bytes(data)
    return {member.name: member.read(2**20) for member in read_members(path, limits)}


names = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=60),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(names, min_size=1, max_size=4), content=st.binary(max_size=1500), form=st.sampled_from(FORMATS[1:])
)
def test_what_tarfile_writes_is_read(parts: list[list[str]], content: bytes, form: int, tmp_path_factory):
    found = {
        "/".join(part.replace("/", "_").replace("\\", "_").replace(":", "_") for part in path): content
        for path in parts
    }
    found = {name: data for name, data in found.items() if not {".", ".."} & set(name.split("/"))}
    data = tar_of(*found.items(), form=form)
    assert members(tmp_path_factory.getbasetemp(), data) == found


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_ends_in_a_sentence(data, tmp_path_factory):
    whole = tar_of(
        ("a.mp4", b"video" * 300), ("n" * 150 + ".txt", b"text"), form=data.draw(st.sampled_from(FORMATS[1:]))
    )
    if data.draw(st.booleans()):
        whole = gzip.compress(whole)
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        members(tmp_path_factory.getbasetemp(), bytes(broken[: data.draw(st.integers(0, len(broken)))]))
    except M2raapError as error:
        assert "shard.tar" in str(error)


@pytest.mark.parametrize("form", FORMATS)
def test_long_names_and_folders(tmp_path: Path, form: int):
    name = "/".join(["folder" * 5] * 4) + "/clip.mp4"
    data = tar_of(special("folder", tarfile.DIRTYPE), (name, b"abc"), form=form)
    assert members(tmp_path, data) == {name: b"abc"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar_of(special("a.mp4", tarfile.SYMTYPE, "/etc/passwd")), "'a.mp4' is a symbolic link"),
        (tar_of(special("a.mp4", tarfile.LNKTYPE, "b.mp4")), "'a.mp4' is a hard link"),
        (tar_of(special("a.mp4", tarfile.CHRTYPE)), "'a.mp4' is a device"),
        (tar_of(special("a.mp4", tarfile.BLKTYPE)), "'a.mp4' is a device"),
        (tar_of(special("a.mp4", tarfile.FIFOTYPE)), "'a.mp4' is a pipe"),
        (tar_of(special("a.mp4", tarfile.GNUTYPE_SPARSE)), "'a.mp4' is sparse"),
        (tar_of(special("a.mp4", b"Z")), "of the unknown kind b'Z'"),
        (tar_of(("../a.mp4", b"")), "is absolute or holds '..'"),
        (tar_of(("a/../../b.mp4", b"")), "is absolute or holds '..'"),
        (forged(tar_of(("xetc/a.mp4", b"")), 0, b"/"), "is absolute or holds '..'"),
        (tar_of(("C:\\a.mp4", b"")), "is absolute or holds '..'"),
        (tar_of(("a\nb.mp4", b"")), "cannot be a member's name"),
        (forged(tar_of(("a.mp4", b"")), 0, b"\xff\xfe"), "is not UTF-8"),
        (forged(tar_of(("a.mp4", b"")), 124, b"7" * 11 + b"\0"), "announces 8,589,934,591 bytes"),
        (forged(tar_of(("a.mp4", b"")), 124, b"\x80" + b"\x7f" * 11), r"announces [\d,]+ bytes"),
        (forged(tar_of(("a.mp4", b"")), 124, b"-0000000001\0"), "no valid size"),
        (forged(tar_of(("n" * 150, b"")), 124, b"00010000000\0"), "a name of 2,097,152 bytes"),
        (tar_of(("a.mp4", b"x" * 5000))[:3000], "cut short"),
        (tar_of(("a.mp4", b"x" * 5000))[:700], "cut short"),
        (gzip.compress(tar_of(("a.mp4", os.urandom(5000))))[:3000], "gzip file is cut short"),
        (b"<html>" + b" " * 1000, "is no tar archive"),
        (b"\x80\x04K\x01.", "is no tar archive"),
        (bz2.compress(b"a"), "packed with bzip2"),
        (tar_of(("a.mp4", b""))[: 2 * BLOCK] + b"y" * BLOCK, "data after its end"),
        (tar_of(("a.mp4", b"")) + tar_of(("b.mp4", b"")), "data after its end"),
    ],
)
def test_hostile_and_broken_archives(tmp_path: Path, data: bytes, message: str):
    limits = TarLimits(max_member_bytes=10**9)
    with pytest.raises(M2raapError, match=message):
        members(tmp_path, data, limits)


def test_limits_of_members_bytes_and_growth(tmp_path: Path):
    many = tar_of(*((f"{i}.txt", b"abcd") for i in range(10)))
    assert len(members(tmp_path, many, TarLimits(max_members=10))) == 10
    with pytest.raises(M2raapError, match="more than 9 members"):
        members(tmp_path, many, TarLimits(max_members=9))
    with pytest.raises(M2raapError, match=r"'2.txt' announces 4 bytes \(12 with those before it\)"):
        members(tmp_path, many, TarLimits(max_total_bytes=11))
    bomb = gzip.compress(tar_of(("a.mp4", b"\0" * 60_000_000)))
    with pytest.raises(M2raapError, match="far more than its size"):
        path = tmp_path / "bomb.tar.gz"
        path.write_bytes(bomb)
        for member in read_members(path):
            assert sum(map(len, member.chunks())) < 10_000_000


def test_a_member_is_read_in_pieces_or_skipped(tmp_path: Path):
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_of(("a.mp4", b"a" * 3000), ("b.mp4", b"b" * 3000)))
    first, second = (m.name if m.name == "a.mp4" else [len(c) for c in m.chunks(1024)] for m in read_members(path))
    assert (first, second) == ("a.mp4", [1024, 1024, 952])
    with pytest.raises(M2raapError, match="'a.mp4' has 3,000 bytes, at most 100 are read"):
        next(read_members(path)).read(100)
