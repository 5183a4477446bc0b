"""Many texts of one language as columns of characters and tokens: a rule is then a few numpy calls, not a loop.

Every text is encoded once, each character is looked up in one table of flags, each token is hashed by prefix sums. Rules
that need a regular expression run it on the few texts whose flags say that it could match.

Measured by bench/filter.py on one core: all text rules take 22 us a caption. Those other than language id and ftfy take 1/95
of the time of the same rules in datatrove 0.10.1, most of which goes into splitting words (spaCy, jieba); the rule on links,
which needs no words, takes 1/13.

Shapes: N texts, C characters (with a blank after every text), T tokens. Tokens are those of `language.tokens`: words
(letters and digits, inner apostrophes) and single Han or kana characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from m2raap.curate import language, mojibake

BLOCK = 4096  # most texts of one batch: their columns fit into the cache of a core
BLOCK_CHARS = 500_000  # a batch with more characters takes no further text
MAX_CHARS = 20_000  # characters of a text that are read; the rest of a longer one is ignored

HAN, KANA, LATIN, DIGIT, OTHER_LETTER, WORD = (1 << i for i in range(6))
BLANK, MESSY, SUSPECT, WIDE, LOST, RARE, TRADITIONAL = (1 << i for i in range(6, 13))
LINK_MARK, MACHINE_MARK, SEPARATOR, DOT, SLASH, APOSTROPHE, MARKUP, UNSEEN, ODD = (1 << i for i in range(13, 22))

_TABLE_END = 0x32000  # code points from here on are looked up as the last one of the table
_BASE = 0x9E3779B97F4A7C15  # base of the hashes; odd, so that it has an inverse modulo 2**64
_NUMBER = np.uint64(0x0123456789ABCDEF)  # the hash of every number where all numbers count as one


@lru_cache(maxsize=1)
def _flags() -> np.ndarray:
    """(code points,) uint32: the flags of every character."""
    table = np.zeros(_TABLE_END, np.uint32)
    chars = list(map(chr, range(_TABLE_END)))
    letters = np.fromiter(map(str.isalpha, chars), bool, _TABLE_END)
    table[np.fromiter(map(str.isalnum, chars), bool, _TABLE_END)] |= WORD
    table[np.fromiter(map(str.isdigit, chars), bool, _TABLE_END)] |= DIGIT
    table[np.fromiter(map(str.isspace, chars), bool, _TABLE_END)] |= MESSY
    joined = "".join(chars)
    table[0x20] = BLANK
    for flag, pattern in ((HAN, language.HAN), (KANA, language.KANA), (LATIN, language.LATIN), (SUSPECT, mojibake.SUSPECT),
                          (LOST, mojibake.LOST), (UNSEEN, language.INVISIBLE)):  # fmt: skip
        table[[match.start() for match in pattern.finditer(joined)]] |= flag
    table[letters & (table & (HAN | KANA | LATIN) == 0)] |= OTHER_LETTER
    table[list(mojibake.WIDE)] |= WIDE
    table[[i for i, c in enumerate(chars) if unicodedata.category(c) in ("Cc", "Cf")]] |= ODD
    table[[0x09, 0x0A, 0x0D]] &= ~np.uint32(ODD)
    for flag, marks in ((LINK_MARK, "@#\uff20\uff03"), (MACHINE_MARK, "_#/<["), (SEPARATOR, ",;|\uff0c\u3001\uff1b"),
                        (DOT, "."), (SLASH, "/"), (APOSTROPHE, "'\u2019"), (MARKUP, "<>[]{}$`|=")):  # fmt: skip
        table[[ord(c) for c in marks]] |= flag
    rare, traditional = mojibake.han_tables()
    table[rare] |= RARE
    table[traditional] |= TRADITIONAL
    table[-1] = ODD  # the last entry stands for all code points above: tags, variation selectors, private use
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def _mixed_lower() -> np.ndarray:
    """(code points,) uint64: a number for every character, the same for both its cases."""
    lower = [ord(low) if len(low := chr(code).lower()) == 1 else code for code in range(_TABLE_END)]
    table = np.array(lower, np.uint64)
    table[0x2019] = ord("'")
    return mix(table + np.uint64(1))


@lru_cache(maxsize=8)
def _powers(num: int) -> tuple[np.ndarray, np.ndarray]:
    """`num` powers of _BASE and of its inverse, modulo 2**64."""
    steps = np.ones((2, num), np.uint64)
    steps[0, 1:], steps[1, 1:] = _BASE, pow(_BASE, -1, 1 << 64)
    both = np.multiply.accumulate(steps, axis=1)
    return both[0], both[1]


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 -> well spread uint64 (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Columns:
    """N texts as flags of their characters (C) and hashes of their tokens (T); `text_of_T` says whose a token is."""

    def __init__(self, texts: Sequence[str]) -> None:
        lengths_N = np.fromiter(map(len, texts), np.int64, len(texts))
        self.num = len(texts)
        self.start_N = np.cumsum(lengths_N + 1) - lengths_N - 1
        joined = " ".join(texts) + " "
        self.codes_C = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
        self.flags_C = _flags()[np.minimum(self.codes_C, _TABLE_END - 1)]

    def count(self, flag: int) -> np.ndarray:
        """(N,) number of characters with any of the flags."""
        return self.sum_C((self.flags_C & flag) != 0)

    def sum_C(self, values_C: np.ndarray) -> np.ndarray:
        """(N,) sums over the characters of each text."""
        return np.add.reduceat(values_C, self.start_N, dtype=np.int32)

    def any_C(self, values_C: np.ndarray) -> np.ndarray:
        """(N,) whether any character of each text is set."""
        return np.logical_or.reduceat(values_C, self.start_N)

    def has(self, flag: int) -> np.ndarray:
        """(N,) whether any character has any of the flags."""
        return self.any_C((self.flags_C & flag) != 0)

    def followed(self, flag: int, by: int) -> np.ndarray:
        """(N,) whether a character with `flag` comes right before one with `by`."""
        return self.any_C(_before((self.flags_C & flag) != 0, (self.flags_C & by) != 0))

    @cached_property
    def _token_spans(self) -> tuple[np.ndarray, np.ndarray]:
        letters = (self.flags_C & WORD) != 0
        single = (self.flags_C & (HAN | KANA)) != 0
        word = letters & ~single
        inner = (self.flags_C & APOSTROPHE) != 0
        inner[0] = False
        inner[1:] &= word[:-1]
        word |= _before(inner, word)
        start = word.copy()
        start[1:] &= ~word[:-1]
        stop = word.copy()
        stop[:-1] &= ~word[1:]
        return np.flatnonzero(start | single), np.flatnonzero(stop | single) + 1

    @cached_property
    def first_token_N(self) -> np.ndarray:
        """(N + 1,) index of the first token of each text, and T at the end."""
        return np.append(np.searchsorted(self._token_spans[0], self.start_N), len(self._token_spans[0]))

    @cached_property
    def num_tokens_N(self) -> np.ndarray:
        """(N,) number of tokens of each text."""
        return np.diff(self.first_token_N)

    @cached_property
    def text_of_T(self) -> np.ndarray:
        """(T,) index of the text of each token."""
        return np.repeat(np.arange(self.num), self.num_tokens_N)

    @cached_property
    def length_T(self) -> np.ndarray:
        """(T,) characters of each token."""
        return self._token_spans[1] - self._token_spans[0]

    @cached_property
    def flags_T(self) -> np.ndarray:
        """Flags of the first character of each token."""
        return self.flags_C[self._token_spans[0]]

    @cached_property
    def hash_T(self) -> np.ndarray:
        """(T,) uint64 of the tokens in lower case: sum of mixed characters times powers of one base."""
        start, stop = self._token_spans
        letters = _mixed_lower()[np.minimum(self.codes_C, _TABLE_END - 1)]
        power, inverse = _powers(1 << max(10, len(letters).bit_length()))
        summed = np.zeros(len(letters) + 1, np.uint64)
        np.cumsum(letters * power[: len(letters)], out=summed[1:])
        return mix((summed[stop] - summed[start]) * inverse[start])

    @cached_property
    def bag_T(self) -> np.ndarray:
        """(T,) uint64 of the letters of each token in lower case, whatever their order."""
        start, stop = self._token_spans
        letters = _mixed_lower()[np.minimum(self.codes_C, _TABLE_END - 1)]
        summed = np.zeros(len(letters) + 1, np.uint64)
        np.cumsum(letters, out=summed[1:])
        return summed[stop] - summed[start]

    @cached_property
    def mixed_T(self) -> np.ndarray:
        """(T,) whether a token has both letters and digits."""
        start, stop = self._token_spans
        digits = np.concatenate([[0], np.cumsum((self.flags_C & DIGIT) != 0)])
        letters = np.concatenate([[0], np.cumsum((self.flags_C & LATIN) != 0)])
        return (digits[stop] > digits[start]) & (letters[stop] > letters[start])

    @cached_property
    def plain_T(self) -> np.ndarray:
        """(T,) hash_T, with one hash for all numbers."""
        return np.where(self.flags_T & DIGIT, _NUMBER, self.hash_T)

    @cached_property
    def pair_T(self) -> np.ndarray:
        """(T,) hashes of each token (numbers as one) with the next of its text; 0 for the last."""
        return self.shingles(2)

    def shingles(self, size: int) -> np.ndarray:
        """(T,) hashes of runs of `size` tokens (numbers as one) that start at each token; 0 where the text ends before."""
        hashes_T = self.plain_T.copy()
        for step in range(1, size):
            hashes_T[:-step] = mix(hashes_T[:-step] * np.uint64(3) + self.plain_T[step:])
        ends = self.first_token_N[1:][self.text_of_T]
        hashes_T[np.arange(len(hashes_T)) + size > ends] = 0
        return hashes_T

    def sum_T(self, values_T: np.ndarray) -> np.ndarray:
        """(N,) sums over the tokens of each text."""
        total = np.concatenate([np.zeros(1, values_T.dtype), np.cumsum(values_T)])
        return total[self.first_token_N[1:]] - total[self.first_token_N[:-1]]

    @cached_property
    def key_N(self) -> np.ndarray:
        """(N,) int64 of all tokens in order, numbers as one; what is between the tokens does not count."""
        at = np.arange(len(self.plain_T)) - self.first_token_N[:-1][self.text_of_T]
        weighted = self.plain_T * _powers(1 << 15)[0][at]
        return mix(self.sum_T(weighted) + self.num_tokens_N.astype(np.uint64)).view(np.int64)


def _before(flags: np.ndarray, next_flags: np.ndarray) -> np.ndarray:
    """Where `flags` holds and `next_flags` holds for the character right after."""
    both = flags.copy()
    both[:-1] &= next_flags[1:]
    both[-1] = False
    return both


class HashSet:
    """A set of words, or of runs of tokens, in which whole columns are looked up."""

    def __init__(self, hashes: Iterable[np.ndarray]) -> None:
        self._sorted = np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]))

    @classmethod
    def of_words(cls, words: Iterable[str]) -> HashSet:
        """The set of `words`, each of which is a single token."""
        return cls([Columns(list(words)).hash_T])

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """(T,) whether each of the hashes is in the set."""
        if not len(self._sorted):
            return np.zeros(len(hashes), bool)
        at = np.searchsorted(self._sorted, hashes)
        return self._sorted[np.minimum(at, len(self._sorted) - 1)] == hashes


class TextBatch:
    """The input of a rule: N texts of one language, unchanged (`raw`) and repaired (`texts`), with the columns of both."""

    def __init__(self, raw: Sequence[str], lang: str) -> None:
        """Raises M2raapError for a language outside en, zh."""
        language.check_lang(lang)
        self.lang = lang
        self.raw = [text[:MAX_CHARS] for text in raw]
        self.raw_columns = Columns(self.raw)
        messy = needs_repair(self.raw_columns)
        self.texts = self.raw
        self.columns = self.raw_columns
        if messy.any():
            self.texts = [mojibake.repair(t) if flag else t for t, flag in zip(self.raw, messy.tolist(), strict=True)]
            self.columns = Columns(self.texts)

    @property
    def num(self) -> int:
        """Number of texts."""
        return len(self.raw)

    def where(
        self, mask_N: np.ndarray, score: Callable[[str], float], otherwise: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """(N,) `score` of the texts in the mask, `otherwise` for the rest."""
        scores_N = np.zeros(self.num) + otherwise
        for at in np.flatnonzero(mask_N).tolist():
            scores_N[at] = score(self.texts[at])
        return scores_N


def needs_repair(columns: Columns) -> np.ndarray:
    """(N,) texts that `mojibake.repair` may change."""
    flags = columns.flags_C
    blank = (flags & BLANK) != 0
    first = np.zeros(len(blank), bool)
    first[columns.start_N] = True
    rough = (flags & (MESSY | SUSPECT | WIDE | UNSEEN)) != 0
    rough |= _before(blank, blank & ~first) | (blank & first)
    return columns.any_C(rough) | (columns.count(RARE) > mojibake.MANY_RARE * np.maximum(columns.count(HAN), 1))


def blocks(texts: Sequence[str]) -> Iterable[slice]:
    """Slices of at most BLOCK texts, fewer where they are long."""
    start = chars = 0
    for at, text in enumerate(texts):
        if at - start == BLOCK or chars > BLOCK_CHARS:
            yield slice(start, at)
            start, chars = at, 0
        chars += min(len(text), MAX_CHARS)
    if start < len(texts):
        yield slice(start, len(texts))
