"""The facts that a caption claims: numbers, negation, colours, names. They have the same form in both languages, so that a
text can be compared with its rewrite or its translation fact by fact.

They come from rules, not from a model. A word that may or may not be a fact ('second': a number?) can match a claim of the
other text, but is no claim itself.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

from m2raap.curate import language
from m2raap.curate.numbers import numbers_in

_NEGATION_EN = frozenset(
    {"no", "not", "never", "without", "nobody", "nothing", "none", "neither", "nor", "cannot", "cant", "dont", "isnt"}
)
_NEGATION_ZH = re.compile("没|沒|不|无|無|未|别|勿|非")
# Words in which the characters of _NEGATION_ZH negate nothing.
_NOT_NEGATION_ZH = re.compile(
    "不锈|不銹|不同|不断|不斷|不久|不停|不远|不遠|不少|不过|不過|不仅|不僅|不但|不管|不论|不論|不一样|不一|不时|不時|不住|不禁"
    "|不已|不知名|不错|不錯|不得不|不倒翁|不明|不规则|忍不|差不|来不及|无人机|無人機|无人驾驶|无线|無線|无数|無數|无论|無論|无比"
    "|无聊|無聊|无限|无缝|无袖|无尽|無盡|未来|未來|未婚|未知|非常|非洲|别墅|別墅|别人|別人|特别|特別|分别|分別|告别|告別|性别|性別"
    "|级别|识别|识別|辨别|区别|類別|类别|送别|个别|别针|沒收|没收|淹没|淹沒|沉没|出没|沒入|没入|沙漠|是非|除非|并非常|南非|北非|东非|西非"
)

_COLOURS: tuple[tuple[str, str, str], ...] = (
    ("red", "red reddish crimson scarlet maroon", "红紅赤"),
    ("orange", "orange", "橙橘"),
    ("yellow", "yellow golden gold blonde blond", "黄黃金"),
    ("green", "green greenish", "绿綠"),
    ("cyan", "cyan teal turquoise", "青"),
    ("blue", "blue bluish navy azure", "蓝藍"),
    ("purple", "purple violet lavender", "紫"),
    ("pink", "pink rosy", "粉"),
    ("white", "white", "白"),
    ("black", "black", "黑"),
    ("brown", "brown tan", "棕褐咖"),
    ("grey", "grey gray silver silvery", "灰银銀"),
)
_COLOUR_EN = {word: name for name, words, _ in _COLOURS for word in words.split()}
_COLOUR_ZH = {char: name for name, _, chars in _COLOURS for char in chars}
# Only before one of these characters is a colour character certainly a colour; 黄瓜, 白天, 金融 are no colours.
_COLOUR_AFTER = re.compile("[红紅赤橙橘黄黃绿綠青蓝藍紫粉白黑棕褐灰银銀金](?=[色衣裙裤褲帽发發毛底点點圆圓方星环環])")
# Where 'left' and 'right' are sides: "on the left", "right hand", "moves right"; not "left the room", "all right".
_SIDE_EN = re.compile(
    r"\b(?:to|from|on|at|in|towards?)\s+(?:(?:the|his|her|its|their|your|my)\s+)?(?:(?:far|upper|lower|top|bottom)\s+)?"
    r"(left|right)\b(?!\s+(?:away|now|after|before|in|at|here|there))"
    r"|\b(left|right)\s+(?:side|hand|arm|leg|foot|eye|ear|corner|half|turn|lane|wing|shoulder|knee|to\s+(?:left|right))\b"
    r"|\b(?:mov|turn|slid|glid|go|fly|fl|drift|shift|head|swing|walk|run|point|pan|look|fac|lean|step)\w*\s+(left|right)\b"
    r"|\b(left|right)wards?\b",
    re.IGNORECASE,
)

_NAME = re.compile(r"[A-Z][\w'’&.-]*[\w]|[A-Z]")
_SENTENCE_END = re.compile(r"[.!?:;\"“”(\[]\s*$")
_CODE = re.compile(r"\b(?=\w*[A-Za-z])(?=\w*\d)\w{2,}\b|\b[A-Z]{2,}\b|\b[a-z]+[A-Z]\w*\b")
_LATIN_IN_ZH = re.compile(r"[A-Za-z][A-Za-z'’.&-]*[A-Za-z]")
_QUOTED_ZH = re.compile("《([^》]{1,30})》")
_DOTTED_ZH = re.compile("[\u4e00-\u9fff]{1,6}[·•][\u4e00-\u9fff]{1,6}")
_NOT_NAMES = frozenset(
    {
        "i", "i'm", "i'll", "i've", "ok", "tv", "dj", "dvd", "cd", "pc", "3d", "2d", "hd", "uhd", "fps", "diy", "usa", "uk",
        "us", "eu", "am", "pm", "mr", "mrs", "ms", "dr", "st",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """`numbers`: claimed values. `maybe`, `maybe_colours`: what ambiguous words may stand for. `places`: names of the bilingual
    list; `names`: other names, lower case, as this language spells them. `words`: lower-case tokens, to look names up in."""

    numbers: frozenset[float] = frozenset()
    maybe: frozenset[float] = frozenset()
    negated: bool = False
    colours: frozenset[str] = frozenset()
    maybe_colours: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    words: frozenset[str] = field(default=frozenset(), repr=False)


def facts(text: str, lang: str) -> Facts:
    """Facts of a cleaned caption. Raises M2raapError for a language outside en, zh."""
    language.check_lang(lang)
    words = language.tokens(text.replace("-", " "))
    numbers, maybe = numbers_in(text, words)
    colours, maybe_colours = _colours(text, words)
    names = _names(text, lang)
    places = _places(text, words)
    return Facts(
        frozenset(numbers),
        frozenset(maybe),
        _negated(text, words),
        frozenset(colours),
        frozenset(maybe_colours),
        places,
        frozenset(names),
        frozenset({*words, *(n.lower() for n in _LATIN_IN_ZH.findall(text)), *_QUOTED_ZH.findall(text)}),
    )


def union(claims: list[Facts]) -> Facts:
    """What any of them claims or may claim."""
    join = lambda name: frozenset().union(*(getattr(f, name) for f in claims))  # noqa: E731
    sets = ("numbers", "maybe", "colours", "maybe_colours", "places", "names", "words")
    return Facts(**{name: join(name) for name in sets}, negated=any(f.negated for f in claims))


# -- negation, colours, sides ----------------------------------------------------------------------------------------


def _negated(text: str, words: list[str]) -> bool:
    if any(w in _NEGATION_EN or w.replace("’", "'").endswith("n't") for w in words):
        return True
    return _NEGATION_ZH.search(_NOT_NEGATION_ZH.sub(" ", text)) is not None


def _colours(text: str, words: list[str]) -> tuple[set[str], set[str]]:
    """(claimed, perhaps meant). Sides count as colours: 'left' swapped for 'right' is as wrong as red for blue."""
    sure = {_COLOUR_EN[w] for w in words if w in _COLOUR_EN}
    sure |= {_COLOUR_ZH[m.group()] for m in _COLOUR_AFTER.finditer(text)}
    maybe = {_COLOUR_ZH[c] for c in text if c in _COLOUR_ZH}
    sure |= {m.group(m.lastindex or 0).lower() for m in _SIDE_EN.finditer(text)}
    maybe |= {"left", "right"} & {w.removesuffix("s").removesuffix("ward") for w in words}
    for name, han in (("left", "左"), ("right", "右")):
        if han in text.replace("左右", ""):
            sure.add(name)
    return sure, maybe


# -- names ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _place_list() -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """(english form -> name, (chinese form, name) longest first)."""
    raw = resources.files("m2raap").joinpath("assets/words/places.tsv").read_text(encoding="utf-8")
    english: dict[str, str] = {}
    chinese: dict[str, str] = {}
    for line in raw.splitlines():
        if not line or line.startswith("#"):
            continue
        left, right = line.split("\t")
        name = left.split("|")[0]
        english |= dict.fromkeys(left.split("|"), name)
        chinese |= dict.fromkeys(right.split("|"), name)
    return english, tuple(sorted(chinese.items(), key=lambda pair: (-len(pair[0]), pair[0])))


_LOWER_CASE_WORDS = frozenset({"turkey", "easter", "santa", "trump", "alps", "arctic", "coke", "florence", "bali"})


def _places(text: str, words: list[str]) -> frozenset[str]:
    english, chinese = _place_list()
    places = set()
    for size in (1, 2):
        for at in range(len(words) - size + 1):
            form = " ".join(words[at : at + size])
            if form in english and (form not in _LOWER_CASE_WORDS or form.capitalize() in text):
                places.add(english[form])
    if language.HAN.search(text):
        rest = text.lower()
        for form, name in chinese:
            if form in rest:
                places.add(name)
                rest = rest.replace(form, " ")
    return frozenset(places)


def _names(text: str, lang: str) -> set[str]:
    """Names by their spelling: capitals inside an English sentence, codes, Latin words in Chinese, 《titles》, 约翰·史密斯."""
    names = {m.lower() for m in _CODE.findall(text)} if not text.isupper() else set()
    if lang == "zh" or language.HAN.search(text):
        names |= {m.lower() for m in _LATIN_IN_ZH.findall(text) if m[0].isupper()}
        names |= set(_QUOTED_ZH.findall(text)) | set(_DOTTED_ZH.findall(text))
    if lang == "en":
        names |= _capitals(text)
    return {name for name in names if name not in _NOT_NAMES and not name.isdigit()}


def _capitals(text: str) -> set[str]:
    """Capitalised words that do not begin a sentence; none for a text in Title Case or in capitals."""
    starts = lambda m: m.start() == 0 or _SENTENCE_END.search(text[: m.start()]) is not None  # noqa: E731
    capitalised = [m for m in _NAME.finditer(text) if not text[m.start() - 1 : m.start()].isalnum() and not starts(m)]
    inside = sum(word[:1].isalpha() for word in text.split()[1:])
    if not capitalised or (len(capitalised) > 0.6 * inside and inside > 2):
        return set()
    names = {m.group().lower().removesuffix("'s").removesuffix("’s") for m in capitalised}
    return {name.strip(".-&") for name in names if len(name) > 1}


# -- comparing ------------------------------------------------------------------------------------------------------


def number_faults(source: Facts, allowed: Facts, claimed: Facts) -> Counter[str]:
    """Numbers of `source` that `claimed` lost, and numbers of `claimed` that `allowed` does not hold."""
    faults: Counter[str] = Counter()
    for value in sorted(source.numbers - claimed.numbers - claimed.maybe):
        faults[f"lost {value:g}"] += 1
    for value in sorted(claimed.numbers - allowed.numbers - allowed.maybe):
        faults[f"invented {value:g}"] += 1
    return faults


def colour_faults(source: Facts, allowed: Facts, claimed: Facts) -> Counter[str]:
    """Colours and sides that are lost or invented; see `number_faults`."""
    lost = source.colours - claimed.colours - claimed.maybe_colours
    invented = claimed.colours - allowed.colours - allowed.maybe_colours
    return Counter([f"lost {c}" for c in sorted(lost)] + [f"invented {c}" for c in sorted(invented)])


def name_faults(source: Facts, allowed: Facts, claimed: Facts, translated_to: str | None) -> Counter[str]:
    """Names that are lost or invented; see `number_faults`. Of a translation (`translated_to`: its language) only names of the
    bilingual list, codes (X5) and, in Chinese, words in Latin letters are compared: no rule knows how John is spelled there."""
    lost, invented = source.places - claimed.places, claimed.places - allowed.places
    if translated_to is None:
        lost |= {n for n in source.names if not _holds(claimed, n)}
        invented |= {n for n in claimed.names if not _holds(allowed, n)}
    else:
        lost |= {n for n in source.names if _is_code(n) and not _holds(claimed, n)}
        invented |= {
            n
            for n in claimed.names
            if n.isascii() and (translated_to == "zh" or _is_code(n)) and not _holds(allowed, n)
        }
    return Counter([f"lost {n}" for n in sorted(lost)] + [f"invented {n}" for n in sorted(invented)])


def _holds(facts_: Facts, name: str) -> bool:
    parts = language.tokens(name.replace("-", " "))
    return name in facts_.names or name in facts_.words or all(part in facts_.words for part in parts)


def _is_code(name: str) -> bool:
    return name.isascii() and any(c.isdigit() for c in name) and any(c.isalpha() for c in name)
