"""Phrases of a text, and the tokens that they cover.

English: runs of 1 to 4 words between function words and punctuation. Chinese: runs of 2 to 4 characters between function
words and punctuation; no segmenter is asked, so that a model reads the same phrases on every machine.
N texts, L tokens, X phrases of a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

MOST_UNITS = 4  # words, or Chinese characters
Span = tuple[int, int]  # start, and stop behind the last

_HAN = r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_LETTER = rf"(?!{_HAN})[^\W_]"
_WORD = re.compile(rf"(?P<han>{_HAN}+)|(?P<word>(?:{_LETTER})(?:{_LETTER}|['’](?={_LETTER}))*)")
_BETWEEN = re.compile(r"[\s\-]*")  # what may stand between two words of one phrase
_ENGLISH = frozenset(
    re.split(
        r"\s+",
        """a an the and or but nor so yet of to in on at by for with from into onto over under about after before then while as
        is are was were be been being am do does did has have had will would can could may might must shall should it its it's
        he she they them his her their hers theirs him i me my we us our you your this that these those there here who whom
        whose which what when where how than if because until during between through up down out off again some any""",
    )
)
_CHINESE = re.compile(
    "然后|之后|之前|接着|随后|正在|一个|一只|一位|一名|一些|这个|那个|以及|并且|他们|她们|它们|我们|你们|"
    "[的了着过地得在和与及或是有被把从向对到于而则并也都就还又再很这那其之个们他她它我你]"
)


def phrase_spans(text: str) -> list[Span]:
    """The phrases of a text as spans of characters, in order, without overlap. A text of function words alone has none."""
    return [span for run, is_han in _runs(text) for span in _cut(run, 2 if is_han else 1)]


def _runs(text: str) -> Iterator[tuple[list[Span], bool]]:
    """Runs of words, or of single Chinese characters, between which no function word and no punctuation stands; which it is."""
    run: list[Span] = []
    was_han = False
    for unit, is_han in _units(text):
        gap = text[run[-1][1] : unit[0]] if run else ""
        if run and (is_han != was_han or not _BETWEEN.fullmatch(gap) or (is_han and gap)):
            yield run, was_han
            run = []
        was_han = is_han
        if is_han or text[unit[0] : unit[1]].lower() not in _ENGLISH:
            run.append(unit)
        elif run:
            yield run, was_han
            run = []
    if run:
        yield run, was_han


def _units(text: str) -> Iterator[tuple[Span, bool]]:
    """Words, and Chinese characters without function words; whether they are Chinese."""
    for match in _WORD.finditer(text):
        if match["word"]:
            yield match.span(), False
            continue
        start = match.start()
        hidden = {start + at for word in _CHINESE.finditer(match["han"]) for at in range(*word.span())}
        for at in range(start, match.end()):
            if at not in hidden:
                yield (at, at + 1), True


def _cut(run: list[Span], step: int) -> list[Span]:
    """A run in the fewest pieces of 4 at most, of nearly equal length, cut at multiples of `step`.

    Most Chinese words have two characters: fewer of them are cut through at even places.
    """
    pieces = -(-len(run) // MOST_UNITS)
    bounds = [0, *(step * round(len(run) * piece / pieces / step) for piece in range(1, pieces)), len(run)]
    return [(run[first][0], run[last - 1][1]) for first, last in pairwise(bounds)]


def token_spans(texts: Sequence[str], tokenize: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """Spans (N, X, 2) of the tokens of each text's phrases, int64: the first token, and one behind the last.

    A phrase starts where the tokens of the text up to it end, so that every tokenizer will do. Phrases that were cut off are
    left out; rows are filled up with empty spans (0, 0). Every text has at least one phrase: where there is none, all its
    tokens between those of the start and the end are one, and of an empty text the first token.
    """
    by_text = [phrase_spans(text) for text in texts]
    cuts = [sorted({cut for span in spans for cut in span}) for spans in by_text]
    prefixes = [text[:cut] for text, places in zip(texts, cuts, strict=True) for cut in places]
    ids_NL, prefix_ids = _ids(texts, tokenize), _ids(prefixes, tokenize)
    empty = _ids([""], tokenize)[0] if len(texts) else np.zeros(0, np.int64)
    rows: list[list[Span]] = []
    done = 0
    for spans, places, ids in zip(by_text, cuts, ids_NL, strict=True):
        first, stop = _content(ids, empty)
        token_at = {place: _common(prefix_ids[done + at], ids) for at, place in enumerate(places)}
        done += len(places)
        tokens = [(max(token_at[start], first), min(token_at[end], stop)) for start, end in spans]
        row = [span for span in tokens if span[0] < span[1]]
        rows.append(row or [(first, stop) if first < stop else (0, 1)])
    spans_NX2 = torch.zeros(len(rows), max(map(len, rows), default=1), 2, dtype=torch.long)
    for number, row in enumerate(rows):
        spans_NX2[number, : len(row)] = torch.tensor(row)
    return spans_NX2


def _ids(texts: Sequence[str], tokenize: Callable[[Sequence[str]], Tensor]) -> np.ndarray:
    blocks = [tokenize(texts[start : start + 4096]).numpy() for start in range(0, len(texts), 4096)]
    return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.int64)


def _common(prefix_L: np.ndarray, ids_L: np.ndarray) -> int:
    """The number of tokens at the start that both have. The end token of a prefix differs from what follows in the text."""
    differing = np.flatnonzero(prefix_L != ids_L)
    return int(differing[0]) if len(differing) else len(ids_L)


def _content(ids_L: np.ndarray, empty_L: np.ndarray) -> Span:
    """The tokens of a text without those that an empty text has, too: start, end and padding."""
    inside = np.flatnonzero(~np.isin(ids_L, empty_L))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
