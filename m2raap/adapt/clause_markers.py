"""The words by which captions say which of two events comes first, in English and Chinese, as data for `clauses`."""

from __future__ import annotations

import re

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
        "(?:day|night|morning|week|year|moments?|minutes?|seconds?|hours?|days|soon|ever|long) after",
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


DETERMINERS = _words(
    """a an the this that these those his her its their my our your some each every another other two three four five six
    seven eight nine ten many several few both all no"""
)
MODIFIERS = DETERMINERS | _words(
    """red orange yellow green cyan blue purple pink white black brown grey gray small large big little long short tall old
    young new"""
)
PREPOSITIONS = _words("of in on at to from with by for over under into onto near behind between around")
PRONOUNS = _words("he she it they we i you who someone somebody everyone everybody")
# Of other words only those in -s count as verbs, and of the past tense only what is no participle:
# 'before a group of people talking' and 'before the car parked outside' are places.
VERBS = _words(
    """is are was were has have had does do did ran went fell came sat stood took got began ate drank threw broke rose sank
    flew swam drove rode wrote spoke sang shrank grew became enters covers discovers gathers lowers offers delivers answers
    hovers wanders scatters flutters staggers"""
)
NOT_VERBS = _words(
    """people evening morning building ceiling thing something nothing anything everything king ring wing spring string
    wedding painting others cameras lights hills mountains trees stairs steps gates doors windows crowds judges fans guests
    students kids spectators minutes seconds hours days weeks times always sometimes"""
)
JOINERS = _words("and or but then while as when if that which who than like")
AUXILIARIES = _words("is are was were be been being has have had can will would could may might must do does did to")
START_IS_LOWERED = MODIFIERS | PRONOUNS - {"i"}
ZH_ASPECT = re.compile("[了着过完起]")
VERB_FORM = re.compile(r"^(?!.*(?:ers|ors|ists|ments|ings|tions|sions|ians)$)..+(?<![sui'])s$")
