"""Text that a wrong encoding broke: repair what can be repaired, measure what is left."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from m2raap.curate import language

# Full-width letters and digits, and the ideographic blank. Full-width punctuation is right in Chinese.
_WIDE = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))} | {
    0x3000: 0x20
}
# Characters without which ftfy has nothing to do: HTML entities, Latin-1 and its neighbours, ligatures, full-width
# forms stay as they are, U+FFFD.
_SUSPECT = re.compile("[&\u0080-\u024f\u0370-\u03ff\u02c6-\u02dd\u2010-\u2122\ufb00-\ufb06\ufffd]")
_LOST = re.compile("[\ufffd\ue000-\uf8ff\u0080-\u009f]")
# Accented Latin letters right beside Han ones: the rest of a half-repaired text.
_RESIDUE = re.compile(
    "(?<=[\u4e00-\u9fff])[\u00a1-\u00ff\u0152-\u017e]|[\u00a1-\u00ff\u0152-\u017e](?=[\u4e00-\u9fff])"
)


@lru_cache(maxsize=1)
def _ftfy() -> tuple[Any, Any]:
    import ftfy

    # Quotes and full-width Chinese punctuation are no faults.
    return ftfy, ftfy.TextFixerConfig(uncurl_quotes=False, fix_character_width=False)


def repair(text: str) -> str:
    """`text` with broken encodings undone (ftfy; UTF-8 that was read as GBK), letters and digits in half
    width, invisible characters taken out."""
    if not text.isascii():
        text = text.translate(_WIDE)
    if _SUSPECT.search(text):
        ftfy, config = _ftfy()
        text = ftfy.fix_text(text, config)
    text = language.visible(text)
    if not text.isascii() and rare_han_share(text) > 0.2:
        text = _utf8_read_as_gbk(text) or text
    return text


def rare_han_share(text: str) -> float:
    """Share of the Han characters outside the 3,755 common ones (GB2312 level 1), as simplified characters."""
    han = language.HAN.findall(text)
    if not han:
        return 0.0
    rare = sum(map(_is_rare, han))
    if rare / len(han) > 0.2:  # many may be traditional characters: only then is the converter worth its time
        rare = sum(map(_is_rare, _simplifier().convert("".join(han))))
    return min(1.0, rare / len(han))


@lru_cache(maxsize=1)
def _simplifier() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


def to_simplified(text: str) -> str:
    """Traditional characters as simplified ones (OpenCC t2s)."""
    return _simplifier().convert(text)


@lru_cache(maxsize=1 << 15)
def _is_rare(char: str) -> bool:
    try:
        return not 0xB0 <= char.encode("gb2312")[0] <= 0xD7
    except UnicodeEncodeError:
        return True


def _utf8_read_as_gbk(text: str) -> str | None:
    """The text whose UTF-8 bytes were read as GBK to give `text`, or None. Only if no byte was lost."""
    try:
        fixed = text.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return None
    return fixed if rare_han_share(fixed) < 0.2 and not language.KANA.search(fixed) else None


def broken_share(repaired: str) -> float:
    """0..1: share of a text's characters that are broken beyond repair. Give it the output of `repair`."""
    chars = len(repaired) - repaired.count(" ")
    if not chars or repaired.isascii():
        return 0.0
    # A lost character took its word with it, and often its neighbours.
    broken = 3.0 * (len(_LOST.findall(repaired)) + len(_RESIDUE.findall(repaired)))
    if _SUSPECT.search(repaired):
        from ftfy.badness import badness

        broken += 2.0 * badness(repaired)
    han = len(language.HAN.findall(repaired))
    rare = rare_han_share(repaired) if han >= 4 else 0.0
    if rare > 0.4:  # Chinese text has few rare characters; UTF-8 read as GBK is full of them
        broken += rare * han
    return min(1.0, broken / chars)
