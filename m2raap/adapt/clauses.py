"""The two events of a caption in order of time, by rules over its words, in English and Chinese.

    'A, then B'   'A before B'   'before B, A'   '先A，再B'   'A之后，B'   'B之前，A'   all give (A, B)
    'B after A'   'after A, B'   'once A, B'                                          too

A caption is split only where exactly one marker of order is in it and both events have words: the rules rather miss a caption
than split it wrongly. They know no grammar: whether 'before ...' is an event ('before the dog barks') or a place ('before the
camera') is decided by whether a word of it looks like a verb.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from m2raap.adapt.clause_markers import (
    AUXILIARIES,
    DETERMINERS,
    EN_MARKERS,
    EN_OPENER,
    EN_SETTING,
    JOINERS,
    MODIFIERS,
    NOT_VERBS,
    PREPOSITIONS,
    PRONOUNS,
    START_IS_LOWERED,
    VERB_FORM,
    VERBS,
    ZH_ASPECT,
    ZH_MARKERS,
    ZH_OPENER,
    ZH_SETTING,
    ZH_THEN_BEHIND_OPENER,
    Markers,
)

Span = tuple[int, int]

_END = " \t,;:.!?，；：。！？、…"
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]")
_COMMA = re.compile("[,，;；]")
_HAN = re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True)
class EventSplit:
    """Where in `text` the events stand, in order of time, and the subject of both (an empty span where each has its own)."""

    text: str
    first: Span
    second: Span
    shared: Span = (0, 0)


def clauses(text: str) -> tuple[str, str] | None:
    """The event that happens first and the one that happens second; None where the text has no marker of order, or several."""
    split = _split(text)
    if split is None:
        return None
    subject = split.text[slice(*split.shared)]
    first, second = (_lowered(split.text[slice(*span)], span[0]) for span in (split.first, split.second))
    return subject + first, subject + second


def swapped(text: str) -> str | None:
    """The text with its two events exchanged: 'A then B' gives 'B then A'. None where it cannot be split so.

    `clauses` of the result are those of `text` the other way round, but for the case of letters.
    """
    split, events = _split(text), clauses(text)
    if split is None or events is None:
        return None
    (left, right) = sorted((split.first, split.second))
    parts = (
        split.text[: left[0]],
        _raised(split.text[slice(*right)], split.text, left[0]),
        split.text[left[1] : right[0]],
        _lowered(split.text[slice(*left)], left[0]),
        split.text[right[1] :],
    )
    result = "".join(parts)
    exchanged = clauses(result)
    if exchanged is None or [part.lower() for part in exchanged] != [part.lower() for part in events[::-1]]:
        return None
    return result


@lru_cache(maxsize=4096)
def _split(text: str) -> EventSplit | None:
    """The split of the text, by the rules of its script; a setting in front is tried first."""
    chinese = bool(_HAN.search(text))
    setting = (ZH_SETTING if chinese else EN_SETTING).match(text)
    starts = [0] if setting is None or (not chinese and _looks_like_a_clause(setting[0])) else [setting.end(), 0]
    for start in starts:
        split = _split_zh(text, start) if chinese else _split_en(text, start)
        if split is not None:
            return split
    return None


def _split_en(text: str, start: int) -> EventSplit | None:
    marker = _only_marker(_EN, text)
    if marker is None:
        return None
    kind, at, end = marker
    if at < start:
        return None
    before, after = _trimmed(text, start, at, joins=True), _trimmed(text, end, len(text))
    if kind in ("THEN", "FOLLOWED"):
        joined = before[1] < at - 1  # by a comma or by 'and'
        if not joined and not _ends_an_event(text[slice(*before)], text[slice(*after)]):
            return None
        if kind == "FOLLOWED" and _COMMA.search(text[slice(*after)]):
            return None
        if opener := _EN_OPENER.match(text, before[0]):
            before = (opener.end(), before[1])
        if re.search(r"(?<!\bthe )(?<!\ba )\bfirst\b", text[slice(*before)], re.I):
            return None  # 'a man first runs and then sits': the event would keep the word of its place
        return _if_whole(text, before, after)
    if before[0] == before[1]:  # 'after A, B'
        if len(commas := list(_COMMA.finditer(text, end))) != 1:
            return None
        subordinate, main = (
            _trimmed(text, end, commas[0].start()),
            _trimmed(text, commas[0].end(), len(text), leads=True),
        )
    else:  # 'B after A'
        if _COMMA.search(text, after[0], after[1]):
            return None
        subordinate, main = after, before
    if not _looks_like_a_clause(text[slice(*subordinate)]):
        return None
    return _if_whole(text, *((main, subordinate) if kind == "BEFORE" else (subordinate, main)))


def _split_zh(text: str, start: int) -> EventSplit | None:
    openers = list(_ZH_OPENER.finditer(text, start))
    if len(openers) > 1:
        return None
    opener = openers[0] if openers else None
    marker = _only_marker(_ZH if opener is None else _ZH_BEHIND_OPENER, text)
    if marker is None:
        return None
    kind, at, end = marker
    begin = opener.end() if opener else start
    if at < begin or (opener and kind == "SUFFIX_BEFORE"):
        return None
    before, after = _trimmed(text, begin, at), _trimmed(text, end, len(text))
    shared = _trimmed(text, start, opener.start()) if opener else (0, 0)
    if _COMMA.search(text[slice(*shared)]) or (kind != "THEN" and _COMMA.search(text[slice(*before)])):
        return None
    joined = opener is not None or before[1] < at or (kind != "THEN" and text[end : end + 1] in _END)
    if not joined and not ZH_ASPECT.search(text[slice(*before)]):
        return None  # '男人然后走开': what stands in front may be the subject
    first, second = (after, before) if kind == "SUFFIX_BEFORE" else (before, after)
    return _if_whole(text, first, second, shared)


def _if_whole(text: str, first: Span, second: Span, shared: Span = (0, 0)) -> EventSplit | None:
    """The split, where both events have words and neither runs over the end of a sentence."""
    for span in (first, second):
        words = text[slice(*span)]
        if not re.search(r"\w", words) or _SENTENCE_END.search(words):
            return None
    return EventSplit(text, first, second, shared)


def _only_marker(pattern: re.Pattern[str], text: str) -> tuple[str, int, int] | None:
    """Kind, start and end of the only marker; None where there is none, or more than one."""
    markers = [match for match in pattern.finditer(text) if match.lastgroup != "IDIOM"]
    if len(markers) != 1 or (kind := markers[0].lastgroup) is None or kind == "LAST":
        return None
    return kind, *markers[0].span()


def _trimmed(text: str, start: int, end: int, joins: bool = False, leads: bool = False) -> Span:
    """The span without punctuation and blanks at its ends; `joins`: without 'and' at its end; `leads`: at its start."""
    while start < end and text[start] in _END:
        start += 1
    while start < end and text[end - 1] in _END:
        end -= 1
    if joins and (match := re.search(r"(?:^|[\s,;.])(?:and|but)$", text[start:end], re.I)):
        return _trimmed(text, start, start + match.start())
    if leads and (match := re.match(r"(?:then|and)\s+", text[start:end], re.I)):
        return _trimmed(text, start + match.end(), end)
    return start, end


def _looks_like_a_clause(text: str) -> bool:
    """Whether an English phrase seems to say that something happens: a gerund in front, or a subject and a verb."""
    words = _words_of(text)
    if not words or words[0] in JOINERS or words[0] in PREPOSITIONS:
        return False
    if words[0] in PRONOUNS and len(words) > 1:
        return True
    if words[0].endswith("ing") and len(words[0]) > 4 and words[0] not in NOT_VERBS:
        return True
    return any(
        last not in MODIFIERS and last not in PREPOSITIONS and _looks_like_a_verb(word)
        for last, word in pairwise(words)
    )


def _looks_like_a_verb(word: str) -> bool:
    if word in NOT_VERBS:
        return False
    return word in VERBS or bool(VERB_FORM.search(word))


def _ends_an_event(before: str, after: str) -> bool:
    """Whether 'then' without a comma or 'and' stands between two events: not so in 'the man then walks' and 'is then seen'."""
    words, next_words = _words_of(before), _words_of(after)
    if not words or words[-1] in AUXILIARIES:
        return False
    if _looks_like_a_clause(before):
        return True
    names_only = not any(_looks_like_a_verb(word) for word in next_words)
    return names_only and (words[0] not in DETERMINERS | PRONOUNS or next_words[:1] == words[:1])


def _words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def _lowered(clause: str, start: int) -> str:
    """A clause from the start of a text, as it is written inside of one: 'A dog runs' -> 'a dog runs', 'Tom runs' as it is."""
    word = clause.split(" ", 1)[0]
    return clause[:1].lower() + clause[1:] if start == 0 and word.lower() in START_IS_LOWERED else clause


def _raised(clause: str, text: str, start: int) -> str:
    """A clause as it is written where `text` has its event at `start`: with a capital in front where the text begins so."""
    return clause[:1].upper() + clause[1:] if start == 0 and text[:1].isupper() else clause


def _compiled(markers: Markers, edge: str) -> re.Pattern[str]:
    return re.compile(
        "|".join(f"(?P<{kind}>{edge}(?:{'|'.join(parts)}){edge})" for kind, parts in markers.items()), re.I
    )


_EN, _ZH = _compiled(EN_MARKERS, r"\b"), _compiled(ZH_MARKERS, "")
_ZH_BEHIND_OPENER = _compiled(ZH_MARKERS | {"THEN": (*ZH_MARKERS["THEN"], *ZH_THEN_BEHIND_OPENER)}, "")
_EN_OPENER, _ZH_OPENER = re.compile(EN_OPENER, re.I), re.compile(ZH_OPENER)
