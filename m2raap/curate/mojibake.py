"""Texts that a wrong encoding broke: `repair` them, and measure what stays broken."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from m2raap.curate import language

# Full-width letters and digits, and the ideographic blank -> ordinary ones. Full-width punctuation is correct in Chinese.
WIDE = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))} | {
    0x3000: 0x20
}
# ftfy is called only for texts with one of these: HTML entities, Latin-1 and its neighbours, Greek, ligatures, U+FFFD.
# Typographic quotes and dashes alone are no sign of a fault; full-width forms stay as they are.
SUSPECT = re.compile("[&\u0080-\u024f\u0370-\u03ff\u02c6-\u02dd\ufb00-\ufb06\ufffd]")
LOST = re.compile("[\ufffd\ue000-\uf8ff\u0080-\u009f]")
# Accented Latin letters right beside Han characters are left over where a repair was incomplete.
_RESIDUE = re.compile(
    "(?<=[\u4e00-\u9fff])[\u00a1-\u00ff\u0152-\u017e]|[\u00a1-\u00ff\u0152-\u017e](?=[\u4e00-\u9fff])"
)


@lru_cache(maxsize=1)
def fixer() -> tuple[Any, Any]:
    """The module ftfy, and the configuration with which `repair` calls it."""
    import ftfy

    # Quotes and full-width Chinese punctuation are no faults.
    return ftfy, ftfy.TextFixerConfig(uncurl_quotes=False, fix_character_width=False)


def repair(text: str) -> str:
    """`text` with broken encodings undone (ftfy; UTF-8 that was read as GBK), letters and digits in half
    width, invisible characters taken out."""
    if not text.isascii():
        text = text.translate(WIDE)
    if SUSPECT.search(text):
        ftfy, config = fixer()
        text = ftfy.fix_text(text, config)
    text = language.visible(text)
    if not text.isascii() and rare_han_share(text) > MANY_RARE:
        text = _utf8_read_as_gbk(text) or text
    return text


MANY_RARE = 0.2  # a share of rare characters that Chinese text does not reach, and UTF-8 that is read as GBK does


def rare_han_share(text: str) -> float:
    """Share of the Han characters outside the 3,755 common ones (GB2312 level 1), as simplified characters."""
    han = language.HAN.findall(text)
    return sum(map(_rare_han().__contains__, han)) / len(han) if han else 0.0


@lru_cache(maxsize=1)
def _rare_han() -> frozenset[str]:
    return frozenset(map(chr, han_tables()[0]))


@lru_cache(maxsize=1)
def han_tables() -> tuple[list[int], list[int]]:
    """Code points of the rare Han characters and of the traditional ones, each judged alone: a character is rare if its
    simplified form is outside the 3,755 common ones of GB2312 level 1, and traditional if it has another form."""
    common = {bytes([row, cell]).decode("gb2312") for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)
              if (row, cell) < (0xD7, 0xFA)}  # fmt: skip
    han = [chr(code) for code in range(0x3007, 0x31350) if language.HAN.match(chr(code))]
    forms = to_simplified("\n".join(han)).split("\n")
    assert len(forms) == len(han), "each character alone gives one form"
    rare = [ord(char) for char, form in zip(han, forms, strict=True) if form not in common]
    return rare, [ord(char) for char, form in zip(han, forms, strict=True) if form != char]


@lru_cache(maxsize=2)
def _converter(way: str) -> Any:
    from opencc import OpenCC

    return OpenCC(way)


def to_simplified(text: str) -> str:
    """Traditional characters as simplified ones (OpenCC t2s)."""
    return _converter("t2s").convert(text)


def to_traditional(text: str) -> str:
    """Simplified characters as traditional ones (OpenCC s2t)."""
    return _converter("s2t").convert(text)


def _utf8_read_as_gbk(text: str) -> str | None:
    """The text whose UTF-8 bytes were read as GBK to give `text`, or None. Only if no byte was lost."""
    try:
        fixed = text.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return None
    return fixed if rare_han_share(fixed) < MANY_RARE and not language.KANA.search(fixed) else None


def broken_share(repaired: str) -> float:
    """0..1: share of a text's characters that are broken beyond repair. Give it the output of `repair`."""
    chars = len(repaired) - repaired.count(" ")
    if not chars or repaired.isascii():
        return 0.0
    # A lost character counts three times, because its word and often the words beside it are lost too.
    broken = 3.0 * (len(LOST.findall(repaired)) + len(_RESIDUE.findall(repaired)))
    if SUSPECT.search(repaired):
        from ftfy.badness import badness

        broken += 2.0 * badness(repaired)
    han = len(language.HAN.findall(repaired))
    rare = rare_han_share(repaired) if han >= 4 else 0.0
    if rare > 2 * MANY_RARE:
        broken += rare * han
    return min(1.0, broken / chars)
