"""Texts that talk to a program instead of telling of a video: orders to a model, role tags, script, hidden characters.

Every kind of evidence has a weight, the chance that a caption which shows it is no caption; the score is the chance that
at least one of them is right. A word alone is no evidence ('ignore', 'system', a URL, a quote): orders have to be orders
(an imperative where a sentence begins, or said to a 'you') and to be about what models have (prompts, rules, answers).

What this finds is dropped before any model reads it. It is the first fence, not the only one: what gets past it still
stands as data in a field of its own, and answers are bound to a schema and to the fidelity gates.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from m2raap.curate import language, mojibake
from m2raap.curate.columns import LATIN, LINK_MARK, MARKUP, ODD, SLASH, Columns, HashSet, TextBatch

_MAX_CHARS = 4000  # a caption that only turns hostile after this is refused as too long


class Evidence(NamedTuple):
    name: str
    weight: float
    pattern: re.Pattern[str]


def _evidence(name: str, weight: float, pattern: str) -> Evidence:
    return Evidence(name, weight, re.compile(pattern.replace("~", r"(?:[^\w.!?\n]+\w+)")))


# ~ stands for a word in between. Patterns see lower case, simplified characters, no invisible characters.
_START = (
    r"(?:^|[.!?;:/>\[\]\n\"\u201c\u201d'(*#-]\s*|\b(?:please|kindly|now|just|then|must|should|shall|will|you|and|also|instead|"
    r"do not|don't|btw)[\s,]+)"
)
_ORDERS = (
    r"(?:instructions?|prompts?|rules?|guidelines?|polic(?:y|ies)|restrictions?|filters?|checks?|directives?|orders?|"
    r"commands?|constraints?|safety|ethics|moderation|context|conversations?|configuration)"
)
_MACHINE = r"(?:a\.?i\.?|llms?|language models?|chat ?gpt|gpt(?:-?\d)?|claude|gemini|captioner|rewriter|chat ?bots?)"
_HELPER = rf"(?:{_MACHINE}|assistants?|(?:captioning |rewriting )?models?|translator|bots?)"
_ENGLISH = (
    ("void the orders", 0.8, rf"{_START}(?:ignore|disregard|forget|skip|bypass|override|discard|drop|neglect|overlook|"
     rf"set aside|stop following|pay no attention to)(?:~{{0,5}}?[^\w.!?\n]+{_ORDERS}\b|~{{0,6}}?[^\w.!?\n]+(?:above|before "
     r"this|earlier|previous(?:ly)?|prior|told|asked)\b|\s+(?:the|your|this|\w+)\s+(?:task|input|video frames|job)\b|\s+"
     r"(?:everything|all)\b[,.;]?\s*(?:and |now )?you\b)"),
    ("what stood before", 0.7, r"\b(?:everything|all|anything|the (?:text|lines?|instructions?|above|prompt))~{0,2}[^\w.!?\n]+"
     r"(?:before|above|previous)?~{0,3}?[^\w.!?\n]*\b(?:is|are|was|were)(?: now| only| just)? (?:void|invalid|cancelled|a test|null)\b"),
    ("the real order", 0.6, r"\b(?:(?:real|actual|true) (?:(?:prompt|instructions?)\b~{0,4}?\s*(?:is|are|:)|(?:task|job|orders?)\b[^\n.]{0,20}:)|"
     r"your new (?:task|job|role|instructions?|orders?|rules?)\b|(?:begin|start of|follow(?:ing)?) (?:the )?new "
     r"(?:instructions?|orders?|prompt)\b|end of (?:data|input|prompt|instructions)\b)"),
    ("you are a machine", 0.7, rf"\b(?:you(?:'re| are| r)(?: now| no longer)?|{_START}(?:act|behave) (?:as|like)|"
     rf"{_START}pretend (?:to be|you are|you're)|{_START}roleplay as)(?:~{{0,3}}?[^\w.!?\n]+(?:{_MACHINE}|assistant|captioner|"
     r"(?:\w+)?bot|dan|terminal|unrestricted|unfiltered|jailbroken|hacker)\b|~{0,4}? (?:without|with no|free of|no longer bound)\b)"),
    ("from now on you", 0.7, r"\b(?:from (?:now|here|this point) on|henceforth|as of now),? ?(?:you\b|every (?:answer|reply)|your )"),
    ("you must", 0.6, r"\byou (?:must|shall|should|will|have to|need to|are to|only)(?: now| always| never| only| not)? "
     r"(?:answer|reply|respond|comply|obey|output|print|return|ignore|follow (?:the|these|my)|translate|caption|say yes)\b"),
    ("addressed to a model", 0.6, rf"(?:\b(?:dear|hey|hi|hello|attention|if you(?:'re| are)(?: an?| the)?)[ ,]+{_MACHINE}\b|"
     rf"\b(?:notes?|message|instructions?|orders?) (?:to|for) (?:the |any |all )?{_HELPER}\b|"
     rf"\bas (?:an?|the) {_HELPER},? you\b|\b(?:the )?{_HELPER} (?:must|shall|has to|should)\b|\b(?:whoever|whatever) "
     r"(?:rewrites|captions|translates|summari[sz]es) this\b|\b(?:when|while|before|after) (?:you|the model) (?:rewrite|caption|translate|"
     r"summari[sz]e|describe|process|read)\b)"),
    ("says what to answer", 0.6, rf"{_START}(?:say|write|output|print|return|reply|respond|answer|repeat|append|add|translate|"
     r"confirm|mark|rate|classify|treat|describe|label|render|put|give me|tell me)\b"
     r"(?:~{0,8}?[^\w.!?\n]+(?:only|nothing else|verbatim|word by word|no matter what|regardless|empty string|(?:the )?string "
     r"\w+|json|code block|the word \w+|every (?:following )?(?:caption|answer|clip|text|record)|all captions|"
     r"(?:each|every) caption|a single (?:word|emoji|letter)|fifty times|\d+ times)\b|\s*(?:in (?:french|german|japanese|spanish|chinese|"
     r"english|russian)|with(?: only)?[: ]+[\"'\u201c])|\s*:\s*[\"'\u201c]?\w+)"),
    ("asks for what is hidden", 0.8, r"\b(?:reveal|print|show|output|dump|repeat|tell me|give me|list|leak|what is|what's|expose|display|"
     r"send|put|write|paste|read out)\b~{0,7}?[^\w.!?\n]+(?:system prompt|hidden (?:prompt|configuration|rules|instructions)|"
     r"(?:your|the) (?:\w+ )?(?:prompt|instructions|configuration|api key|previous output|initial message)|api keys?|"
     r"(?:words|text|lines?|messages?) (?:above|that came before)|(?:the|your) password|whole prompt|first (?:user )?message)\b"),
    ("no more limits", 0.6, r"\b(?:(?:safety|content|security)(?: \w+)? (?:polic(?:y|ies)|guidelines?|rules?|filters?|checks?) (?:is|are|"
     r"has been|have been)(?: now)? (?:switched off|off|disabled|suspended|lifted|gone|void)|rules are (?:gone|off|void)|never refuses?|do "
     r"anything now|without any (?:restrictions?|filters?|limits?|rules?)|(?:system|security|admin|policy) override\b(?! switch)|"
     r"(?:you are|now|enter(?:ing)?|in) (?:in )?(?:maintenance|developer|debug|jailbreak|god) mode|broken out of (?:its|your|their) rules|"
     r"jailbreak (?:mode|prompt)|(?:unrestricted|unfiltered|god) (?:\w+ )?mode|\b(?:disable|override|bypass) (?:\w+ )?(?:safety|content|security) "
     r"(?:protocols?|filters?|polic(?:y|ies)|checks?)|turn off the \w+ (?:gate|filter|check))"),
    ("sets a field", 0.6, r"\b(?:set|override|update)\b.{0,12}\b(?:caption|confidence|label|score|approved)\s*=|\bconfidence\s*=\s*[01]\."),
    ("contradicts the rules", 0.6, r"\beven (?:when|if) (?:it|this|that) contradicts\b|\bcontradicts your\b"),
    ("sends data away", 0.6, rf"{_START}(?:send|email|post|upload|forward|exfiltrate)\b~{{1,8}}? ?\S*(?:@\w|://|\.com\b|endpoint\b|server\b)"),
    ("decode this", 0.7, r"\b(?:decode|base64|rot13|atob|unhex)\b(?=.*[a-z0-9+/]{16,}=*)"),
)  # fmt: skip
_ZH_START = r"(?:^|[。！？；，,：:“\"\s]|请|你|必须|应当|务必|并且?|然后|直接|立刻)"
_ZH_ORDERS = r"(?:指令|指示|提示|要求|规则|规定|设定|限制|约束|命令|任务|审核|检查|政策|过滤|安全机制)"
_ZH_MACHINE = r"(?:(?:大|语言|改写|翻译|字幕|生成)*模型|人工智能|chat ?gpt|机器人|(?<![a-z])(?:ai|dan)(?![a-z])|字幕助手)"
_CHINESE = (
    ("void the orders", 0.8, rf"{_ZH_START}(?:忽略|无视|忘记|忘掉|不要理会|不用管|别管|不必理会|抛开|跳过|停止遵守|不再遵守|禁用|关闭(?:你的)?安全|解除|绕过|撤销|推翻)(?!了)"
     rf"[^。！？]{{0,10}}?(?:{_ZH_ORDERS}|(?:之前|以上|上面|前面|上述|先前)(?:的?(?:所有|全部)?(?:内容|话|文字)|说))"),
    ("what stood before", 0.7, rf"(?:以上|上述|上面|前面|之前)[^。！？]{{0,6}}(?:{_ZH_ORDERS}|内容|文字)?[^。！？]{{0,3}}(?:作废|无效|都?是测试|不算数)"),
    ("the real order", 0.6, r"真正的(?:任务|指令|要求)是|你的新(?:任务|身份|指令|角色)|执行新(?:的)?(?:指令|任务)|新指令(?:是|如下|[:：])"),
    ("you are a machine", 0.7, rf"你(?:现在|从此|已经|将)?(?:是|不再是|变成|成为|扮演|进入)[^。！？]{{0,10}}(?:{_ZH_MACHINE}|助手|开发者模式|越狱|没有任何限制|不受限制)"),
    ("from now on you", 0.7, r"从(?:现在|此刻)(?:开始|起)[，,]?(?:你|请你|所有回答)"),
    ("you must", 0.6, r"你(?:必须|应当|应该|只需要?|只能|要)[^。！？]{0,12}?(?:回答|回复|输出|返回|服从|执行|翻译|说[“\"：:])"),
    ("play a part", 0.5, rf"{_ZH_START}扮演(?:我|一个(?:没有|不受)|{_ZH_MACHINE})"),
    ("addressed to a model", 0.6, rf"(?:给|致|亲爱的|如果你是|作为)(?:一个|所有)?{_ZH_MACHINE}(?:的提示|的话|[，,：:]|你|请)|"
     rf"{_ZH_MACHINE}(?:看到|读到)(?:这里|此处)|本条(?:字幕|记录|数据)不需要"),
    ("says what to answer", 0.6, rf"{_ZH_START}(?:只|仅|直接|一律|连续|改用[^。！？]{{1,4}}|用[^。！？]{{1,3}}语)(?:能|需要?)?"
     r"(?:回复|回答|输出|写|译为|返回|判为|标记为?|把这条)(?!下)|返回空|输出一个空|判为(?:通过|合格)|标记为(?:合格|通过)|"
     r"(?:不要|别|请不要)(?:描述|照原文|按原文|翻译(?:这|本))|改用[^。！？]{1,4}(?:回答|回复)|无论[^。！？]{0,8}(?:什么|如何|怎样)[^。！？]{0,4}都"
     r"(?:要|得|必须)?(?:写|说|译|输出|回)|(?:改写|翻译)(?:这句话|这条|字幕)?的?时候?[，,]?(?:请|在结尾|不要)|(?:回答|回复|每条字幕)的?(?:末尾|结尾|最后|开头)[^。！？]{0,3}(?:加|附|写)|一律译(?:为|成)|停止(?:翻译|描述|改写)"),
    ("asks for what is hidden", 0.8, r"(?:输出|告诉|发给|念出|列出|说出|写出|泄露|重复|复制|提取|公布|回答)[^。！？]{0,10}(?:系统提示|提示词|内部规则|密钥|密码|口令|"
     r"上面的?(?:全部|所有)文字|收到的第一)|[把将][^。！？]{0,10}(?:系统提示|提示词|密钥|密码|内部规则|所有字幕|第一段话)[^。！？]{0,12}(?:发|输出|告诉|念|放|说出|写出|列)"),
    ("no more limits", 0.6, r"安全(?:策略|规定|限制|政策)[^。！？]{0,4}(?:关闭|解除|取消)|忽略安全|越狱模式|没有任何限制的?(?:ai|人工智能|模型|助手)|从不拒绝|"
     r"(?:进入|切换到)(?:开发者|调试|维护|越狱)模式|不受任何(?:限制|约束)|照我说的做|跳过审核|最高优先级|我是(?:管理员|开发者|系统)[，,]"),
)  # fmt: skip
_SPEAKER = r"(?:system|user|human|assistant|ai|model|bot|系统|用户|人类|助手)"
_SHARED = (
    ("role tag", 0.9, rf"<\|[\w ]{{1,40}}\|>|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|</?s>\s*(?:\[|<)|</?(?:{_SPEAKER}|caption|input|"
     r"output|prompt|instructions?|(?:tool|function) call)\b[^<>]{0,80}>|\[/?(?:system|系统|developer|管理员|开发者)[^\[\]\s]{0,8}\]|"
     r"【(?:系统|管理员|开发者|system)[^】]{0,8}】"),
    ("role header", 0.8, rf"(?:^|\n)\s*#{{1,4}}\s*(?:{_SPEAKER}|instructions?|response|input|output)\b[^\n]{{0,16}}(?:\n|:|$)|"
     r"\b(?:begin|end) (?:of )?(?:the )?(?:system|developer|admin|user) (?:message|prompt)|[\"']?\brole[\"']?\s*[:=]\s*[\"']?(?:system|developer|"
     r"assistant|user|tool)\b"),
    ("a made-up talk", 0.8, rf"(?:^|[\s.。？！?!]){_SPEAKER}\s*[:：](?s:.){{0,200}}?[\s.。？！?!]{_SPEAKER}\s*[:：]"),
    ("a system's message", 0.6, r"(?:^|[.!?'\"]\s*)(?:system|系统)\s*[:：]|^\W*(?:important|attention|urgent|notice)\s*[:!].{0,60}\b(?:do not|don't|must|instead)\b"),
    ("script in a link", 0.9, r"\b(?:javascript|vbscript)\s*:|\bdata:\w+/[\w.+-]+[;,]|\bfile:///"),
    ("link in brackets", 0.6, r"!?\[[^\]]{0,80}\]\s*\(\s*(?:https?:|www\.|//|\w+:)"),
    ("link to an address without a name", 0.5, r"https?://(?:\d{1,3}\.){3}\d{1,3}"),
    ("go to this link", 0.6, r"\b(?:fetch|open|download|post|send|go to|visit|get|load|call|click|paste|execute|follow)\b.{0,60}?(?:https?://|www\.)\S++"
     r".{0,80}?\b(?:and|then|before|as a)\b|(?:打开|访问|下载|请求|发送到|获取|点击)\s*(?:https?://|www\.)|https?://[^\s\u4e00-\u9fff]++[^。]{0,6}"
     r"(?:按照|照|获取下一步)|https?://[^\s?]{0,200}\?\S{0,200}?[{}<>]"),
    ("leaks by link", 0.5, r"https?://[^\s?]{0,200}\?\S{0,200}?\b(?:leak|q|c|data|cookie|token|prompt|x)=(?:\{|system|[a-z_]{0,20}prompt|abc)"),
    ("script", 0.9, r"<\s*/?\s*(?:script|iframe|object|embed|style|link|meta|form|base|svg|math|applet)\b|<\?(?:php|=)|<%|<[a-z]+[^<>]{0,200}"
     r"[\s/]on[a-z]{3,20}\s*=|<!--|^\s*\[//\]:"),
    ("form or link of a page", 0.6, r"<a\s[^<>]{0,200}href|<(?:input|button|textarea)\s"),
    ("template", 0.8, r"\{\{.{1,200}?\}\}|\{%.{1,200}?%\}|\$\{[^{}]{1,200}\}|\$\([^()]{2,200}\)|`[^`]{2,80}`\s*;|#\{[^{}]{2,200}\}"),
    ("formula", 0.8, r"^\s*[=+@-]\s*(?:hyperlink|importxml|importdata|webservice|cmd\||dde)\b"),
    ("sql", 0.8, r"['\"]\s*\)?\s*;\s*(?:drop|delete|insert|update|truncate)\s+\w+|['\"]\s*union\s+(?:all\s+)?select\b"),
)  # fmt: skip
SHARED, ENGLISH, CHINESE = (tuple(_evidence(*row) for row in rows) for rows in (_SHARED, _ENGLISH, _CHINESE))

_LATIN = re.compile("[a-z]")

_ESCAPES = re.compile(r"[\x1b\x9b]\[?[0-9;?]{0,12}[A-Za-z]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_TURNED = re.compile("[\u202d\u202e]")
_EMBEDDED = re.compile("[\u202a-\u202c\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_INSIDE_WORDS = re.compile("(?<=\\w)[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]+(?=\\s?\\w)")
_FLAG_TAGS = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f")
_TAGS = re.compile("[\U000e0000-\U000e007f]")
_MIXED = re.compile(r"\b(?=\w*\d)(?=\w*[a-z])[a-z\d]{4,}\b")
_DIGITS_FOR_LETTERS = str.maketrans("013457", "oieast")
_SPACED = re.compile(r"\b(?:\w[.\-_* ]){4,}\w\b")
_MIN_SWAPPED = 6
# Words that orders to a model are made of; also the gate: a text with none of them needs no second look.
_CUES = (
    "ignore", "disregard", "forget", "bypass", "override", "discard", "neglect", "overlook", "instruction", "instructions",
    "instructed", "prompt", "prompts", "system", "assistant", "developer", "admin", "chatgpt", "gpt", "llm", "llms", "ai", "claude", "gemini", "captioner", "rewriter", "translator", "chatbot", "bot", "model",
    "models", "jailbreak", "restriction", "restrictions", "guideline", "guidelines", "policy", "policies", "rules", "rule", "output", "respond", "reply", "answer", "print", "repeat", "reveal", "pretend", "roleplay", "caption",
    "captions", "translate", "password", "configuration", "api", "confidence", "decode", "base64", "you", "your", "henceforth", "task", "string", "json", "void", "classify",
    "restrictions", "moderation", "verbatim", "whoever", "terminal", "important", "attention", "append", "rewrites", "commands", "human", "user", "role", "begin", "write", "say", "rate", "treat", "mark",
    "dan", "anything", "everything", "ethics", "mode", "safety", "conversations", "previous", "send", "email", "vbscript",
    "javascript",
)  # fmt: skip
_ZH_CUES = (
    "忽略", "无视", "忘记", "忘掉", "理会", "别管", "不用", "抛开", "跳过", "停止", "解除", "绕过", "撤销", "指令", "指示", "提示", "规则", "限制", "系统", "助手", "模型", "人工", "回复", "回答", "输出", "返回", "翻译",
    "改写", "扮演", "描述", "越狱", "模式", "管理", "开发", "测试", "作废", "密码", "密钥", "口令", "服从", "执行", "重复", "照我", "无论", "审核", "任务", "优先", "用户", "字幕", "通过", "译为", "告诉", "打开", "访问",
    "发送", "你现", "你是", "你不", "拒绝", "安全", "遵守", "禁用", "切换", "复制", "提取", "末尾", "结尾", "不受",
)  # fmt: skip


def hostile_score(batch: TextBatch) -> np.ndarray:
    """(N,) 0..1: the chance that a text is an order to a program or carries one."""
    raw, columns = batch.raw_columns, batch.columns
    suspects = raw.has(ODD | MARKUP) | raw.followed(SLASH, SLASH) | (raw.count(LINK_MARK) > 1)
    suspects |= _cued(columns) | _disguised(columns)
    found = np.zeros(batch.num)
    for at in np.flatnonzero(suspects).tolist():
        found[at] = hostility(batch.raw[at])
    return found


def hostility(text: str) -> float:
    """`hostile_score` of one text, as it came."""
    return 1.0 - float(np.prod([1.0 - weight for _, weight in evidence(text)]))


def evidence(text: str) -> list[tuple[str, float]]:
    """(name, weight) of everything in `text` that speaks for an order."""
    text = text[:_MAX_CHARS]
    plain = _plain(text)
    kinds = [SHARED, *([ENGLISH] if _LATIN.search(plain) else []), *([CHINESE] if language.HAN.search(plain) else [])]
    found = [(item.name, item.weight) for kind in kinds for item in kind if item.pattern.search(plain)]
    return found + _hidden_characters(text)


def _hidden_characters(text: str) -> list[tuple[str, float]]:
    if text.isascii() and text.isprintable():
        return []
    found = []
    if _ESCAPES.search(text) or _CONTROLS.search(text):
        found.append(("control characters", 0.8))
    if _TURNED.search(text):
        found.append(("text turned round", 0.8))
    if _EMBEDDED.search(text) and not _RIGHT_TO_LEFT.search(text):
        found.append(("embedded direction", 0.6))
    if len(_INSIDE_WORDS.findall(text)) >= 3:
        found.append(("invisible characters inside words", 0.7))
    if _TAGS.search(_FLAG_TAGS.sub("", text)):
        found.append(("tag characters", 0.9))
    return found


def _plain(text: str) -> str:
    """Lower case, simplified, without what cannot be seen, letters that stand apart put together, swapped ones put right."""
    text = unicodedata.normalize("NFKC", language.INVISIBLE.sub("", _TAGS.sub("", text))).lower()
    if not text.isascii():
        text = mojibake.to_simplified(text)
    text = _SPACED.sub(lambda m: re.sub(r"[.\-_* ]", "", m.group()), text).replace("_", " ")
    if len(_MIXED.findall(text)) >= 3:
        text = _MIXED.sub(lambda m: m.group().translate(_DIGITS_FOR_LETTERS), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return language.TOKEN.sub(lambda m: _unswapped().get(_bag(m.group()), m.group()), text)


def _bag(word: str) -> str:
    """Its letters in order of the alphabet, for words so long that letters swapped inside give no other word."""
    return "".join(sorted(word)) if len(word) >= _MIN_SWAPPED else ""


@lru_cache(maxsize=1)
def _unswapped() -> dict[str, str]:
    return {bag: word for word in _CUES if (bag := _bag(word))}


@lru_cache(maxsize=1)
def _cue_sets() -> tuple[HashSet, HashSet, HashSet]:
    bags = HashSet([Columns(list(_unswapped().values())).bag_T])
    simplified = list(_ZH_CUES)
    pairs = Columns(simplified + [mojibake.to_traditional(cue) for cue in simplified]).pair_T
    return HashSet.of_words(_CUES), bags, HashSet([pairs[pairs != 0]])


def _cued(columns: Columns) -> np.ndarray:
    """(N,) texts with a cue; of a long one the letters may stand in whatever order."""
    words, bags, pairs = _cue_sets()
    swapped = bags.holds(columns.bag_T) & (columns.length_T >= _MIN_SWAPPED)
    return columns.sum_T(words.holds(columns.hash_T) | swapped | pairs.holds(columns.pair_T)) > 0


def _disguised(columns: Columns) -> np.ndarray:
    """(N,) texts with four and more single letters, or three and more words that digits are mixed into."""
    letter = (columns.flags_T & LATIN) != 0
    return (columns.sum_T(letter & (columns.length_T == 1)) >= 4) | (columns.sum_T(columns.mixed_T) >= 3)
