"""Stock phrases, and which tokens of a text they cover. The list is data in the package (assets/words/boilerplate.txt).

A line that starts with ! is a phrase that holds a stock phrase and is none ("video game").
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from m2raap.curate import language
from m2raap.curate.columns import Columns, HashSet

_NUMBER = "<n>"
JOINS = frozenset({"of", "showing", "featuring", "shows"})  # between a stock phrase and its object: "footage of a dog"
# Function words that belong to the stock phrases on both sides of them.
_SMALL = frozenset(
    {
        "a", "all", "an", "and", "are", "by", "for", "from", "in", "is", "it", "me", "my", "of", "on", "only",
        "or", "our", "the", "this", "to", "us", "with", "you", "your",
    }
)  # fmt: skip


@lru_cache(maxsize=1)
def _index() -> dict[str, list[tuple[bool, tuple[str, ...]]]]:
    """First token -> (is stock, phrase as tokens), longest first."""
    lines = resources.files("m2raap").joinpath("assets/words/boilerplate.txt").read_text(encoding="utf-8").splitlines()
    index: dict[str, list[tuple[bool, tuple[str, ...]]]] = {}
    for line in sorted({line.strip() for line in lines} - {""}):
        if line.startswith("#"):
            continue
        # A letter replaces the number while the line is split into tokens, so that "<n>p" stays one token.
        phrase = tuple(t.replace("\u01c2", _NUMBER) for t in language.tokens(line.replace(_NUMBER, "\u01c2")))
        start = _NUMBER if phrase[0].startswith(_NUMBER) else phrase[0]
        index.setdefault(start, []).append((not line.startswith("!"), phrase))
    for phrases in index.values():
        phrases.sort(key=lambda p: (-len(p[1]), p[1]))
    return index


@lru_cache(maxsize=1)
def first_tokens() -> tuple[HashSet, HashSet]:
    """Hashes of one-word phrases, and of the first two words of longer ones. A text without any of these has no stock phrase."""
    stock = [phrase for phrases in _index().values() for is_stock, phrase in phrases if is_stock]
    plain = [" ".join("1" if token.startswith(_NUMBER) else token for token in phrase) for phrase in stock]
    columns = Columns(plain)
    first = columns.first_token_N[:-1]
    single = columns.num_tokens_N == 1
    return HashSet([columns.plain_T[first[single]]]), HashSet([columns.pair_T[first[~single]]])


def _same(token: str, pattern: str) -> bool:
    if token == pattern:
        return True
    if not pattern.startswith(_NUMBER):
        return False
    unit = pattern.removeprefix(_NUMBER)
    return token.endswith(unit) and token.removesuffix(unit).isdigit() if unit else token.isdigit()


def is_serial(token: str) -> bool:
    """True for a number that is taken as a serial number: three digits or more, or a leading zero."""
    return token.isdigit() and (len(token) >= 3 or token.startswith("0"))


def covered(tokens: list[str]) -> list[bool]:
    """Whether a stock phrase covers each token (the longest phrase first, left to right)."""
    index, flags, at = _index(), [False] * len(tokens), 0
    while at < len(tokens):
        candidates = index.get(tokens[at], [])
        if tokens[at][:1].isdigit():
            candidates = candidates + index.get(_NUMBER, [])
        for is_stock, phrase in candidates:
            part = tokens[at : at + len(phrase)]
            if len(part) == len(phrase) and all(map(_same, part, phrase)):
                flags[at : at + len(phrase)] = [is_stock] * len(phrase)
                at += len(phrase)
                break
        else:
            at += 1
    return flags


def share(text: str) -> float:
    """0..1: share of the text that stock phrases cover (a word counts 1, a Han character 0.5).

    Up to three function words between two stock phrases ("subscribe to my channel", "download for free") belong to them.
    """
    tokens = language.tokens(text)
    flags = covered(tokens)
    last = -1
    for at in [i for i, flag in enumerate(flags) if flag]:
        gap = tokens[last + 1 : at]
        if last >= 0 and len(gap) <= 3 and all(w in _SMALL for w in gap):
            flags[last + 1 : at] = [True] * len(gap)
        last = at
    weights = [language.weight(t) for t in tokens]
    total = sum(weights)
    return sum(w for w, flag in zip(weights, flags, strict=True) if flag) / total if total else 0.0
