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

Span = tuple[int, int]

# Regular expressions by kind. X and Y stand for the events. Of kinds that fit at the same place the first one counts.
#   IDIOM          no marker, although it holds the words of one
#   LAST           a marker of one more event, so that the caption has no two events to split into
#   THEN           X then Y: X is first
#   FOLLOWED       X, followed by Y: X is first; 'a man, followed by a dog, walks' is none, by its second comma
#   BEFORE         X before Y; before Y, X: X is first
#   AFTER          Y after X; after X, Y: X is first
#   SUFFIX_AFTER   X之后，Y: X is first
#   SUFFIX_BEFORE  Y之前，X: X is first
Markers = dict[str, tuple[str, ...]]
EN_MARKERS: Markers = {
    "IDIOM": (
        "now and then", "(?:by|since|until|till|even|back|just) then", r"(?:more|less|other|rather|better)(?: \w+)? then",
        "(?:bigg|larg|small|fast|tall|strong|high|low|old|young|long|short|slow|bright|dark)er then", "if .* then", "next to",
        "after all", "(?:one|day|time|week|year|page) after (?:another|the other|day|time|week|year|page)",
        "(?:look|run|nam|chas|go|com|tak|reach|follow)(?:e|es|s|ed|d|ing)? after", "(?:ran|went|came|took|running|sought) after",
        "(?:before|after) (?:and|or|&) (?:after|before)", "(?:day|night|week|year|one|never|ever|as|than) before", "before long",
        "at once", "once (?:again|more|upon|a|in|every|or)", "(?:all|for|just|only|than) once",
    ),
    "LAST": ("finally", "lastly", "at last", "in the end", "eventually"),
    "THEN": (
        "then", "after (?:that|this|which)", "afterwards?", "subsequently",
        "(?<=[;,.] )(?:next|later(?: on)?)", "(?<= and )(?:next|later(?: on)?)",
    ),
    "FOLLOWED": ("(?<=, )followed by",),
    "BEFORE": ("(?:(?:just|shortly) )?before",),
    "AFTER": ("(?:(?:just|shortly|immediately) )?after", "once", "as soon as"),
}  # fmt: skip
ZH_MARKERS: Markers = {
    "IDIOM": (
        "再(?:见|次|也|度|说|现|生|一次|三)", "[不一]再", "[虽自当果显突忽仍]然后(?![，,])", "先生",
        "前[之以]?后", "[之以]前[和与或][之以]后", "[背身往向午幕今日赛门树墙桌山屋车]后", "后[面方退边背视院台翻腿脚排仰卫]",
        "[很好]久[之以][前后]", "不久[之以]前",
        "(?:镜头|观众|人群|屏幕|摄像机|镜子|大门|房子|窗户|舞台|众人)[之以]?[前后]",
        r"[几数半一二两三四五六七八九十\d]+个?(?:秒|分|小时|天|年|月|周|星期)钟?[之以]?[前后]",
    ),
    "LAST": ("最后", "最终", "终于"),
    "THEN": (
        "(?:然后|随后|随即|而后|再?后来|再然后|接下来|此后)[再又]?", "(?:在?[这那此]|不久|片刻|一会儿?)[之以]?后[再又]?",
        "(?<=[，,；;。])(?:紧?接着|[之以]后)[再又]?", "(?<=[，,；;])再",
    ),
    "SUFFIX_AFTER": ("[之以]后", "(?<![先最])后(?=[，,])"),
    "SUFFIX_BEFORE": ("[之以]前",),
}  # fmt: skip
# 'first A, then B': the opener is of the first event's place, and no marker alone.
EN_OPENER = r"(?:at )?first(?:ly)?,?\s+(?!man|woman|person|boy|girl|half|part|time|scene|shot|frame)"
ZH_OPENER = "(?<![首优领祖原预事率抢争])(?:首先是?|先是|先(?![生后进锋前驱知天例兆]))[，,]?"
ZH_THEN_BEHIND_OPENER = ("接着", "(?<![不一])再", "后")  # short words, which are markers only behind an opener

# A phrase in front that is true of both events: it stays where it is when they are exchanged.
EN_SETTING = re.compile(
    r"(?:on|in|at|against|inside|outside|near|under|over|during|within|behind|beside|along|here)\b[^,.;]*,\s*", re.I
)
ZH_SETTING = re.compile(r"(?:在[^，,。；;]{1,12}|[^，,。；;]{0,6}背景|视频|画面)[里中上下内前旁边][，,]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODIFIERS = _words(
    """a an the this that these those his her its their my our your some each every another other two three four five six
    seven eight nine ten many several few both all no red orange yellow green cyan blue purple pink white black brown grey
    gray small large big little long short tall old young new"""
)
_PREPOSITIONS = _words("of in on at to from with by for over under into onto near behind between around")
_PRONOUNS = _words("he she it they we i you who someone somebody everyone everybody")
_VERBS = _words(
    """is are was were has have had does do did ran went fell came sat stood left took got began ate drank threw caught
    broke rose sank flew swam drove rode wrote spoke sang spun shrank grew became cut put hit"""
)
_NOT_VERBS = _words(
    """people evening morning building ceiling thing something nothing anything everything king ring wing spring string
    wedding painting others cameras lights hills mountains trees stairs steps gates doors windows crowds judges fans guests
    students kids spectators minutes seconds hours days weeks times always sometimes perhaps red bed shed"""
)
_START_IS_LOWERED = _MODIFIERS | _PRONOUNS - {"i"}
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
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    if not words:
        return False
    if words[0] in _PRONOUNS and len(words) > 1:
        return True
    if words[0].endswith("ing") and len(words[0]) > 4 and words[0] not in _NOT_VERBS:
        return True
    return any(
        last not in _MODIFIERS and last not in _PREPOSITIONS and _looks_like_a_verb(word)
        for last, word in pairwise(words)
    )


def _looks_like_a_verb(word: str) -> bool:
    if word in _NOT_VERBS:
        return False
    return word in _VERBS or (len(word) > 3 and bool(re.search(r"(?:(?<![sui'])s|ed|ing)$", word)))


def _lowered(clause: str, start: int) -> str:
    """A clause from the start of a text, as it is written inside of one: 'A dog runs' -> 'a dog runs', 'Tom runs' as it is."""
    word = clause.split(" ", 1)[0]
    return clause[:1].lower() + clause[1:] if start == 0 and word.lower() in _START_IS_LOWERED else clause


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
