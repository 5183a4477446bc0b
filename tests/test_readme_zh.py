"""README.zh.md says what README.md says: the same code, the same names, the same figures, table by table."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
EN, ZH = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
FENCE = re.compile(r"^```\w*\n.*?^```$", re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return FENCE.sub("", text)


def missing(pattern: str) -> dict[str, set[str]]:
    """What the one page has and the other lacks."""
    here, there = ({" ".join(name.split()) for name in re.findall(pattern, prose(text))} for text in (EN, ZH))
    return {"only in README.md": here - there, "only in README.zh.md": there - here}


def test_both_hold_the_same_code() -> None:
    for number, (one, other) in enumerate(zip(FENCE.findall(EN), FENCE.findall(ZH), strict=True)):
        assert one == other, f"code block {number}"


def test_both_hold_the_same_names_and_links() -> None:
    same: dict[str, set[str]] = {"only in README.md": set(), "only in README.zh.md": set()}
    assert missing(r"`([^`\n]+(?:\n[^`\n]+)?)`") == same
    assert missing(r"\]\(((?:https?://|docs/)[^)]+)\)") == same


def test_both_hold_the_same_sections_tables_and_figures() -> None:
    for mark in (r"^#+ ", r"^- ", r"^\d\. "):
        assert len(re.findall(mark, EN, re.MULTILINE)) == len(re.findall(mark, ZH, re.MULTILINE)), mark
    rows = [re.findall(r"^\|.*\|$", prose(text), re.MULTILINE) for text in (EN, ZH)]
    for one, other in zip(*rows, strict=True):
        assert one.count("|") == other.count("|") and figures(one) == figures(other), other
    paragraphs = [sorted(figures(prose(text))) for text in (EN, ZH)]
    assert paragraphs[0] == paragraphs[1]


def figures(text: str) -> list[str]:
    return re.findall(r"[+-]?\d[\d,]*\.\d+|\d+,\d{3}", text)


def test_the_chinese_page_is_chinese() -> None:
    text = re.sub(r"`[^`]*`|\([^)]*\)", "", prose(ZH))
    paragraphs = [p for p in re.split(r"\n\s*\n", text) if len(p) > 80 and not p.startswith("|")]
    assert len(paragraphs) > 15
    assert all(len(re.findall("[一-鿿]", p)) > 0.3 * len(p.replace(" ", "")) for p in paragraphs)
