"""Numbers in English and Chinese captions: numerals, number words, 三十五. Words that may be no number are returned apart."""

from __future__ import annotations

import re

from m2raap.curate import language

_SPELLED = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_UNITS = {word: value for value, word in enumerate(_SPELLED)}
_TENS_SPELLED = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 10 * value for value, word in enumerate(_TENS_SPELLED, 2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "dozen": 12}
# These words can match a number of the other text, but a faithful text need not repeat them.
_MAYBE_EN = {
    "a": 1, "an": 1, "another": 1, "single": 1, "first": 1, "once": 1, "alone": 1, "second": 2, "twice": 2, "double": 2,
    "pair": 2, "couple": 2, "both": 2, "twin": 2, "twins": 2, "duo": 2, "third": 3, "triple": 3, "trio": 3,
    "fourth": 4, "quartet": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "zero": 0,
}  # fmt: skip
_HAN_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2, "俩": 2, "仨": 3}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000}
_HAN_NUMBER = re.compile("[零〇一二两兩三四五六七八九十百千万萬亿億]+")
_MAYBE_ZH = {"单": 1, "独": 1, "首": 1, "双": 2, "雙": 2, "对": 2, "對": 2, "俩": 2, "副": 2, "仨": 3, "半": 0}
# A Chinese numeral counts something only before a measure word; elsewhere it is part of a word (三角形, 十字, 四川).
_MEASURE = (
    "个個只隻条條名位张張头頭匹辆輛架艘本朵棵颗顆块塊片群次遍圈天年月日岁歲点點分秒米里种種座间間层層件把根瓶杯碗盘"
    "盤袋箱盒首幅台部辈枝支束串堆排行列队隊组組家所双雙对對副套人口公厘英元美度号號届级級步声聲页頁节節支队男女"
)
_MAX_HAN_DIGITS = 12  # characters of the longest run that is read as a number
_NUMERALS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)?")


def numbers_in(text: str, words: list[str]) -> tuple[set[float], set[float]]:
    """(values that the text states, values that its ambiguous words may stand for). `words`: language.tokens of the text."""
    digits, rest = _digits(text)
    han, maybe_han = _han_numbers(rest) if language.HAN.search(text) else (set[float](), set[float]())
    spelled, maybe = _spelled(words)
    return digits | han | spelled, maybe_han | maybe


def _digits(text: str) -> tuple[set[float], str]:
    """Values of numerals, and the text without them. Digits of an identifier (4K, H264) are no number."""
    values = set()
    for match in _NUMERALS.finditer(text):
        before = text[match.start() - 1 : match.start()]
        after = text[match.end() : match.end() + 1]
        latin_before = before.isascii() and before.isalpha()
        if latin_before or (after.isascii() and after.isalpha() and not _is_ordinal(text, match.end())):
            continue
        values.add(float(match.group().replace(",", "")))
    return values, _NUMERALS.sub(" ", text)


def _is_ordinal(text: str, at: int) -> bool:
    return re.match(r"(?:st|nd|rd|th)\b", text[at:], re.IGNORECASE) is not None


def _spelled(words: list[str]) -> tuple[set[float], set[float]]:
    sure: set[float] = set()
    maybe: set[float] = {float(_MAYBE_EN[w]) for w in words if w in _MAYBE_EN}
    at = 0
    while at < len(words):
        value, used = _one_spelled(words, at)
        if used:
            (maybe if value == 1 else sure).add(float(value))  # 'one' is a pronoun as often as a number
        at += used or 1
    return sure, maybe


def _one_spelled(words: list[str], at: int) -> tuple[int, int]:
    """(value, words used) of the longest number at `at`: twenty five, two hundred and six, a dozen."""
    value = used = 0
    while at + used < len(words):
        word = words[at + used]
        if word in _TENS:
            value += _TENS[word]
        elif word in _UNITS and (
            not used or words[at + used - 1] in _TENS or words[at + used - 1] in ("hundred", "and")
        ):
            value += _UNITS[word]
        elif word in _SCALES:
            value = max(value, 1) * _SCALES[word]
        elif word == "and" and used and words[at + used - 1] in _SCALES and at + used + 1 < len(words):
            following = words[at + used + 1]
            if following not in _UNITS and following not in _TENS:
                break
        else:
            break
        used += 1
    return value, used


def _han_numbers(text: str) -> tuple[set[float], set[float]]:
    sure: set[float] = set()
    maybe: set[float] = {float(_MAYBE_ZH[c]) for c in text if c in _MAYBE_ZH}
    for match in _HAN_NUMBER.finditer(text):
        if len(match.group()) > _MAX_HAN_DIGITS:
            continue
        value = _han_value(match.group())
        after, before = text[match.end() : match.end() + 1], text[match.start() - 1 : match.start()]
        counted = after != "" and after in _MEASURE and before != "第" and value != 1
        (sure if counted else maybe).add(float(value))
    return sure, maybe


def _han_value(text: str) -> int:
    """三十五 -> 35, 两百 -> 200, 一万二千 -> 12000, 二〇二四 -> 2024."""
    if all(c in _HAN_DIGITS for c in text) and len(text) > 1:
        return int("".join(str(_HAN_DIGITS[c]) for c in text))
    total = section = digit = 0
    for char in text:
        if char in _HAN_DIGITS:
            digit = _HAN_DIGITS[char]
        elif char in _HAN_SCALES:
            section += (digit or 1) * _HAN_SCALES[char]
            digit = 0
        else:
            scale = 10_000 if char in "万萬" else 100_000_000
            total += (section + digit or 1) * scale
            section = digit = 0
    return total + section + digit
