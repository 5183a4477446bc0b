from __future__ import annotations

from tests.pages import ROOT, commands, parse


def test_commands_of_the_page_are_real() -> None:
    assert [parse(words)[-1] for words in commands("docs/search.md")] == [
        "index", "query", "query", "serve", "fit", "apply", "index", "query", "query",
    ]  # fmt: skip


def test_pictures_are_there_and_small() -> None:
    for name in ("search-desktop.jpg", "search-phone.jpg"):
        data = (ROOT / "docs" / name).read_bytes()
        assert data[:2] == b"\xff\xd8" and len(data) < 150_000
