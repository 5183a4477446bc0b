from __future__ import annotations

import pytest

from m2raap.search.connections import Unsatisfiable, byte_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None), ("", None), ("bytes=-", None), ("bytes=5-2", None), ("items=0-1", None), ("bytes=0-1,4-5", None),
        ("bytes=0-0", (0, 0)), ("bytes=0-", (0, 99)), ("bytes=10-19", (10, 19)), ("bytes=90-500", (90, 99)),
        ("bytes=-5", (95, 99)), ("bytes=-500", (0, 99)), (" bytes=99-99 ", (99, 99)), ("bytes=1e2-", None),
    ],
)  # fmt: skip
def test_ranges_of_a_hundred_bytes(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == expected


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-1", 0)])
def test_ranges_with_nothing_in_them(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        byte_range(header, size)
